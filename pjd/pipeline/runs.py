"""What the pipeline's stages hand on: one folder a run, written atomically."""

import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from pjd.api import Result
from pjd.decoder.config import DecodeConfig
from pjd.decoder.model import ImageModel
from pjd.paths import ROOT, RUNS, TIMINGS


@contextmanager
def folder(path: Path) -> Iterator[Path]:
    """A folder that appears at ``path`` whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(".partial", f".{path.name}.", path.parent))
    try:
        yield partial
        shutil.rmtree(path, ignore_errors=True)
        # mkdtemp keeps others out; an output is for everyone to read.
        partial.chmod(0o755)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON with sorted keys, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    os.replace(partial, path)


def read_table(path: Path) -> pd.DataFrame:
    """Read a parquet table.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it is damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"no {path}: run `dvc repro`")
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and run `dvc repro`") from error


def stamp(config: DecodeConfig | None = None, **extra: Any) -> dict[str, Any]:
    """Provenance of a result: commit, versions, machine, and the options that ran."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip()

    result: dict[str, Any] = {
        "commit": git("rev-parse", "HEAD") or "unknown",
        "versions": {name: version(name) for name in ("torch", "transformers", "torchmetrics")},
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        **extra,
    }
    if config is not None:
        result |= {"config": config.as_dict(), "config_digest": config.digest}
    return result


def parameters() -> dict[str, Any]:
    """The pipeline's parameters, params.yaml."""
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def lay_over(profile: Path, parameters: Path) -> list[str]:
    """Put the values of a profile in the place of those in ``parameters``; comments stay.

    Returns:
        The keys that the profile has.

    Raises:
        FileNotFoundError: if there is no such profile.
        ValueError: if it has a key that ``parameters`` lacks.
    """
    from dvc.utils.serialize import modify_yaml

    if not profile.exists():
        known = ", ".join(sorted(path.stem for path in profile.parent.glob("*.yaml")))
        raise FileNotFoundError(f"no profile {profile.stem}: there are {known}")
    values = yaml.safe_load(profile.read_text())
    with modify_yaml(parameters) as present:
        unknown = sorted(set(values) - set(present))
        if unknown:
            raise ValueError(f"{profile}: {parameters.name} has no {', '.join(unknown)}")
        present.update(values)
    return list(values)


def planned(sweeps: bool = False) -> list[str]:
    """Names of the runs that params.yaml asks for: the main ones and, if wanted, the sweeps'."""
    chosen = parameters()
    names = [*chosen["baselines"], *(f"context-{context}" for context in chosen["contexts"])]
    more = [f"{item['group']}/{name}" for name, item in chosen["sweeps"].items()]
    more += [f"{item['model']}/{item['run']}" for item in chosen["other_runs"].values()]
    return [f"main/{name}" for name in names] + (more if sweeps else [])


def save(run: str, result: Result, table: pd.DataFrame, model: ImageModel) -> None:
    """Write a decoded run; docs/runs.md has every column.

    ``images.parquet``, ``trace.parquet``, ``depths.parquet``, ``lag.parquet``, ``run.json``.
    Wall-clock, which differs between equal runs, goes to ``timings/``.

    Args:
        run: its name, a folder below ``runs/``.
        result: from :func:`pjd.generate`.
        table: prompts, one row an image.
        model: that decoded it.
    """
    grid = model.grid
    # Decoders on the raster have places for forced row-end tokens too.
    accepted, rejected = (
        part.unflatten(1, (grid.rows, -1))[..., : grid.columns].flatten(1)
        for part in result.trace.tested
    )
    with folder(RUNS / run / "decode") as partial:
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
        arithmetic = str(model.dtype).removeprefix("torch.")
        write_json(partial / "run.json", stamp(result.config, model=model.name, dtype=arithmetic))
    write_json(
        TIMINGS / f"{run}.json",
        {"seconds": result.seconds, "images": len(table), "per_image": result.seconds / len(table)},
    )


def codes(column: pd.Series) -> torch.Tensor:
    """A column of lists of an ``images.parquet``, such as tokens, as int64 [images, R * C]."""
    return torch.from_numpy(np.stack(list(column))).long()
