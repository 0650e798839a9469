"""Scores of runs on the networks that published numbers are on, for table 3."""

from pathlib import Path

import pandas as pd

from pjd.api import pixels
from pjd.decoder.model import ImageModel
from pjd.errors import ParameterError
from pjd.measure.features import frechet
from pjd.measure.published import clip_score, inception
from pjd.measure.quality import inception_score, kernel_distance
from pjd.paths import RUNS
from pjd.pipeline.evaluate import deviation, pictures_of
from pjd.pipeline.files import read_run
from pjd.pipeline.runs import column_tensor
from pjd.pipeline.settings import Setting


def published_scores(
    model: ImageModel,
    setting: Setting,
    runs: list[str],
    weights: Path | None,
    clip: Path | None,
) -> pd.DataFrame:
    """FID, KID, IS and the CLIP score, on the networks that published numbers are on.

    Args:
        model: the model that decoded the runs.
        setting: of the runs.
        runs: their names.
        weights: file of Inception's weights; None: no FID, KID and IS.
        clip: folder of a CLIP; None: no CLIP score.

    Returns:
        One row per run: run, and the scores as texts, with one standard deviation.

    Raises:
        FileNotFoundError: if the weights, or pictures to compare with, are missing.
        ParameterError: if the prompts describe no pictures, or torch-fidelity is not installed.
    """
    rows, real = [], None
    for run in runs:
        table = read_run(RUNS / run).images
        decoded = pixels(model, column_tensor(table.tokens))
        row: dict[str, str] = {"run": run}
        if weights is not None:
            if real is None:
                pictured = pictures_of(setting, model, decoded.shape[1])
                if pictured is None:
                    allowed = "needs prompts that describe pictures: docs/prompts.md"
                    raise ParameterError("inception", str(weights), allowed)
                real = inception(pictured, weights, "2048")
            own = inception(decoded, weights, "2048")
            distance = kernel_distance(real, own)
            variety = inception_score(inception(decoded, weights, "logits_unbiased"))
            row["FID"] = f"{frechet(real, own):.1f}"
            row["KID x 1000"] = f"{1000 * distance.mean:.1f} ± {1000 * deviation(distance):.1f}"
            row["IS"] = f"{variety.mean:.2f} ± {deviation(variety):.2f}"
        if clip is not None:
            row["CLIP score"] = f"{clip_score(decoded, list(table.prompt), clip):.2f}"
        rows.append(row)
    return pd.DataFrame(rows)
