import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from pjd.cli import app
from pjd.pipeline.expected import check_reproduction, compare, expectation


def table(images: int = 512) -> pd.DataFrame:
    """Two runs: AR exactly 256 steps, PJD 70 with an interval of 2."""
    return pd.DataFrame(
        {
            "run": ["ar", "pjd-4"],
            "model": "emoji-64",
            "group": "main",
            "images": images,
            "steps": [256.0, 70.0],
            "steps_low": [256.0, 69.0],
            "steps_high": [256.0, 71.0],
            "gap": [0.0, -0.3],
            "gap_low": [0.0, -0.35],
            "gap_high": [0.0, -0.25],
        }
    )


def test_a_run_is_what_it_made_expected():
    expected = expectation(table(), "emoji-64")
    lines = compare(table(), "emoji-64", expected)
    assert len(lines) == 4 and (lines.verdict == "as expected").all()


@pytest.mark.parametrize(
    ("run", "shift", "outcome"),
    [(0, 0.01, "FAILS"), (1, 2.1, "as expected"), (1, 2.3, "FAILS"), (1, np.nan, "missing")],
)
def test_tolerance_is_three_deviations_of_a_difference(run, shift, outcome):
    # An interval of 2 is a deviation of 0.51; of a difference 0.72; three of them 2.16.
    expected = expectation(table(), "emoji-64")
    measured = table()
    measured.loc[run, "steps"] += shift
    lines = compare(measured, "emoji-64", expected)
    assert lines.verdict[2 * run] == outcome
    assert (lines.verdict.drop(2 * run) == "as expected").all()


def test_other_images_or_models_are_not_compared():
    expected = expectation(table(), "emoji-64")
    for measured, model in ((table(4), "emoji-64"), (table(), "emoji-96")):
        with pytest.raises(ValueError, match="nothing to compare"):
            compare(measured, model, expected)


def test_the_images_of_every_run_count():
    expected = expectation(table().assign(images=[512, 128]), "emoji-64")
    assert (
        compare(table().assign(images=[512, 128]), "emoji-64", expected).verdict == "as expected"
    ).all()
    with pytest.raises(ValueError, match="128 images of the run pjd-4, which has 4 here: nothing"):
        compare(table().assign(images=[512, 4]), "emoji-64", expected)


def test_only_runs_that_a_claim_rests_on_are_compared(tmp_path):
    more = table().assign(run=["sjd-32", "pjd-rows-2"], group=["comparison", "rows"])
    other = table().assign(run=["emoji-96-ar", "emoji-96-sjd"], model="emoji-96", group="models")
    pd.concat([table(), more, other]).to_parquet(tmp_path / "runs.parquet")
    lines = check_reproduction(tmp_path, tmp_path / "e.json", write=True)
    runs = {"sjd-32", "emoji-96-ar", "emoji-96-sjd", "ar", "pjd-4"}
    assert set(lines.run) == runs and (lines.verdict == "as expected").all()
    pd.concat([table(), other]).to_parquet(tmp_path / "runs.parquet")
    lines = check_reproduction(tmp_path, tmp_path / "e.json")
    assert lines.run[lines.verdict == "missing"].unique().tolist() == ["sjd-32"]


def test_the_command_says_what_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(check_reproduction, "__defaults__", (tmp_path, tmp_path / "e.json", False))
    table().to_parquet(tmp_path / "runs.parquet")
    run = CliRunner().invoke
    assert isinstance(run(app, ["verify"]).exception, FileNotFoundError)
    assert run(app, ["verify", "--write"]).exit_code == 0
    assert "4 of 4 lines as expected" in run(app, ["verify"]).output
    table().assign(steps=[256.0, 90.0]).to_parquet(tmp_path / "runs.parquet")
    failed = run(app, ["verify"])
    assert failed.exit_code == 1 and "FAILS" in failed.output
