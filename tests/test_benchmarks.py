import json
from functools import partial

import pytest
import torch
from typer.testing import CliRunner

import benchmarks.__main__ as command
from benchmarks.measure import TimedEngine, measure
from benchmarks.replay import RECORD, replay
from benchmarks.shapes import SHAPES, Shape, llama, llamagen
from pjd.methods import configure
from pjd.models.llamagen import LlamaGenConfig
from pjd.rules import RULES
from tests.tiny import tiny_model

CONFIG = LlamaGenConfig(16, 2, 2, 64, 8, prefix=4, caption_dim=8)


@pytest.fixture
def rules():
    yield
    RULES.pop("replayed", None)


def test_a_replayed_run_accepts_what_the_record_says(rules):
    model = tiny_model(grid=16, vocabulary=50)
    shares = [0.2, 0.9, 0.5]
    config = configure("sjd", window=4, accept=replay(shares, "cpu"))
    decoded = TimedEngine(model, config, ["cat"] * 64, torch.arange(64)).run()
    depths = decoded.trace.depths
    assert depths.tested.min() > 500
    assert (depths.accepted / depths.tested).tolist() == pytest.approx(shares, abs=0.05)


def test_the_clock_changes_no_code_and_its_parts_are_within_the_whole():
    model = tiny_model()
    config = configure("pjd", context=2)
    plain = TimedEngine.__mro__[1](model, config, ["cat"], torch.arange(1)).run()
    timed = TimedEngine(model, config, ["cat"], torch.arange(1)).run()
    assert torch.equal(plain.tokens, timed.tokens)
    measured = measure(model, config, batch=2, repeats=1)
    parts = [measured[f"{part}_ms"] for part in ("forward", "verify", "prepare")]
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(measured["step_ms"])
    assert measured["step_ms"] * measured["iterations"] / 1000 < measured["seconds"]


@pytest.mark.parametrize("method", ["sjd", "pjd"])
def test_memory_is_what_the_formula_says(method):
    model = tiny_model(grid=6, vocabulary=11)
    batch, guidance = 3, 2.0
    config = configure(method, window=5, guidance=guidance)
    engine = TimedEngine(model, config, ["cat"] * batch, torch.arange(batch))
    lanes = 1 if method == "sjd" else 6
    slots = 1 + lanes + 4 + 36
    cache = 2 * 2 * 2 * batch * 2 * 8 * 4 * slots
    assert engine.cache.keys.nbytes + engine.cache.values.nbytes == cache
    assert measure(model, config, batch, repeats=1)["cache_bytes"] == cache
    assert engine.start().proposal.nbytes == 4 * batch * (lanes + 1) * 5 * 11


def test_the_command_writes_every_case(tmp_path, monkeypatch, rules):
    tiny = Shape(partial(llamagen, CONFIG), 2.0, 5, 2, llama(16, 32, 2, 2, 64))
    monkeypatch.setitem(SHAPES, "tiny", tiny)
    output = tmp_path / "out.json"
    arguments = ["run", "-o", str(output), "--shapes", "tiny", "--repeats", "1"]
    done = CliRunner().invoke(command.app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    written = json.loads(output.read_text())
    cases = {(case["method"], case["batch"]): case for case in written["cases"]}
    assert set(cases) == {(m, b) for m in ("ar", "sjd", "pjd", "pjd-plus") for b in (1, 8)}
    assert cases["ar", 8]["iterations"] == 64
    assert cases["pjd", 8]["iterations"] < cases["sjd", 8]["iterations"] < 64
    assert written["transformers_ms"]["tiny"] > 0
    assert written["acceptance"]["model"] == json.loads(RECORD.read_text())["model"]
