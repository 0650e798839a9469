"""Folders of the project, found from the package's own location."""

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
