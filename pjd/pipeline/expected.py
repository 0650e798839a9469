"""Compare what ran with the committed results, with tolerances from the noise of the runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pjd.paths import RESULTS, ROOT
from pjd.pipeline.files import read_table, write_json

EXPECTED = ROOT / "expected.json"
MEASURES = {"steps": "forward passes per image", "gap": "nats per token against AR"}
"""Columns that are compared, and their units."""


def tolerance(low: float, high: float) -> float:
    """Three standard deviations of the difference of two runs with such a 95 % interval.

    Another machine rounds differently, so it draws other codes from the same distributions: its
    result is another sample.
    """
    return 3 * 2**0.5 * (high - low) / (2 * 1.96)


CLAIMED = ("main", "comparison", "models")
"""Groups of runs that are compared; no claim rests on an ablation alone."""


def read_results(results: Path) -> pd.DataFrame:
    """The runs that are compared: the main ones, those of all methods and of other models."""
    table = read_table(results / "runs.parquet")
    return table[table.group.isin(CLAIMED)]


def expectation(table: pd.DataFrame, model: str) -> dict[str, Any]:
    """The values and tolerances that a later run should find.

    Args:
        table: from :func:`read_results`.
        model: name of the main runs' model.
    """
    runs = {
        row["run"]: {
            "images": int(row["images"]),
            **{
                name: {
                    "value": round(float(row[name]), 6),
                    "tolerance": round(tolerance(row[f"{name}_low"], row[f"{name}_high"]), 4),
                }
                for name in MEASURES
            },
        }
        for row in table.to_dict("records")
    }
    return {"model": model, "runs": runs}


def compare(table: pd.DataFrame, model: str, expected: dict[str, Any]) -> pd.DataFrame:
    """One row per claim: run, measure, measured, expected, tolerance, verdict.

    Raises:
        ValueError: if ``expected`` is about another model, or another number of images of a run.
    """
    if model != expected["model"]:
        raise ValueError(
            f"expected.json is about {expected['model']}, and the main runs here are of {model}: "
            "nothing to compare"
        )
    measured = table.set_index("run")
    for run, images in measured.images.items():
        claimed = expected["runs"].get(run, {"images": images})["images"]
        if images != claimed:
            raise ValueError(
                f"expected.json is about {claimed} images of the run {run}, which has {images} "
                "here: nothing to compare"
            )
    rows = []
    # In the order of the table, which is that of params.yaml.
    place = {run: number for number, run in enumerate(measured.index)}
    for run in sorted(expected["runs"], key=lambda run: place.get(run, len(place))):
        claims = expected["runs"][run]
        for name in MEASURES:
            claim = claims[name]
            value = float(measured[name][run]) if run in measured.index else np.nan
            good = abs(value - claim["value"]) <= claim["tolerance"] + 1e-9
            rows.append(
                {
                    "run": run,
                    "measure": f"{name}, {MEASURES[name]}",
                    "measured": round(value, 3),
                    "expected": round(claim["value"], 3),
                    "tolerance": claim["tolerance"],
                    "verdict": "missing" if np.isnan(value) else "as expected" if good else "FAILS",
                }
            )
    return pd.DataFrame(rows)


def check_reproduction(
    results: Path = RESULTS, expected: Path = EXPECTED, write: bool = False
) -> pd.DataFrame:
    """Compare the table in ``results`` with the file ``expected``.

    Args:
        results: folder of the collected table.
        expected: the file of claims.
        write: first write this run's values to ``expected``.

    Returns:
        The table of :func:`compare`.

    Raises:
        FileNotFoundError: if there is no run, or no file of claims.
        ValueError: if the two are about different models or numbers of images.
    """
    table = read_results(results)
    model = table.model.iloc[0]
    if write:
        write_json(expected, expectation(table, model))
    if not expected.exists():
        raise FileNotFoundError(f"no {expected}: `pjd verify --write` makes it from this run")
    return compare(table, model, json.loads(expected.read_text()))
