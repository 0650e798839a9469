"""An embedded model on disk: saved, loaded, and refused where it does not fit."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from pjd.api import generate
from pjd.models import emoji
from pjd.models.llamagen import LlamaGenConfig
from tests.tiny import tiny_model


@pytest.fixture
def model():
    """A tiny model with the original's rule for its sizes, which is what is saved."""
    return tiny_model(grid=6, vocabulary=11, sizes=LlamaGenConfig)


@pytest.fixture
def saved(model, tmp_path):
    emoji.save(model, tmp_path)
    # The loader builds the tokenizer of the trained models, not the tests' tiny one.
    full = emoji.Tokenizer(codes=model.vocabulary)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("tokenizer")}
    added = {f"tokenizer.{name}": value for name, value in full.state_dict().items()}
    save_file({**kept, **added}, tmp_path / "model.safetensors")
    return tmp_path


def test_a_saved_model_decodes_as_before(model, saved):
    again = emoji.load("again", saved)
    with torch.no_grad():
        for ours, theirs in zip(
            model.transformer.parameters(), again.transformer.parameters(), strict=True
        ):
            torch.testing.assert_close(theirs, ours.bfloat16().float())
    assert generate(again, ["cat"], "ar", temperature=0).tokens.shape == (1, 36)


def test_weights_that_do_not_fit_are_refused_by_name(saved):
    path = saved / "model.safetensors"
    weights = load_file(path)
    del weights["transformer.norm.weight"]
    save_file({**weights, "extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"(?s)transformer\.norm\.weight.*extra"):
        emoji.load("x", saved)


@pytest.mark.parametrize("name", ["emoji-64", "emoji-128-more"])
def test_a_grid_that_is_not_that_of_the_name_is_refused(saved, name):
    with pytest.raises(
        ValueError, match=f"{name}: .*grid 6, .*24 pixels; .*{name[6:9].strip('-')}"
    ):
        emoji.load(name, saved)
    assert emoji.load("emoji-24", saved).grid.rows == 6


def test_damaged_weights_are_refused(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="is damaged"):
        emoji.load("x", saved)


def test_a_pickle_is_refused(saved):
    class Boom:
        def __reduce__(self):
            return (print, ("this must not run",))

    (saved / "model.safetensors").write_bytes(pickle.dumps(Boom()))
    with pytest.raises(ValueError, match="is damaged"):
        emoji.load("x", saved)


def test_words_the_model_does_not_know_are_reported(saved):
    words = emoji.load("x", saved).words
    assert words.unknown_words("Red zebra, cat") == ["zebra"]
    assert words.encode(["Red zebra, cat"]).tolist() == [[0, 4, 1, 2]]
    assert json.loads((saved / "model.json").read_text())["words"] == ["cat", "dog", "red"]
