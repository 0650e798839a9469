"""The table of all runs has no run that is not the planned one, and no measures of other images."""

import pandas as pd
import pytest

import pjd
from pjd.errors import ParameterError
from pjd.paths import RUNS
from pjd.pipeline import runs
from pjd.pipeline.collect import check_planned, collect
from pjd.pipeline.files import read_run
from pjd.pipeline.params import parameters, planned
from tests.tiny import tiny_model, tiny_stamp

SHARED = {"model": "tiny", "prompts": "a.txt", "images": 2, "ar": "ar", "guidance": 2.0}
OPTIONS = {"context": 3, "method": "pjd", "dtype": "float32", "batch_size": 7}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of a run of two images, decoded and measured."""
    monkeypatch.setattr(runs, "RUNS", tmp_path)
    monkeypatch.setattr(runs, "PROVENANCE", tmp_path / "provenance")
    made = pjd.generate(tiny_model(), ["cat", "dog"], "pjd", context=3, guidance=2.0)
    table = pd.DataFrame({"prompt": ["cat", "dog"]})
    runs.save("mine", tiny_stamp(made, "small"), made, table, tiny_model())
    (tmp_path / "mine" / "evaluate").mkdir()
    table.to_parquet(tmp_path / "mine" / "evaluate" / "images.parquet")
    return tmp_path / "mine"


def test_a_run_is_what_is_planned(run):
    check_planned(read_run(run), "small", SHARED, OPTIONS)


@pytest.mark.parametrize(
    ("setting", "shared", "options", "message"),
    [
        ("large", {}, {}, "setting small, not large"),
        ("small", {"model": "emoji-64"}, {}, "model tiny, not emoji-64"),
        ("small", {"images": 512}, {}, "images 2, not 512"),
        (
            "small",
            {"guidance": 4.0, "images": 3},
            {},
            r"\(images 2, not 3; guidance 2.0, not 4.0\)",
        ),
        ("small", {}, {"context": 8}, "context 3, not 8"),
        ("small", {}, {"dtype": "bfloat16"}, "dtype float32, not bfloat16"),
    ],
)
def test_another_run_in_its_place_is_refused_by_name(run, setting, shared, options, message):
    planned = pd.DataFrame(
        {"group": "main", "setting": setting, "options": [OPTIONS | options]}, index=["mine"]
    )
    with pytest.raises(ParameterError, match=f"run = 'mine': is not what .*{message}"):
        collect(run.parent, planned, {setting: SHARED | shared})


def test_measures_of_other_images_are_refused(run):
    pd.DataFrame({"prompt": ["cat"]}).to_parquet(run / "evaluate" / "images.parquet")
    with pytest.raises(ParameterError, match="run = 'mine': has 2 images, and 1 were measured"):
        check_planned(read_run(run), "small", SHARED, OPTIONS)


def test_the_runs_that_are_here_are_those_of_the_pipeline():
    settings, plans = parameters()["settings"], planned()
    here = [name for name in plans.index if (RUNS / name / "evaluate" / "images.parquet").exists()]
    if not here:
        pytest.skip("nothing was decoded here")
    for name in here:
        plan = plans.loc[name]
        check_planned(read_run(RUNS / name), plan.setting, settings[plan.setting], plan.options)
