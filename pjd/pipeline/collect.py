"""The one tidy table of all runs."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pjd.errors import ParameterError
from pjd.measure.fidelity import bootstrap
from pjd.measure.retrieval import shares_found
from pjd.pipeline.files import Run, read_run, read_table
from pjd.pipeline.settings import SAMPLING

OPTIONS = ("method", "context", "window", "rows", "guidance", "top_k", "stand_in", "group_size")
"""Options of the decoder that the table has."""


def acceptance(table: pd.DataFrame, *patches: str) -> float:
    """Share of tested drafts that was accepted; not a number if none was tested."""
    accepted = sum(table[f"accepted_{patch}"].sum() for patch in patches)
    tested = accepted + sum(table[f"rejected_{patch}"].sum() for patch in patches)
    return accepted / tested if tested else np.nan


def collect(runs: Path, planned: pd.DataFrame, settings: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row per run: steps, speed-up, fidelity and Frechet distances; see docs/runs.md.

    The gap is the mean log-likelihood of the decoded codes under the exact autoregressive model
    minus that of the baseline's codes for the same prompts, in nats per token, with a bootstrap
    interval over prompts. A run of the baseline with other seeds is the noise floor of every
    column.

    Args:
        runs: the folder of all runs.
        planned: by name of the run, its ``group``, ``setting`` and ``options``.
        settings: those of params.yaml, by name.

    Raises:
        ParameterError: if a run is not what is planned, or was measured on other images.
        FileNotFoundError: if one has not been decoded or measured.
        ValueError: if a file of one is damaged.
    """
    # Each is read once, baselines too.
    read = cache(lambda name: read_run(runs / name))
    for name, plan in planned.iterrows():
        check_planned(read(name), plan.setting, settings[plan.setting], plan.options)
    rows = [
        {"run": name, "group": plan.group, "setting": plan.setting}
        | measured(read(name), read(settings[plan.setting]["ar"]))
        for name, plan in planned.iterrows()
    ]
    return pd.DataFrame(rows)


def check_planned(run: Run, setting: str, shared: dict[str, Any], options: dict[str, Any]) -> None:
    """Check that a run is what params.yaml plans, and that what was measured is of all its images.

    Args:
        run: the run.
        setting: the name of its setting.
        shared: what that setting says.
        options: of the run.

    Raises:
        ParameterError: naming the run and what differs.
    """
    name = run.path.name
    there = {"setting": run.setting, "model": run.model, "images": len(run.images)}
    there |= {"dtype": run.dtype, **run.config}
    wanted = {"setting": setting, **shared, **options}
    # The others are no part of a run, such as batch_size.
    compared = ("setting", "model", "images", *SAMPLING, *options)
    different = [
        f"{key} {there[key]}, not {wanted[key]}"
        for key in dict.fromkeys(compared)
        if key in wanted and key in there and there[key] != wanted[key]
    ]
    if different:
        allowed = f"is not what params.yaml plans ({'; '.join(different)}): remove {run.path}, and "
        raise ParameterError("run", name, allowed + f"`dvc repro evaluate@{name}`")
    if len(run.evaluated) != len(run.images):
        allowed = (
            f"has {len(run.images)} images, and {len(run.evaluated)} were measured: remove "
            f"{run.path / 'evaluate'}, and `dvc repro evaluate@{name}`"
        )
        raise ParameterError("run", name, allowed)


def measured(run: Run, baseline: Run) -> dict[str, object]:
    """What the table says of a run, beside its baseline."""
    decoded, evaluated = run.images, run.evaluated
    trace, lag, depths = (
        read_table(run.path / "decode" / f"{name}.parquet") for name in ("trace", "lag", "depths")
    )
    distances = json.loads((run.path / "evaluate" / "distances.json").read_text())
    limited = max(1, trace.blocked.sum() + trace.rejected.sum())
    steps = bootstrap(decoded.steps)
    gap = bootstrap(evaluated.log_likelihood - baseline.evaluated.log_likelihood)
    n_codes = len(decoded.tokens[0])
    return {
        "model": run.model,
        **{option: run.config[option] for option in OPTIONS},
        "images": len(decoded),
        "codes": n_codes,
        "steps": steps.mean,
        "steps_low": steps.low,
        "steps_high": steps.high,
        "compression": baseline.images.steps.mean() / steps.mean,
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
        **distances,
        **shares_found(evaluated.caption_rank.to_numpy()),
        "mean_lag": np.average(lag.lag, weights=lag.codes) if len(lag) else np.nan,
        "blocked_share": trace.blocked.sum() / limited,
        "variation_first": depths.variation.iloc[0] if len(depths) else np.nan,
        "variation_last": depths.variation.iloc[-1] if len(depths) else np.nan,
    }
