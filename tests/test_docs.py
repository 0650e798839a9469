"""Code that the documentation shows runs."""

import json
import re

import pandas as pd
import pytest
from tiny import tiny_model

import pjd
from pjd.decoder.methods import PRESETS
from pjd.models.registry import available
from pjd.paths import ROOT
from pjd.pipeline import runs
from pjd.pipeline.collect import collect
from pjd.pipeline.evaluate import evaluate


def examples(page: str) -> list[str]:
    """Python blocks of a page below the root."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


@pytest.mark.skipif(not available(), reason="no embedded model on disk: run `make data`")
def test_the_example_of_a_new_decoder_runs(capsys):
    (code,) = examples("docs/adding_a_decoder.md")
    assert len(code.splitlines()) < 40
    try:
        exec(code, {})
    finally:
        # What the example registers must not outlive it.
        PRESETS.pop("typical-rows", None)
    steps = re.findall(r"\[(\d+), (\d+)\]", capsys.readouterr().out)
    paper, typical = (sum(map(int, pair)) for pair in steps)
    assert typical < paper


def test_the_example_of_a_model_of_ones_own_runs(capsys):
    (code,) = examples("docs/your_own_model.md")
    exec(code, {})
    steps, size = re.fullmatch(r"(\[.*\]) (\(.*\))\n", capsys.readouterr().out).groups()
    assert size == "(8, 8)"
    # Fewer than the 64 forwards of AR, its row ends not counted.
    assert all(8 <= int(count) < 64 for count in steps.strip("[]").split(","))


def test_every_column_that_a_run_writes_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "RUNS", tmp_path)
    monkeypatch.setattr(runs, "TIMINGS", tmp_path / "timings")
    model, prompts = tiny_model(), ["cat", "dog"]
    table = pd.DataFrame({"prompt": prompts, "group": "train"})
    for method in ("ar", "pjd"):
        runs.save(f"main/{method}", pjd.generate(model, prompts, method), table, model)
        evaluate(tmp_path / "main" / method, model, top_k=3)
    collect(tmp_path, ["main/ar", "main/pjd"]).to_parquet(tmp_path / "collected.parquet")
    page = re.findall(r"\w+", (ROOT / "docs" / "runs.md").read_text())
    for path in tmp_path.rglob("*.parquet"):
        assert set(pd.read_parquet(path).columns) <= set(page), path


def test_the_readmes_numbers_are_the_expected_ones():
    page = (ROOT / "README.md").read_text().replace("−", "-")
    expected = json.loads((ROOT / "expected.json").read_text())["runs"]
    names = {"ar": "AR", "ar-repeat": r"AR, other seeds \(noise\)", "sjd": "SJD, W = 16"}
    names |= {f"context-{c}": f"PJD, c = {c}" for c in (2, 4, 8)}
    names["context-16"] = r"PJD, c = 16 \(exact\)"
    for run, name in names.items():
        steps, gap = (expected[f"main/{run}"][measure]["value"] for measure in ("steps", "gap"))
        row = re.search(rf"\| {name} \| ([\d.]+) \| ([\d.]+)× \| ([-+]?[\d.]+)", page)
        assert row is not None, name
        written = [float(number) for number in row.groups()]
        assert written == [round(steps, 1), round(256 / steps, 2), round(gap, 3)], name
