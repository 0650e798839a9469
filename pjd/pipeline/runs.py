"""Write a decoded run, and apart from it what differs between equal runs."""

import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pjd.api import Result
from pjd.decoder.grids import check_one_grid, several_grids
from pjd.decoder.model import ImageModel
from pjd.errors import ParameterError, check_choice, check_integer, check_text
from pjd.models.registry import DEVICES, check_dtype, choose_device, official, resolve
from pjd.paths import PROVENANCE, ROOT, RUNS
from pjd.pipeline.files import folder, write_json

RUN = re.compile(r"[A-Za-z0-9_][\w.-]{0,99}", re.ASCII)
"""A name of a run: one folder, which stays below ``runs/`` and can be written anywhere."""


def run_folder(run: object) -> Path:
    """The folder of a run.

    Raises:
        ParameterError: if its name is no text, or would lead out of ``runs/``.
    """
    if not isinstance(run, str) or not RUN.fullmatch(run):
        allowed = "must be a folder below runs/, of letters, digits, _ . and -, such as pjd-4"
        raise ParameterError("run", run, allowed)
    return RUNS / run


def set_threads(threads: int) -> None:
    """Compute with as many threads of the CPU.

    Raises:
        ParameterError: if it is not an integer from 1 to 1024.
    """
    check_integer("threads", threads, 1, 1024)
    torch.set_num_threads(threads)


def check_machine(model: str, batch_size: int, device: str, dtype: str | None) -> None:
    """Check what a notebook computes with, before it loads a model.

    Raises:
        ParameterError: naming the parameter, its value and what is allowed.
    """
    check_text("model", model)
    check_integer("batch_size", batch_size, 1)
    check_dtype(dtype)
    check_choice("device", device, DEVICES)
    choose_device(device)
    resolve(model)
    checkpoint = official(model)
    if checkpoint is not None and checkpoint.grids > 1:
        raise several_grids(model, "a run")


def provenance(**more: Any) -> dict[str, Any]:
    """Where a result comes from: commit, versions and machine; and ``more``."""
    command = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {
        "commit": commit or "unknown",
        **{name: version(name) for name in ("torch", "transformers", "torchmetrics")},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        **more,
    }


def save(
    run: str, setting: str | None, result: Result, table: pd.DataFrame, model: ImageModel
) -> None:
    """Write a decoded run; docs/runs.md has every column.

    ``images.parquet``, ``trace.parquet``, ``depths.parquet``, ``lag.parquet``, ``run.json``: the
    same bytes whenever the same tokens are drawn. What differs then, such as the machine and the
    seconds, goes to ``provenance/``.

    Args:
        run: its name, see :func:`run_folder`.
        setting: the setting that it belongs to, if any.
        result: from :func:`pjd.generate`.
        table: prompts and their groups, one row per image.
        model: the model that decoded it.

    Raises:
        ParameterError: see :func:`run_folder`; or if the model has several grids.
    """
    check_one_grid(model, "a saved run")
    accepted, rejected = (
        model.grid.without_row_ends(part).flatten(1) for part in result.trace.tested
    )
    with folder(run_folder(run) / "decode") as partial:
        images = table.assign(
            steps=result.steps.numpy(),
            fed=result.trace.fed.long().sum(0).numpy(),
            drafted=result.trace.drafted.long().sum((0, 2)).numpy(),
            accepted=result.trace.accepted.long().sum((0, 2)).numpy(),
            tokens=list(result.tokens.to(torch.int32).numpy()),
            accepted_at=list(accepted.to(torch.int16).numpy()),
            rejected_at=list(rejected.to(torch.int16).numpy()),
        )
        images.to_parquet(partial / "images.parquet", index=False)
        result.trace.table().to_parquet(partial / "trace.parquet", index=False)
        lag = result.trace.lag.flatten()
        counts = torch.bincount(lag.clamp(min=0)) if len(lag) else torch.zeros(0)
        lags = pd.DataFrame({"lag": np.arange(len(counts)), "codes": counts.numpy()})
        lags.to_parquet(partial / "lag.parquet", index=False)
        result.trace.depths.to_parquet(partial / "depths.parquet", index=False)
        content = {"setting": setting, "model": model.name, "config": result.config.as_dict()}
        content["dtype"] = str(model.dtype).removeprefix("torch.")
        write_json(partial / "run.json", content)
    seconds, per_image = result.seconds, result.seconds / len(table)
    write_json(PROVENANCE / f"{run}.json", provenance(seconds=seconds, seconds_per_image=per_image))


def column_tensor(column: pd.Series) -> torch.Tensor:
    """A column of lists in an ``images.parquet``, such as tokens, as int64 [images, R * C]."""
    return torch.from_numpy(np.stack(list(column))).long()
