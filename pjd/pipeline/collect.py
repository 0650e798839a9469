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


def sampling(run: dict[str, Any]) -> tuple[Any, ...]:
    """What a run shares with its baseline, from its ``run.json``: the model, and how it samples."""
    options = ("guidance", "temperature", "top_k", "top_p")
    return run["model"], *(run["config"][option] for option in options)


def read_decoded(path: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """``run.json`` and ``images.parquet`` of a decoded run."""
    decode = path / "decode"
    return json.loads((decode / "run.json").read_text()), read_table(decode / "images.parquet")


def collect(runs: Path, names: list[str]) -> pd.DataFrame:
    """One row a run of ``names`` below ``runs``: steps, speed-up, fidelity and Frechet distances.

    The baseline of a run is the first of ``names`` with method ar, the same prompts, model,
    guidance, temperature, top-k and top-p. Fidelity is the mean log-likelihood of the decoded
    codes under the exact autoregressive model minus that of the baseline's own samples for the
    same prompts, in nats a token; its interval is a bootstrap over prompts. A row of the baseline
    with other seeds is the noise floor of every column.

    Raises:
        ValueError: if a run has no baseline.
    """
    decodings = {name: read_decoded(runs / name) for name in names}
    baselines: dict[tuple[Any, ...], str] = {}
    for name, (stamp, decoded) in decodings.items():
        if stamp["config"]["method"] == "ar":
            baselines.setdefault((*sampling(stamp), *decoded.prompt), name)
    real = {
        json.loads(path.read_text())["model"]: path.parent
        for path in runs.glob("*/real/real.json")
        if (path.parent / "features.npy").exists()
    }

    def seen(path: Path) -> torch.Tensor:
        """Features of pictures."""
        return torch.from_numpy(np.load(path / "features.npy"))

    def passed(table: pd.DataFrame, *places: str) -> float:
        """Share of tested drafts that was accepted; not a number if none was tested."""
        accepted = sum(table[f"accepted_{place}"].sum() for place in places)
        tested = accepted + sum(table[f"rejected_{place}"].sum() for place in places)
        return accepted / tested if tested else np.nan

    rows = []
    for name, (stamp, decoded) in decodings.items():
        config, asked = stamp["config"], (*sampling(stamp), *decoded.prompt)
        if asked not in baselines:
            raise ValueError(
                f"run {name}: no run with method ar has its prompts, model and sampling, "
                f"{sampling(stamp)}"
            )
        # Distances compare at equal numbers only; other prompts than the pictures' have another.
        pictures = real.get(stamp["model"])
        if pictures and len(seen(pictures)) != len(decoded):
            pictures = None
        path, measured = runs / name / "decode", runs / name / "evaluate"
        evaluated = read_table(measured / "images.parquet")
        baseline = runs / baselines[asked] / "evaluate"
        reference = read_table(baseline / "images.parquet")
        lag = read_table(path / "lag.parquet")
        trace = read_table(path / "trace.parquet")
        depths = read_table(path / "depths.parquet")
        limited = max(1, trace.blocked.sum() + trace.rejected.sum())
        steps = bootstrap(decoded.steps)
        gap = bootstrap(evaluated.log_likelihood - reference.log_likelihood)
        total = len(decoded.tokens[0])
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
                "codes": total,
                "steps": steps.mean,
                "steps_low": steps.low,
                "steps_high": steps.high,
                "compression": decodings[baselines[asked]][1].steps.mean() / steps.mean,
                "tokens_per_step": decoded.fed.sum() / decoded.steps.sum(),
                "acceptance": passed(evaluated, "flat", "detail"),
                "acceptance_flat": passed(evaluated, "flat"),
                "acceptance_detail": passed(evaluated, "detail"),
                "flat_share": evaluated.flat.sum() / (len(evaluated) * total),
                "nats": -evaluated.log_likelihood.mean(),
                "gap": gap.mean,
                "gap_low": gap.low,
                "gap_high": gap.high,
                "outside_top_k": evaluated.outside_top_k.mean(),
                "frechet_real": frechet(seen(pictures), seen(measured)) if pictures else np.nan,
                "frechet_ar": frechet(seen(baseline), seen(measured)),
                "mean_lag": np.average(lag.lag, weights=lag.codes) if len(lag) else np.nan,
                "blocked_share": trace.blocked.sum() / limited,
                "variation_first": depths.variation.iloc[0] if len(depths) else np.nan,
                "variation_last": depths.variation.iloc[-1] if len(depths) else np.nan,
            }
        )
    return pd.DataFrame(rows)
