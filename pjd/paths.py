"""Folders of the project, found from the package's own location; files that appear whole."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
DATA = ROOT / "data" / "emoji"
WEIGHTS = ROOT / "weights"
RUNS = ROOT / "runs"
PROVENANCE = ROOT / "provenance"
RESULTS = ROOT / "results"
SETTINGS = RESULTS / "settings"
BASELINES = RESULTS / "baselines"
FIGURES = ROOT / "figures"
REPORTS = ROOT / "reports"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name beside ``path``, no one else's, for a file that becomes ``path`` when whole.

    If the block fails, or writes nothing, ``path`` stays as it was.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield partial
        if partial.exists():
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
