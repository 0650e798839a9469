import json
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_model

from pjd.api import generate
from pjd.decoder.methods import configure
from pjd.errors import ParameterError
from pjd.models import emoji
from pjd.models.llamagen import LlamaGenConfig
from pjd.models.registry import resolve

BAD = [
    ("pjd", {"context": 0}, "context = 0: must be an integer at least 1"),
    ("pjd", {"context": "4"}, "context = '4'"),
    ("pjd", {"context": True}, "context = True"),
    ("sjd", {"window": 0}, "window = 0: must be an integer at least 1"),
    ("sjd", {"context": 4}, "context = 4: method sjd has no such option"),
    ("pjd", {"mask": False}, "mask = False: must be one of row-causal, none"),
    ("pjd", {"mask": "false"}, "mask = 'false'"),
    ("pjd", {"rows": 0}, "rows = 0"),
    ("ar", {"temperature": -1}, "temperature = -1: must be a number at least 0"),
    ("ar", {"temperature": float("nan")}, "temperature = nan"),
    ("ar", {"top_p": 0}, "top_p = 0"),
    ("ar", {"top_k": -5}, "top_k = -5"),
    ("ar", {"seed": -1}, "seed = -1"),
    ("ar", {"contxt": 1}, "contxt = 1: no such option"),
    ("magic", {}, "method = 'magic': must be one of ar, jacobi, sjd"),
    ("sjd", {"accept": "luck"}, "accept = 'luck': must be one of ratio, match, group"),
    ("gsd", {"group_size": 0}, "group_size = 0: must be an integer at least 1"),
    ("jacobi", {"redraft": "coupled"}, "redraft = 'coupled': must be fresh or gumbel"),
    ("pjd-staircase", {"mask": "none"}, "lag = 'fixed': fixed needs mask row-causal"),
    ("pjd", {"stand_in": "last column"}, "stand_in = 'last column': must be one of newest"),
]


@pytest.mark.parametrize(("method", "options", "message"), BAD)
def test_bad_options_name_parameter_value_and_range(method, options, message):
    with pytest.raises(ParameterError) as error:
        configure(method, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (["cat"], {"top_k": 12}, "top_k = 12: must be an integer from 0 to 11"),
        (["cat"], {"rows": 7}, "rows = 7: must be an integer from 1 to 6"),
        ([], {}, "prompts = []"),
        (["cat", " "], {}, "prompt = ' '"),
        (["cat"], {"batch_size": 0}, "batch_size = 0"),
    ],
)
def test_bad_input_fails_before_anything_is_computed(model, prompts, options, message):
    with pytest.raises(ParameterError) as error:
        generate(model, prompts, "pjd", **options)
    assert message in str(error.value)


def test_none_leaves_the_models_own_default():
    guided = tiny_model(grid=3, vocabulary=5)
    guided.sampling = {"guidance": 2.0}
    assert generate(guided, ["cat"], "ar", guidance=None).config.guidance == 2.0
    assert generate(guided, ["cat"], "ar", guidance=1.5).config.guidance == 1.5


@pytest.mark.parametrize(
    "arguments",
    [
        ["cat", "--context", "0"],
        ["cat", "--method", "magic"],
        ["cat", "--seed", "-1"],
        ["cat", "--window", "0"],
        ["cat", "--model", "no-such-model"],
    ],
)
def test_the_command_line_answers_in_one_line_and_writes_nothing(tmp_path, arguments):
    command = [sys.executable, "-m", "pjd.cli", "generate", *arguments, "-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.startswith("pjd: ") and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_missing_weights_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("pjd.models.registry.WEIGHTS", tmp_path)
    for name in ("emoji", "emoji-64"):
        with pytest.raises(ParameterError, match="dvc pull"):
            resolve(name)
    with pytest.raises(FileNotFoundError, match="dvc pull"):
        emoji.load("x", tmp_path)


@pytest.fixture
def model():
    """The sizes that are saved are the original's."""
    return tiny_model(grid=6, vocabulary=11, sizes=LlamaGenConfig)


@pytest.fixture
def saved(model, tmp_path):
    emoji.save(model, tmp_path)
    # The loader makes the tokenizer that is trained, not the tests' tiny one.
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
