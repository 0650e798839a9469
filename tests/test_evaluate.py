"""What the evaluation notebook refuses before a model is loaded, and which model it takes."""

import json

import pandas as pd
import pytest

import pjd
from pjd.errors import ParameterError
from pjd.paths import ROOT
from pjd.pipeline import runs
from tests.tiny import runs_of_tiny_models, tiny_model, tiny_stamp

NOTEBOOK = json.loads((ROOT / "notebooks" / "04_evaluate.ipynb").read_text())
CELLS = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
PARAMETERS, CHECKS = ("".join(cell["source"]) for cell in CELLS[:2])


class LoadedError(Exception):
    """A model would be loaded now."""


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Names of models that are loaded; runs `own` of the setting emoji-64, and `free` of none."""
    runs_of_tiny_models(tmp_path, monkeypatch)
    monkeypatch.setattr("torch.set_num_threads", lambda threads: None)
    monkeypatch.setattr("pjd.pipeline.settings.read_setting", lambda name: name)
    made = pjd.generate(tiny_model(), ["cat"], "ar")
    table = pd.DataFrame({"prompt": ["cat"], "group": "file"})
    for run, setting in (("own", "emoji-64"), ("free", None)):
        runs.save(run, tiny_stamp(made, setting), made, table, tiny_model())
    names: list[str] = []

    def load(name: str, *_: object) -> None:
        names.append(name)
        raise LoadedError

    monkeypatch.setattr(pjd, "load", load)
    return names


def check(**parameters: object) -> None:
    """Run the notebook's cells up to where it loads a model."""
    names: dict[str, object] = {}
    exec(PARAMETERS, names)
    assert parameters.keys() <= names.keys()
    exec(CHECKS, names | parameters)


@pytest.mark.parametrize(
    "parameters",
    [
        {"run": "own"},
        {"run": "own", "setting": "emoji-64"},
        {"ar": "own"},
        {"ar": "own", "setting": "emoji-64"},
    ],
)
def test_a_run_is_measured_with_the_model_that_decoded_it(loaded, parameters):
    with pytest.raises(LoadedError):
        check(**parameters)
    assert loaded == ["tiny"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"run": "own", "setting": "emoji-96"},
            "setting = 'emoji-96': must be emoji-64, to which the run own belongs",
        ),
        ({"ar": "own", "setting": "emoji-96"}, "setting = 'emoji-96': must be emoji-64"),
        ({"run": "free"}, "run = 'free': belongs to no setting.*decode it with --setting"),
        ({"run": "free", "setting": "emoji-64"}, "run = 'free': belongs to no setting"),
        ({"run": "../own"}, "run = '../own': must be a folder below runs/"),
    ],
)
def test_another_setting_or_none_is_refused_before_a_model_is_loaded(loaded, parameters, message):
    with pytest.raises(ParameterError, match=message):
        check(**parameters)
    assert loaded == []


def test_other_weights_are_refused_before_they_are_loaded(loaded, monkeypatch):
    monkeypatch.setattr(runs, "weights_of", lambda name: "4567")
    with pytest.raises(ParameterError, match="run = 'own': was decoded with the weights 0123"):
        check(run="own")
    assert loaded == []
