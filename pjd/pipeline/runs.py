"""Write a decoded run, and apart from it what differs between equal runs."""

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pjd.api import Result
from pjd.decoder.config import DecodeConfig
from pjd.decoder.grids import check_one_grid, several_grids
from pjd.decoder.model import ImageModel
from pjd.errors import ParameterError, check_choice, check_integer, check_text
from pjd.models.registry import (
    DEVICES,
    check_dtype,
    choose_device,
    default_dtype,
    official,
    resolve,
    weights_of,
)
from pjd.paths import PROVENANCE, ROOT, RUNS, WEIGHTS
from pjd.pipeline.files import Run, folder, read_run, write_json

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


def lasting_name(model: str) -> str:
    """What :func:`pjd.load` finds a model by, from any folder and at any time.

    Args:
        model: see :func:`pjd.models.registry.resolve`.

    Returns:
        Its name, if it is a folder of ``weights/``; else the absolute path of its folder.

    Raises:
        ParameterError: if there is no such model.
    """
    found = resolve(model)
    registered = WEIGHTS / found.name
    if registered.exists() and registered.samefile(found):
        return found.name
    return str(found.absolute())


def stamp_of(
    setting: str | None, model: str, dtype: str | None, config: DecodeConfig
) -> dict[str, Any]:
    """What ``run.json`` says of a run, before its model is loaded; docs/runs.md has every key.

    Args:
        setting: the setting that it belongs to, if any.
        model: see :func:`pjd.models.registry.resolve`.
        dtype: that is asked for; None: the model's own.
        config: the method and its options.

    Raises:
        ParameterError: if there is no such model.
        ValueError: if a file of the model is damaged.
    """
    return {
        "setting": setting,
        "model": lasting_name(model),
        "weights": weights_of(model),
        "dtype": dtype or default_dtype(model),
        "config": config.as_dict(),
    }


def check_same(run: str, stamp: dict[str, Any], table: pd.DataFrame) -> None:
    """Before a model is loaded: no finished run of anything else is overwritten.

    The same run may be decoded again. DVC removes what a stage wrote before it runs it anew.

    Args:
        run: its name.
        stamp: from :func:`stamp_of`.
        table: prompts, one row per image.

    Raises:
        ParameterError: naming what differs from the run of that name.
        ValueError: if a file of that run is damaged.
    """
    path = run_folder(run)
    # Without these two it is not finished, or was taken away.
    if not all((path / "decode" / file).exists() for file in ("run.json", "images.parquet")):
        return
    before = read_run(path)
    origin = {"setting": before.setting, "model": before.model, "dtype": before.dtype}
    # An older run does not know its weights.
    origin["weights"] = before.weights or stamp["weights"]
    there = {**origin, **before.config, "images": len(before.images)}
    here = {**{key: stamp[key] for key in origin}, **stamp["config"], "images": len(table)}
    different = [
        f"{key} {there.get(key)}, not {here.get(key)}"
        for key in there | here
        if there.get(key) != here.get(key)
    ]
    if there["images"] == here["images"] and list(before.images.prompt) != list(table.prompt):
        different.append("other prompts")
    if different:
        allowed = f"{path} has a finished run of something else ({'; '.join(different)}): "
        raise ParameterError("run", run, allowed + "give another name, or remove that folder")


def check_weights(run: str, decoded: Run) -> str:
    """The digest of the weights that a run's model has here, before they are loaded.

    Args:
        run: its name, for the error.
        decoded: from :func:`pjd.pipeline.files.read_run`. An older run does not know its weights:
            those that are here are taken.

    Raises:
        ParameterError: if the run was decoded with other weights, or its model is not here.
        ValueError: if a file of the model is damaged.
    """
    here = weights_of(decoded.model)
    if decoded.weights not in (None, here):
        allowed = (
            f"was decoded with the weights {decoded.weights} of {decoded.model}, and those in "
            f"{resolve(decoded.model)} are {here}: put the former there, or "
            "remove the run and decode it again"
        )
        raise ParameterError("run", run, allowed)
    return here


def save(
    run: str, stamp: dict[str, Any], result: Result, table: pd.DataFrame, model: ImageModel
) -> None:
    """Write a decoded run; docs/runs.md has every column.

    ``images.parquet``, ``trace.parquet``, ``depths.parquet``, ``lag.parquet``, ``run.json``: the
    same bytes whenever the same tokens are drawn. What differs then, such as the machine and the
    seconds, goes to ``provenance/``. What was measured on an earlier decode of that name goes.

    Args:
        run: its name, see :func:`run_folder`.
        stamp: from :func:`stamp_of`.
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
        write_json(partial / "run.json", stamp)
        # Before the codes that it was measured on are replaced: no kill leaves it beside others.
        shutil.rmtree(run_folder(run) / "evaluate", ignore_errors=True)
    seconds, per_image = result.seconds, result.seconds / len(table)
    write_json(PROVENANCE / f"{run}.json", provenance(seconds=seconds, seconds_per_image=per_image))


def column_tensor(column: pd.Series) -> torch.Tensor:
    """A column of lists in an ``images.parquet``, such as tokens, as int64 [images, R * C]."""
    return torch.from_numpy(np.stack(list(column))).long()
