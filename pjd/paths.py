"""Folders of the project, found from the package's own location."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
DATA = ROOT / "data" / "emoji"
WEIGHTS = ROOT / "weights"
RUNS = ROOT / "runs"
TIMINGS = ROOT / "timings"
RESULTS = ROOT / "results"
FIGURES = ROOT / "figures"
REPORTS = ROOT / "reports"
