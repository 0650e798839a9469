"""The one tidy table of all runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pjd.measure.features import frechet
from pjd.measure.fidelity import bootstrap
from pjd.pipeline.files import read_table


def model_and_sampling(run: dict[str, Any]) -> tuple[Any, ...]:
    """What a run shares with its baseline: the model and the sampling options of ``run.json``."""
    options = ("guidance", "temperature", "top_k", "top_p")
    return run["model"], *(run["config"][option] for option in options)


def read_decoded(path: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """``run.json`` and ``images.parquet`` of a decoded run."""
    decode = path / "decode"
    return json.loads((decode / "run.json").read_text()), read_table(decode / "images.parquet")


def collect(runs: Path, names: list[str]) -> pd.DataFrame:
    """One row per run: steps, speed-up, fidelity and Frechet distances; see docs/runs.md.

    The baseline of a run is the first one in ``names`` with method ar and the same prompts, model,
    guidance, temperature, top-k and top-p. The gap is the mean log-likelihood of the decoded codes
    under the exact autoregressive model minus that of the baseline's codes for the same prompts,
    in nats per token, with a bootstrap interval over prompts. A run of the baseline with other
    seeds is the noise floor of every column.

    Args:
        runs: the folder of all runs.
        names: of the runs, such as "main/ar".

    Raises:
        ValueError: if a run has no baseline.
    """
    decodings = {name: read_decoded(runs / name) for name in names}
    baselines: dict[tuple[Any, ...], str] = {}
    for name, (stamp, decoded) in decodings.items():
        if stamp["config"]["method"] == "ar":
            baselines.setdefault((*model_and_sampling(stamp), *decoded.prompt), name)
    real = {
        json.loads(path.read_text())["model"]: path.parent
        for path in runs.glob("*/real/real.json")
        if (path.parent / "features.npy").exists()
    }

    def read_features(path: Path) -> torch.Tensor:
        """Features of the images of a folder."""
        return torch.from_numpy(np.load(path / "features.npy"))

    def acceptance(table: pd.DataFrame, *patches: str) -> float:
        """Share of tested drafts that was accepted; not a number if none was tested."""
        accepted = sum(table[f"accepted_{patch}"].sum() for patch in patches)
        tested = accepted + sum(table[f"rejected_{patch}"].sum() for patch in patches)
        return accepted / tested if tested else np.nan

    rows = []
    for name, (stamp, decoded) in decodings.items():
        config, shared = stamp["config"], (*model_and_sampling(stamp), *decoded.prompt)
        if shared not in baselines:
            raise ValueError(
                f"run {name}: no run with method ar has its prompts, model and sampling, "
                f"{model_and_sampling(stamp)}"
            )
        # Distances compare only at equal numbers of images. A run with other prompts than the
        # real pictures has another number.
        pictures = real.get(stamp["model"])
        if pictures and len(read_features(pictures)) != len(decoded):
            pictures = None
        path, evaluation = runs / name / "decode", runs / name / "evaluate"
        evaluated = read_table(evaluation / "images.parquet")
        baseline = runs / baselines[shared] / "evaluate"
        reference = read_table(baseline / "images.parquet")
        lag = read_table(path / "lag.parquet")
        trace = read_table(path / "trace.parquet")
        depths = read_table(path / "depths.parquet")
        own = read_features(evaluation)
        limited = max(1, trace.blocked.sum() + trace.rejected.sum())
        steps = bootstrap(decoded.steps)
        gap = bootstrap(evaluated.log_likelihood - reference.log_likelihood)
        n_codes = len(decoded.tokens[0])
        rows.append(
            {
                "run": name,
                "model": stamp["model"],
                "method": config["method"],
                "context": config["context"],
                "window": config["window"],
                "rows": config["rows"],
                "guidance": config["guidance"],
                "top_k": config["top_k"],
                "stand_in": config["stand_in"],
                "group_size": config["group_size"],
                "images": len(decoded),
                "codes": n_codes,
                "steps": steps.mean,
                "steps_low": steps.low,
                "steps_high": steps.high,
                "compression": decodings[baselines[shared]][1].steps.mean() / steps.mean,
                "tokens_per_step": decoded.fed.sum() / decoded.steps.sum(),
                "acceptance": acceptance(evaluated, "flat", "detail"),
                "acceptance_flat": acceptance(evaluated, "flat"),
                "acceptance_detail": acceptance(evaluated, "detail"),
                "flat_share": evaluated.flat.sum() / (len(evaluated) * n_codes),
                "nats": -evaluated.log_likelihood.mean(),
                "gap": gap.mean,
                "gap_low": gap.low,
                "gap_high": gap.high,
                "outside_top_k": evaluated.outside_top_k.mean(),
                "frechet_real": frechet(read_features(pictures), own) if pictures else np.nan,
                "frechet_ar": frechet(read_features(baseline), own),
                "mean_lag": np.average(lag.lag, weights=lag.codes) if len(lag) else np.nan,
                "blocked_share": trace.blocked.sum() / limited,
                "variation_first": depths.variation.iloc[0] if len(depths) else np.nan,
                "variation_last": depths.variation.iloc[-1] if len(depths) else np.nan,
            }
        )
    return pd.DataFrame(rows)
