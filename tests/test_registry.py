"""Models by name: what is missing is said."""

import pytest
import torch

from pjd.errors import ParameterError
from pjd.models import emoji, loading, registry
from pjd.models.registry import choose_device, configure_for, resolve


def test_missing_weights_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("pjd.models.registry.WEIGHTS", tmp_path)
    for name in ("emoji", "emoji-64"):
        with pytest.raises(ParameterError, match="dvc pull"):
            resolve(name)
    with pytest.raises(FileNotFoundError, match="dvc pull"):
        emoji.load("x", tmp_path)


def test_the_sizes_of_a_model_are_known_before_the_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("pjd.models.registry.WEIGHTS", tmp_path)
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model.safetensors").touch()
    (folder / "model.json").write_text(
        '{"sampling": {}, "transformer": {"grid": 7, "vocabulary": 9}}'
    )
    assert configure_for("mine", "mc-sjd").window == 14
    assert configure_for("lumina-mgpt-7b-768", "mc-sjd").window == 96
    for option, most in (("top_k", 9), ("rows", 7), ("window", 64)):
        assert getattr(configure_for("mine", "pjd", **{option: most}), option) == most
        with pytest.raises(ParameterError, match=f"{option} = {most + 1}: .* to {most}"):
            configure_for("mine", "pjd", **{option: most + 1})
    with pytest.raises(ParameterError, match="rows = 49: must be an integer from 1 to 48"):
        configure_for("lumina-mgpt-7b-768", "pjd", rows=49)
    (folder / "model.json").write_text('{"sampling": {}}')
    with pytest.raises(ValueError, match="has no grid"):
        configure_for("mine", "mc-sjd")


@pytest.mark.parametrize("written", [".", "./", "../mine", "../mine/below/.."])
def test_a_folder_is_known_by_its_own_name_however_it_is_written(tmp_path, monkeypatch, written):
    (tmp_path / "mine" / "below").mkdir(parents=True)
    for file in ("model.json", "model.safetensors"):
        (tmp_path / "mine" / file).touch()
    monkeypatch.chdir(tmp_path / "mine")
    assert resolve(written).name == "mine"
    assert resolve(written).samefile(tmp_path / "mine")


@pytest.mark.parametrize("there", [(), ("cuda",), ("mps",), ("cuda", "mps")])
def test_a_device_is_taken_where_torch_has_it_and_mps_only_if_it_is_asked_for(there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there)
    assert choose_device(None) == ("cuda" if "cuda" in there else "cpu")
    for device in ("cpu", "cuda", "mps"):
        if device in ("cpu", *there):
            assert choose_device(device) == device
            continue
        others = " or ".join(("cpu", *there))
        with pytest.raises(ParameterError, match=f"device = '{device}': must be {others}: torch"):
            choose_device(device)
    with pytest.raises(ParameterError, match="must be one of cpu, cuda, mps"):
        choose_device("tpu")


def test_a_device_that_is_not_there_is_refused_before_the_model_is_read(monkeypatch):
    monkeypatch.setattr(registry, "resolve", lambda name: None)
    monkeypatch.setattr(loading, "load_model", lambda *_: pytest.fail("a model was read"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ParameterError, match="device = 'gpu': must be one of cpu, cuda, mps"):
        registry.load("emoji-64", device="gpu")
    with pytest.raises(ParameterError, match="device = 'cuda': must be cpu"):
        registry.load("emoji-64", device="cuda")


@pytest.mark.parametrize("name", [None, 5, ""])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ParameterError, match=f"model = {name!r}: must be a text"):
        registry.load(name)


@pytest.mark.parametrize("name", ["lumina-mgpt-7b-768", "emoji"])
def test_the_grid_before_is_not_copied_where_there_is_none(name):
    assert configure_for("glm-image", "pjd", initial="preview").initial == "preview"
    with pytest.raises(ParameterError, match=f"initial = 'preview': .* {name} has one grid alone"):
        configure_for(name, "pjd", initial="preview")
