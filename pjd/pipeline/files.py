"""Write files that appear whole or not at all; read tables and decoded runs."""

import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow.parquet import read_metadata


@contextmanager
def folder(path: Path) -> Iterator[Path]:
    """Yield a new folder that becomes ``path`` if the block succeeds, and is removed if not.

    What a killed block left behind is removed. Of several that write ``path`` at a time each has a
    folder of its own; the last to succeed stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # As mkdtemp names them: with eight letters.
    for left in path.parent.glob(f".{glob.escape(path.name)}.{'?' * 8}.partial"):
        remove_unless_held(left)
    partial = Path(tempfile.mkdtemp(".partial", f".{path.name}.", path.parent))
    # The system lifts the lock of a process that ended, however it did.
    held = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield partial
        shutil.rmtree(path, ignore_errors=True)
        # mkdtemp lets only its owner in, but everyone should read an output.
        partial.chmod(0o755)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(held)


def remove_unless_held(left: Path) -> None:
    """Remove a folder, unless a block of :func:`folder` writes to it now."""
    try:
        lock = os.open(left, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(left, ignore_errors=True)
    except BlockingIOError:
        return
    finally:
        os.close(lock)


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
    with told_if_damaged(path):
        return pd.read_parquet(path)


@contextmanager
def told_if_damaged(path: Path) -> Iterator[Path]:
    """Yield the path of a parquet table; if the block fails, raise what :func:`read_table` does."""
    if not path.exists():
        raise FileNotFoundError(f"no {path}: run `dvc repro`")
    try:
        yield path
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and run `dvc repro`") from error


@dataclass(frozen=True)
class Run:
    """A decoded run, as :func:`pjd.pipeline.runs.save` wrote it; docs/runs.md has every column.

    Its tables are read when they are asked for, once.

    Attributes:
        path: its folder.
        setting: that it belongs to, if any.
        model: that decoded it, see :func:`pjd.load`.
        weights: digest of that model's files; None: an older run, which does not know it.
        dtype: of the model's arithmetic.
        config: all options of the decoder, by name.
    """

    path: Path
    setting: str | None
    model: str
    weights: str | None
    dtype: str
    config: dict[str, Any]

    @cached_property
    def images(self) -> pd.DataFrame:
        """One row per image; raises what :func:`read_table` does."""
        return read_table(self.path / "decode" / "images.parquet")

    @cached_property
    def evaluated(self) -> pd.DataFrame:
        """What was measured, one row per image; raises what :func:`read_table` does."""
        return read_table(self.path / "evaluate" / "images.parquet")


def read_run(path: Path) -> Run:
    """Read the run whose folder is ``path``.

    Raises:
        FileNotFoundError: if it has not been decoded.
        ValueError: if the table of its images is damaged.
    """
    decoded = path / "decode"
    if not (decoded / "run.json").exists():
        raise FileNotFoundError(f"no run {decoded}: `dvc pull` or `dvc repro decode@{path.name}`")
    # The table itself is read later, perhaps when a large model has been loaded.
    with told_if_damaged(decoded / "images.parquet") as images:
        read_metadata(images)
    stamp = json.loads((decoded / "run.json").read_text())
    origin = stamp["setting"], stamp["model"], stamp.get("weights"), stamp["dtype"]
    return Run(path, *origin, stamp["config"])
