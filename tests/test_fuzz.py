"""Whatever is asked for is done or refused in a line: no traceback, nothing half written."""

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pjd
from pjd import cli, jobs
from pjd.api import generate
from pjd.decoder.config import CHOICES, DecodeConfig
from pjd.decoder.methods import PRESETS, configure
from pjd.errors import ParameterError
from pjd.models import registry
from pjd.paths import ROOT
from pjd.pipeline import runs
from pjd.pipeline.notebook import NotebookError, read_words
from tests.tiny import tiny_model

DECODE = ROOT / "notebooks" / "03_decode.ipynb"
MODEL = tiny_model(grid=3, vocabulary=5)

WORDS = sorted({word for words in CHOICES.values() for word in words})
EXTREMES = [0, -1, 2**31, 2**63, 10**400, -0.0, 1e-320, 1e39, float("nan"), float("inf"), True]
numbers = st.integers(-2, 40) | st.floats() | st.sampled_from(EXTREMES)
values = st.none() | numbers | st.sampled_from(WORDS) | st.text(max_size=8) | st.lists(numbers)

# What is asked for is right more often than not, so that what comes after the checks is reached.
GOOD: dict[str, st.SearchStrategy] = {
    **{name: st.sampled_from(words) for name, words in CHOICES.items()},
    **{name: st.integers(1, 6) for name in ("window", "context", "rows", "group_size")},
    "guidance": st.floats(0, 8),
    "temperature": st.floats(0, 4),
    "top_k": st.integers(0, 6),
    "top_p": st.floats(0.01, 1),
    "min_p": st.floats(0, 1),
    "seed": st.integers(0, 2**62),
}
NAMES = sorted(DecodeConfig.names() - {"method"})
methods = st.sampled_from(sorted(PRESETS))
# The layout is what a method is made for: it can only be repeated, or refused.
options = st.fixed_dictionaries({}, optional={k: v for k, v in GOOD.items() if k != "layout"})
wrong = st.dictionaries(st.sampled_from([*NAMES, "method", "Context", ""]), values, max_size=2)


def tries(count: int) -> settings:
    """As many examples, always the same ones."""
    few = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=few,
    )


def test_every_option_that_can_be_set_is_tried():
    assert set(NAMES) == set(GOOD)


@tries(700)
@given(methods | values, options, wrong)
def test_options_are_refused_in_a_line_or_make_a_configuration(method, right, other):
    try:
        config = configure(method, **{**right, **{k: v for k, v in other.items() if k != "method"}})
    except ParameterError as error:
        assert str(error) and "\n" not in str(error)
        return
    # What was accepted can be written down, and is what was asked for.
    told = json.loads(json.dumps(config.as_dict(), allow_nan=False))
    assert DecodeConfig(**told) == config
    for name, value in right.items():
        assert told[name] == other.get(name, value) or other.get(name, value) is None


@tries(150)
@given(methods, options)
def test_what_a_configuration_accepts_can_be_decoded(method, right):
    try:
        result = generate(MODEL, ["cat"], method, **right)
    except ParameterError as error:
        assert str(error) and "\n" not in str(error)
        return
    assert result.tokens.shape == (1, 9) and 0 <= result.tokens.min() <= result.tokens.max() < 5
    assert 1 <= int(result.steps) <= 2 * MODEL.grid.length


FLAGS = {
    "--context": "context",
    "--window": "window",
    "--rows": "rows",
    "--guidance": "guidance",
    "--temperature": "temperature",
    "--top-k": "top_k",
    "--top-p": "top_p",
    "--min-p": "min_p",
    "--seed": "seed",
}
flags = st.sampled_from(sorted(FLAGS)).flatmap(
    lambda flag: st.tuples(st.just(flag), GOOD[FLAGS[flag]].map(str))
)
sets = st.sampled_from(NAMES).flatmap(
    lambda name: st.tuples(st.just("--set"), GOOD[name].map(lambda value: f"{name}={value}"))
)
odd = st.one_of(
    st.tuples(st.just("--set"), st.text(max_size=12)),
    st.tuples(
        st.sampled_from([*sorted(FLAGS), "--images", "--batch-size", "--workers", "--device"]),
        values.map(str),
    ),
    st.tuples(st.sampled_from(["--dtype", "--method", "--file", "--output"]), st.text(max_size=8)),
    st.tuples(st.text(max_size=8)),
)
# The pictures of a caption are counted below: a number of them that is right is a small one.
prompts = st.lists(st.sampled_from(["cat", "red dog", "🐈\n", "=", "a" * 300]), max_size=2)
words = st.builds(
    lambda prompts, method, chosen, strange: [
        "generate",
        *prompts,
        "--model",
        "tiny",
        "--method",
        method,
        *(word for pair in chosen + strange for word in pair),
    ],
    prompts,
    methods,
    st.lists(flags | sets, max_size=3),
    st.lists(odd, max_size=1),
)
others = st.builds(
    lambda command, rest: [command, *rest],
    st.sampled_from(["compare", "convert", "profile", "models", "verify", "x", "--version"]),
    st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4),
)


@pytest.fixture
def command_line(monkeypatch, tmp_path):
    """The command line with a tiny model, in an empty folder."""
    for module in (registry, jobs):
        monkeypatch.setattr(module, "load", lambda *_, **__: MODEL)
        monkeypatch.setattr(module, "resolve", lambda name: tmp_path / "tiny")
    monkeypatch.setattr(registry, "default_sampling", lambda name: MODEL.sampling)
    monkeypatch.setattr(registry, "sizes_of", lambda name: registry.Sizes(3, 3, 9, 5))
    monkeypatch.setattr(jobs, "weights_of", lambda name: "0123")
    monkeypatch.setattr(jobs, "default_dtype", lambda name: "float32")

    def refused(*_: Any, **__: Any) -> None:
        """Starting Ray takes seconds; who is asked for several workers has passed all checks."""
        raise ParameterError("workers", 2, "are not started here")

    monkeypatch.setattr(jobs, "run_remote", refused)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def called(arguments: list[str]) -> tuple[int, str]:
    """Exit code and standard error of the command line; any other exception is not caught."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["pjd", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as exit:
        return int(exit.code or 0), err.getvalue()
    finally:
        sys.argv = before
    return 0, err.getvalue()


@tries(750)
@given(words | words | words | others)
def test_the_command_line_ends_with_a_picture_or_a_line(command_line, arguments):
    code, told = called(arguments)
    assert code in (0, 1, 2)
    assert "Traceback" not in told
    assert (code == 0) or told.strip()
    for folder in [path for path in command_line.iterdir() if path.is_dir()]:
        assert not list(folder.rglob(".*"))
        for picture in folder.rglob("*.png"):
            from PIL import Image

            Image.open(picture).load()
        shutil.rmtree(folder)


def cells() -> list[str]:
    """The code of the notebook's first two cells of code: its parameters, and their checks."""
    listed = json.loads(DECODE.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in listed if cell["cell_type"] == "code"][:2]


class Loaded(Exception):
    """All checks were passed."""


@pytest.fixture
def notebook(monkeypatch):
    """The checks of the notebook that decodes, up to where it loads a model."""

    def load(*_: Any, **__: Any) -> None:
        raise Loaded

    monkeypatch.setattr(pjd, "load", load)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    # Reading the files takes longer than all other checks.
    monkeypatch.setattr(runs, "weights_of", lambda name: "0123")
    parameters, checks = (compile(cell, str(DECODE), "exec") for cell in cells())

    def run(given: dict[str, Any]) -> bool:
        scope: dict[str, Any] = {}
        exec(parameters, scope)
        scope.update(given)
        try:
            exec(checks, scope)
        except Loaded:
            return True
        return False

    return run


PARAMETERS = ("run", "setting", "model", "prompts", "images", "batch_size", "device", "threads")


@tries(300)
@given(methods, options, st.dictionaries(st.sampled_from(PARAMETERS), values, max_size=1), wrong)
def test_parameters_of_the_notebook_are_refused_before_a_model_loads(
    notebook, method, right, machine, other
):
    other.pop("Context", None), other.pop("", None)
    before = sorted(path.name for path in ROOT.iterdir())
    try:
        assert notebook({"method": method, **right, **machine, **other})
    except (ParameterError, FileNotFoundError) as error:
        assert str(error) and "\n" not in str(error)
    assert sorted(path.name for path in ROOT.iterdir()) == before


@tries(100)
@given(
    st.lists(
        st.sampled_from(["--method", "--context", "--no-context", "--rows", "pjd", "4", "-1", "--"])
        | st.text(max_size=6),
        max_size=6,
    )
)
def test_words_for_a_notebook_are_its_parameters_or_refused(tokens):
    try:
        read = read_words(tokens, Path(DECODE))
    except NotebookError as error:
        assert str(error) and "\n" not in str(error)
        return
    assert all(f"--{name}" in tokens or f"--no-{name}" in tokens for name in read)
