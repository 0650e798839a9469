"""What can be read without running: docs/results, and what it says of each figure."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pjd.paths import NOTEBOOKS, RESULTS, ROOT
from pjd.pipeline import findings, results_page
from pjd.pipeline.findings import fill, paragraphs
from pjd.pipeline.params import parameters
from pjd.pipeline.results_page import TARGET, markdown_table, shrink

RUNS = pd.DataFrame({"run": ["ar", "pjd-4"], "steps": [256.0, 69.55], "gap": [0.0, -0.081]})


def test_every_figure_has_its_notebook_and_its_finding_and_the_other_way_round():
    figures = parameters()["figures"]
    assert set(paragraphs()) == set(figures)
    drawn = {path.stem for path in (NOTEBOOKS / "figures").glob("*.ipynb")}
    assert {figure["notebook"] for figure in figures.values()} == drawn


def test_numbers_of_a_finding_are_those_of_the_runs():
    text = fill("AR needs {ar.steps:.0f}, PJD {pjd-4.steps:.1f} at {pjd-4.gap:+.2f}.", RUNS)
    assert text == "AR needs 256, PJD 69.5 at −0.08."
    with pytest.raises(KeyError, match="pjd-5"):
        fill("{pjd-5.steps:.1f}", RUNS)


def test_findings_have_no_number_that_no_run_gives():
    for name, text in paragraphs().items():
        rest = findings.NUMBER.sub("", text)
        # What a run is called, not what it measured: c = 4, W = 16, 16x16, figure 3, emoji-96.
        names = r"[cWGK] = \d+|\d+[x×]\d+|[Ff]igures? \d+|95 %|emoji-\d+|bfloat16|1-D|2-D"
        rest = re.sub(names, "", rest)
        assert not re.findall(r"\d+\.\d+|\d{2,}", rest), name


def test_findings_are_left_out_of_a_report_on_other_runs(monkeypatch):
    lines = pd.DataFrame({"run": ["ar"], "verdict": ["FAILS"]})
    monkeypatch.setattr(findings, "check_reproduction", lambda: lines)
    assert findings.findings(RUNS) == {}
    monkeypatch.setattr(findings, "paragraphs", lambda: {"frontier_16": "{ar.steps:.0f}"})
    lines.verdict = "as expected"
    assert findings.findings(RUNS) == {"frontier_16": "256"}


def test_a_table_in_markdown_keeps_its_cells():
    table = pd.DataFrame({"a": ["x|y", "1\n2"], "b": [3, ""]})
    assert markdown_table(table) == "| a | b |\n| --- | --- |\n| x\\|y | 3 |\n| 1 2 |  |"


def test_pictures_get_smaller_and_stay_recognisable(tmp_path):
    ramp = np.linspace(0, 255, 2800).astype(np.uint8)
    Image.fromarray(np.stack([ramp] * 3, -1)[None].repeat(100, 0)).save(tmp_path / "a.png")
    shrink(tmp_path / "a.png", tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as small:
        assert small.size == (1400, 50)
        assert np.abs(np.asarray(small.convert("L"))[25].astype(int) - ramp[::2]).max() < 3


def committed() -> pd.DataFrame:
    return pd.read_csv(TARGET / "runs.csv", index_col="run")


def test_the_committed_page_has_the_expected_numbers_and_every_figure():
    table, expected = committed(), json.loads((ROOT / "expected.json").read_text())
    assert set(parameters()["runs"]) == set(table.index)
    for run, measures in expected["runs"].items():
        assert table.steps[run] == pytest.approx(measures["steps"]["value"], abs=0.006)
        assert table.gap[run] == pytest.approx(measures["gap"]["value"], abs=6e-5)
    page = (TARGET / "README.md").read_text(encoding="utf-8")
    for name, figure in parameters()["figures"].items():
        assert f"## {results_page.title_of(figure)}\n" in page, name
        # The paragraph above each figure is what its numbers give today.
        assert fill(paragraphs()[name], table.reset_index()) in page, name
    for link in re.findall(r"\]\(([^)#]+)\)", page):
        assert (TARGET / link).exists(), link
    assert sum(path.stat().st_size for path in TARGET.iterdir()) < 6e6


@pytest.mark.skipif(not (RESULTS / "runs.parquet").exists(), reason="nothing was collected here")
def test_the_committed_table_is_what_was_collected():
    collected = pd.read_parquet(RESULTS / "runs.parquet").set_index("run")
    for column in ("steps", "gap", "compression", "nats"):
        found, kept = collected[column], committed()[column]
        if set(found.index) == set(kept.index):
            np.testing.assert_allclose(found[kept.index], kept, atol=0.06)
