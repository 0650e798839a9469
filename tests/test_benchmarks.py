import json
import time
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import benchmarks.acceptance
import benchmarks.measure
import benchmarks.options
import benchmarks.run
import benchmarks.settings
from benchmarks import released
from benchmarks.__main__ import app
from benchmarks.acceptance import RECORD, record
from benchmarks.measure import TimedEngine, by_quarter, measure
from benchmarks.released import Case, OneByOne, first_row_alone, wide_group
from benchmarks.shapes import SHAPES, Shape, llama
from pjd.api import generate
from pjd.decoder.acceptance import ACCEPT_RULES, AcceptRule
from pjd.decoder.cache import SlotCache
from pjd.decoder.engine import Engine
from pjd.decoder.methods import PRESETS, configure
from pjd.decoder.shapes import Shapes
from pjd.decoder.trace import Trace
from pjd.errors import ParameterError
from pjd.measure.replay import random_llamagen, replay
from pjd.models.llamagen import LlamaGenConfig
from pjd.pipeline.params import parameters
from tests.tiny import tiny_model

CONFIG = LlamaGenConfig(16, 2, 2, 64, 8, prefix=4, caption_dim=8)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny(monkeypatch):
    config = replace(CONFIG, grid=4)
    shape = Shape(partial(random_llamagen, config), 2.0, 5, 2, llama(16, 32, 2, 2, 64))
    monkeypatch.setitem(SHAPES, "tiny", shape)
    # A large copy takes seconds, and only its speed is used.
    for module in (benchmarks.run, benchmarks.settings):
        monkeypatch.setattr(module, "bandwidth", lambda device: 1e9)


class Hands:
    """A clock that moves only when it is told to."""

    def __init__(self, monkeypatch):
        self.seconds = 0.0
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(time, "perf_counter", lambda: self.seconds)

    def cost(self, owner, name, seconds):
        """Let a method take a time: a number, or a function of how often it was called before."""
        plain, calls = getattr(owner, name), []

        def slow(*arguments, **options):
            self.seconds += seconds(len(calls)) if callable(seconds) else seconds
            calls.append(name)
            return plain(*arguments, **options)

        self.monkeypatch.setattr(owner, name, slow)


@pytest.fixture
def hands(monkeypatch):
    return Hands(monkeypatch)


def invoke(*arguments):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_a_replayed_run_accepts_what_the_record_says():
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
    plain = Engine(model, config, model.encode(["cat"], config.guided), torch.arange(1)).run()
    timed = TimedEngine(model, config, ["cat"], torch.arange(1)).run()
    assert torch.equal(plain.tokens, timed.tokens)
    measured = measure(model, config, batch=2, repeats=1, bytes_per_second=1e9)
    parts = [measured[f"{part}_ms"] for part in ("forward", "verify", "prepare")]
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(measured["step_ms"])
    assert measured["step_ms"] * measured["iterations"] / 1000 < measured["seconds"]


def test_an_iteration_is_all_between_its_beginning_and_the_next(hands):
    model = tiny_model()
    hands.cost(model, "forward", 100.0)
    hands.cost(benchmarks.measure, "verify", 10.0)
    hands.cost(Trace, "record", 1.0)
    # The completion check is the last thing in an iteration.
    hands.cost(Shapes, "images_to_keep", 0.5)
    measured = measure(model, configure("ar"), batch=2, repeats=1, bytes_per_second=1e9)
    assert measured["iterations"] == 16
    assert measured["forward_ms"] == pytest.approx(100_000)
    assert measured["verify_ms"] == pytest.approx(10_000)
    assert measured["prepare_ms"] == pytest.approx(1_500)
    assert measured["step_ms"] == pytest.approx(111_500)
    assert measured["quarter_ms"] == pytest.approx([111_500] * 4)
    # Of the whole batch, with the prompt's forward.
    assert measured["images_per_second"] == pytest.approx(2 / (16 * 111.5 + 100))


def test_letting_go_of_finished_images_is_part_of_an_iteration(hands):
    hands.cost(TimedEngine, "select", 1.0)
    config = configure("pjd", context=2)
    engine = TimedEngine(tiny_model(), config, ["cat"] * 8, torch.arange(8))
    decoded = engine.run()
    finished = decoded.trace.steps
    assert finished.min() < finished.max()
    assert decoded.seconds >= 1
    assert engine.clock.seconds("step") == pytest.approx(decoded.seconds)


def test_quarters_show_that_a_cost_grows(hands):
    model = tiny_model()
    # 16 iterations a decoding, of 0, 1, ..., 15 seconds.
    hands.cost(Trace, "record", lambda calls: calls % 16)
    measured = measure(model, configure("ar"), batch=1, repeats=2, bytes_per_second=1e9)
    assert measured["quarter_ms"] == pytest.approx([1_500, 5_500, 9_500, 13_500])


@pytest.mark.parametrize(
    ("times", "quarters"),
    [
        ([5.0], [5.0, 5.0, 5.0, 5.0]),
        ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]),
        ([1.0, 1.0, 9.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 4.0, 4.0, 0.0], [1.0, 2.0, 3.0, 4.0]),
    ],
)
def test_a_quarter_is_told_by_its_median(times, quarters):
    assert by_quarter(times) == quarters


def test_the_floor_reads_weights_and_cache_once():
    model = tiny_model()
    measured = measure(model, configure("ar"), batch=2, repeats=1, bytes_per_second=2000.0)
    read = measured["weight_bytes"] + measured["cache_bytes"]
    assert measured["floor_ms"] == pytest.approx(read / 2)
    assert measured["times_floor"] == pytest.approx(measured["step_ms"] / (read / 2))


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
    measured = measure(model, config, batch, repeats=1, bytes_per_second=1e9)
    assert measured["cache_bytes"] == cache
    assert engine.initial_state().draft_probs.nbytes == 4 * batch * (lanes + 1) * 6 * 11
    trace = Trace.empty(engine.layout, batch, config.window, model.device)
    tensors = [value for value in vars(trace).values() if isinstance(value, torch.Tensor)]
    rows = 1 if method == "sjd" else 6
    written = batch * 36 * (7 * rows + 4) + 4 * batch * 5
    assert sum(tensor.nbytes for tensor in tensors) == written


def test_the_mask_and_the_smaller_cache_are_what_the_formulas_say(monkeypatch):
    model = tiny_model(grid=6, vocabulary=11)
    batch, caches, masks = 8, [], []
    select, forward = SlotCache.select, model.forward

    def taken(cache, kept):
        smaller = select(cache, kept)
        caches.append(smaller.keys.nbytes / cache.keys.nbytes)
        assert smaller.keys.data_ptr() != cache.keys.data_ptr()
        return smaller

    def seen(x, positions, mask, cache):
        masks.append((mask.shape, mask.dtype, x.shape, cache.place.used))
        return forward(x, positions, mask, cache)

    monkeypatch.setattr(SlotCache, "select", taken)
    monkeypatch.setattr(model, "forward", seen)
    config = configure("pjd", context=2, window=5, guidance=2.0)
    TimedEngine(model, config, ["cat"] * batch, torch.arange(batch)).run()
    assert caches and max(caches) <= 0.75
    slots = 1 + 6 + 4 + 36
    for shape, dtype, fed, used in masks[1:]:
        assert dtype == torch.bool
        assert shape == (fed[0], 1, fed[1], used)
        assert fed[1] <= 6 * 5 + 1 and used <= slots
    assert masks[1][0][0] == 2 * batch


def test_the_command_writes_every_case(tmp_path, monkeypatch):
    small = Shape(partial(random_llamagen, CONFIG), 2.0, 5, 2, llama(16, 32, 2, 2, 64))
    monkeypatch.setitem(SHAPES, "small", small)
    output = tmp_path / "out.json"
    options = ["--shapes", "small", "--repeats", "1", "--threads", "1"]
    done = invoke("run", "-o", str(output), *options)
    assert done.exit_code == 0
    written = json.loads(output.read_text())
    cases = {(case["method"], case["batch"]): case for case in written["cases"]}
    assert set(cases) == {(m, b) for m in ("ar", "sjd", "pjd", "pjd-plus") for b in (1, 8)}
    assert cases["ar", 8]["iterations"] == 64
    assert cases["pjd", 8]["iterations"] < cases["sjd", 8]["iterations"] < 64
    read = cases["ar", 8]["weight_bytes"] + cases["ar", 8]["cache_bytes"]
    assert cases["ar", 8]["floor_ms"] == pytest.approx(1000 * read / written["bandwidth"])
    assert written["transformers_ms"]["small"] > 0
    assert written["acceptance"]["model"] == json.loads(RECORD.read_text())["model"]


def test_a_method_without_drafts_needs_no_record(tmp_path, tiny, monkeypatch):
    unrecorded = tmp_path / "acceptance.json"
    unrecorded.write_text(json.dumps({**json.loads(RECORD.read_text()), "shares": {}}))
    monkeypatch.setattr(benchmarks.acceptance, "RECORD", unrecorded)
    output = tmp_path / "out.json"
    options = ["-o", str(output), "--shapes", "tiny", "--batches", "1", "--repeats", "1"]
    options += ["--threads", "1"]
    invoke("run", *options, "--methods", "ar,zipar", "--no-beside")
    cases = {case["method"]: case for case in json.loads(output.read_text())["cases"]}
    assert cases["zipar"]["iterations"] < cases["ar"]["iterations"] == 16
    # Adaptive ZipAR has a window of 1 too, but its first drafts of rows are tested.
    for method in ("sjd", "zipar-adaptive"):
        with pytest.raises(ParameterError, match=r"must be one of ar, zipar$"):
            invoke("run", *options, "--methods", method)


def test_every_preset_that_tests_drafts_is_recorded_and_replayed(tmp_path, tiny, monkeypatch):
    model = tiny_model(vocabulary=50)
    monkeypatch.setattr(benchmarks.acceptance.pjd, "load", lambda name: model)
    captions = pd.DataFrame({"prompt": ["cat"] * 4})
    monkeypatch.setattr(benchmarks.acceptance, "read", lambda source, images: captions[:images])
    shares = record("emoji-64", images=4, context=2)
    assert set(shares) == set(PRESETS) - {"ar", "zipar"}
    for method, share in shares.items():
        assert 1 <= len(share) <= PRESETS[method].choices["window"], method
        assert all(0 <= chance <= 1 for chance in share), method
        assert sum(share) > 0, method
    recorded = tmp_path / "acceptance.json"
    recorded.write_text(json.dumps({**json.loads(RECORD.read_text()), "shares": shares}))
    monkeypatch.setattr(benchmarks.acceptance, "RECORD", recorded)
    output = tmp_path / "out.json"
    options = ["-o", str(output), "--shapes", "tiny", "--batches", "2", "--repeats", "1"]
    options += ["--threads", "1"]
    done = invoke("run", *options, "--methods", ",".join(PRESETS), "--no-beside")
    assert done.exit_code == 0
    cases = json.loads(output.read_text())["cases"]
    assert [case["method"] for case in cases] == list(PRESETS)


def test_a_replay_computes_and_corrects_as_the_method_does(monkeypatch):
    asked = []

    def own(inputs):
        asked.append(inputs)
        return torch.zeros_like(inputs.uniforms, dtype=torch.bool)

    monkeypatch.setitem(ACCEPT_RULES, "match", AcceptRule(own, ACCEPT_RULES["match"].correction))
    rule = replay([1.0], "cpu", "match")
    config = configure("jacobi", window=4, accept=rule)
    decoded = TimedEngine(tiny_model(), config, ["cat"] * 2, torch.arange(2)).run()
    assert rule.correction == "sampled"
    assert len(asked) == len(decoded.trace.fed)
    # All of a window of 4 is kept, though the method's own rule would keep none.
    assert len(asked) < 16


def test_embedded_models_stand_beside_a_llama_of_their_sizes():
    sizes = parameters()["training"]
    for name in ("emoji-64", "emoji-96", "emoji-128"):
        like, trained = SHAPES[name].like, sizes[name]
        assert like.hidden_size == trained["dim"]
        assert like.num_hidden_layers == trained["layers"]
        assert like.num_attention_heads == like.num_key_value_heads == trained["heads"]
        assert like.vocab_size == trained["codes"]
        config = LlamaGenConfig(trained["dim"], 1, 1, 1, 1, 1, 1)
        assert like.intermediate_size == config.feed_forward


def test_one_command_compares_threads_dtypes_and_compiled_forwards(tmp_path, tiny, monkeypatch):
    compiled = []

    def compile_model(model):
        compiled.append(model)
        return model

    def seen(model, config, batch, repeats, bytes_per_second):
        found = any(model is other for other in compiled), str(model.dtype), config.method
        return {"found": [*found, torch.get_num_threads(), batch, repeats, bytes_per_second]}

    monkeypatch.setattr(benchmarks.options, "compile_model", compile_model)
    monkeypatch.setattr(benchmarks.run, "measure", seen)
    output = tmp_path / "out.json"
    options = ["--shape", "tiny", "--methods", "ar,pjd", "--batches", "1,2", "--repeats", "5"]
    assert invoke("settings", "-o", str(output), *options, "--threads", "1,2").exit_code == 0
    cases = json.loads(output.read_text())["cases"]
    told = []
    for case in cases:
        setting = (case["compiled"], f"torch.{case['dtype']}", case["method"], case["threads"])
        told.append((*setting, case["batch"]))
        assert case["found"] == [*told[-1], 5, case["bandwidth"]]
    assert len(set(told)) == len(told) == 2**5


@pytest.mark.parametrize("context", [1, 2, 4])
def test_a_first_row_alone_costs_what_is_said(model, context):
    case = Case("", "zipar", {"context": context}, first_row_alone)
    counted = released.measured(model, ["cat", "dog"], case)
    assert (counted["steps"], counted["standard_error"]) == (12 + 4 * context, 0.0)


def test_codes_at_the_ends_are_drawn_one_by_one(model):
    def steps(first: int, last: int) -> float:
        case = Case("", "sjd", {}, OneByOne(first, last))
        return released.measured(model, ["cat", "dog"], case)["steps"]

    ours = released.measured(model, ["cat", "dog"], Case("", "sjd", {}))["steps"]
    assert steps(first=0, last=0) == ours
    # Where no draft may be, SJD is AR.
    assert steps(first=36, last=0) == steps(first=0, last=36) == 36
    assert ours < steps(first=3, last=17) < 36


def test_a_wide_group_of_codes_far_apart_is_the_ratio_test(model):
    def tokens(rule: object) -> torch.Tensor:
        return generate(model, ["cat", "dog"], "sjd", accept=rule, seed=4).tokens

    apart = wide_group(100 * torch.eye(11))
    together = wide_group(torch.zeros(11, 2))
    assert torch.equal(tokens(apart), tokens("ratio"))
    assert not torch.equal(tokens(together), tokens("ratio"))
    cases = released.cases(model)
    assert len(cases) == 17 and {case.method for case in cases} <= set(PRESETS)
