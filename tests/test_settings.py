import json

import pytest
import yaml

from pjd.errors import ParameterError
from pjd.paths import ROOT
from pjd.pipeline import settings
from pjd.pipeline.settings import prepare, read_setting

LINES = "cat face, noto, on teal\nnerd face, noto, on pink\nowl, noto, on grey\n"


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    """A file of three prompts; settings are prepared in a folder beside it."""
    monkeypatch.setattr(settings, "SETTINGS", tmp_path / "settings")
    monkeypatch.setattr("pjd.pipeline.settings.weights_of", lambda name: "0123")
    (tmp_path / "prompts.txt").write_text(LINES)
    return tmp_path / "prompts.txt"


def write(monkeypatch, **values: object) -> None:
    """Give the setting "a" these values."""
    monkeypatch.setattr(settings, "parameters", lambda: {"settings": {"a": values}})


def test_a_setting_has_prompts_sampling_and_what_makes_it_out_of_date(prompts, monkeypatch):
    shared = {"model": "emoji-64", "prompts": str(prompts), "ar": "ar"}
    write(monkeypatch, **shared, images=2, guidance=2.5, top_k=16)
    prepare("a")
    setting = read_setting("a")
    assert setting.prompts.prompt.tolist() == LINES.splitlines()[:2]
    assert (setting.model, setting.sampling) == ("emoji-64", {"guidance": 2.5, "top_k": 16})
    path = prompts.parent / "settings" / "a" / "setting.json"
    first = json.loads(path.read_text())
    assert {"LlamaGen", "EmojiModel", "Tokenizer", "Words"} <= first["adapter"].keys()
    monkeypatch.setattr("pjd.pipeline.settings.weights_of", lambda name: "4567")
    prepare("a")
    assert json.loads(path.read_text())["weights"] != first["weights"]


def test_a_setting_knows_its_keys(prompts, monkeypatch):
    values = {"model": "emoji-64", "prompts": str(prompts), "images": 2, "ar": "ar"}
    write(monkeypatch, **values, window=4)
    with pytest.raises(ParameterError, match=r"settings\.a\.window = 4: no setting has it"):
        prepare("a")
    write(monkeypatch, **{**values, "images": 4})
    with pytest.raises(ParameterError, match="images = 4"):
        prepare("a")
    assert not (prompts.parent / "settings").exists() or not list(
        (prompts.parent / "settings").iterdir()
    )


def test_a_setting_that_params_yaml_lacks_is_one_line(capsys):
    assert settings.main(["nope"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pjd: setting = 'nope': must be one of emoji-64, ")


def test_the_settings_of_the_pipeline_have_a_run_of_ar_each():
    from pjd.paths import ROOT

    for file in ("params.yaml", "profiles/smoke.yaml", "profiles/paper.yaml"):
        values = yaml.safe_load((ROOT / file).read_text())
        for name, setting in values["settings"].items():
            run = values["runs"][setting["ar"]]
            assert run["setting"] == name and run["options"]["method"] == "ar", (file, name)
            assert "seed" not in run["options"], (file, name)
        for name, run in values["runs"].items():
            assert run["setting"] in values["settings"], (file, name)


@pytest.mark.parametrize("file", ["params.yaml", "profiles/paper.yaml", "profiles/smoke.yaml"])
def test_options_stand_in_the_order_in_which_dvc_writes_them(file):
    # `dvc exp run --set-param` sorts the keys of mappings: the command of every other run that is
    # not in that order would be another one, and the run decoded anew.
    values = yaml.safe_load((ROOT / file).read_text())
    named = {**values.get("runs", {}), **values.get("figures", {})}
    assert named
    for name, value in named.items():
        assert list(value["options"]) == sorted(value["options"]), name
