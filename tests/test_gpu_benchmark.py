"""`python -m benchmarks gpu`, rehearsed on a CPU, and the count of operations."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import gpu
from benchmarks.__main__ import app
from benchmarks.operations import Operations, in_the_middle, kernels, operations_of, tiny
from benchmarks.shapes import SHAPES, Shape, llama
from pjd.decoder.methods import configure
from pjd.measure.replay import random_llamagen
from pjd.models.llamagen import LlamaGenConfig
from tests.decoding import engine_of
from tests.tiny import tiny_model

CONFIG = LlamaGenConfig(16, 2, 2, 64, 8, prefix=4, caption_dim=8)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Runs the command on a tiny shape; returns what it wrote and printed."""
    like = llama(16, 32, 2, 2, 64)
    shape = Shape(partial(random_llamagen, replace(CONFIG, grid=8)), 2.0, 5, 2, like)
    monkeypatch.setitem(SHAPES, "small", shape)
    monkeypatch.setattr(gpu, "bandwidth", lambda device: 1e9)
    monkeypatch.setattr(gpu, "MODES", ("eager", "captured"))

    def run(*options: str):
        path = tmp_path / "gpu.json"
        told = ["gpu", "-o", str(path), "--device", "cpu", "--shapes", "small", *options]
        told += ["--dtype", "float32", "--iterations", "2"]
        done = CliRunner().invoke(app, told, standalone_mode=False)
        assert done.exception is None, done.output
        return json.loads(path.read_text()), done.output.splitlines()

    return run


def test_every_case_is_timed_and_the_last_line_is_json(small):
    written, lines = small("--batches", "1,2", "--methods", "ar,pjd")
    cases = {(c["mode"], c["batch"], c["method"]): c for c in written["cases"]}
    assert len(cases) == 2 * 2 * 2 == len(written["cases"])
    for case in cases.values():
        assert case["step_ms"] > 0 and case["forward_ms"] > 0 and case["tokens"] > 0
        assert case["rest_ms"] == pytest.approx(case["step_ms"] - case["forward_ms"])
        assert case["weights_ms"] > 0
    # Several rows are in flight: PJD computes several windows at once.
    assert cases["eager", 1, "ar"]["queries"] == 1 and cases["eager", 1, "pjd"]["queries"] > 8
    assert json.loads(lines[-1])["failed"] == 0 and len(lines) == 9


def test_a_case_that_fails_leaves_the_others_alone(small, monkeypatch):
    measure = gpu.measure

    def fail(model, config, case, *arguments):
        if case.method == "sjd":
            raise RuntimeError("CUDA out of memory")
        return measure(model, config, case, *arguments)

    monkeypatch.setattr(gpu, "measure", fail)
    written, lines = small("--batches", "1", "--methods", "sjd,ar")
    failed = [case for case in written["cases"] if "error" in case]
    assert [case["method"] for case in failed] == ["sjd", "sjd"]
    assert "out of memory" in failed[0]["error"] and "out of memory" in lines[0]
    assert json.loads(lines[-1]) == {**json.loads(lines[-1]), "cases": 4, "failed": 2}


def test_no_case_begins_after_the_time_limit(small):
    written, _ = small("--batches", "1", "--methods", "ar", "--seconds", "-1")
    assert all("not begun" in case["error"] for case in written["cases"])


@pytest.mark.parametrize("method", ["ar", "pjd", "mc-sjd"])
def test_a_state_in_the_middle_is_one_that_decoding_can_go_on_from(method):
    options = {"context": 2} if method == "pjd" else {}
    engine = engine_of(
        tiny_model(grid=8), configure(method, **options), ["cat"], torch.arange(1), static=True
    )
    state, trace = gpu.middle(engine), engine.empty_trace()
    half = engine.layout.length // 2
    assert abs(int(state.committed_total) - half) <= engine.layout.columns
    before = int(state.committed_total)
    with torch.inference_mode():
        engine.prefill()
        engine.shapes.look_ahead(state, 2)
        for _ in range(4):
            engine.step(state, trace)
    gained = trace.committed[:4, 0].sum(-1)
    assert (gained.diff() > 0).all() and int(gained[-1]) > before


GENERATED = """\
cpp_fused_mul_0 = async_compile.cpp_pybinding(['float*'], r'''
            for(int64_t x0=static_cast<int64_t>(0L); x0<2L; x0+=1L)
                for(int64_t x1=static_cast<int64_t>(0L); x1<2L; x1+=1L)
            for(int64_t x0=static_cast<int64_t>(0L); x0<8L; x0+=1L)
''')


cpp_fused_add_1 = async_compile.cpp_pybinding(['int64_t*'], r'''
            auto tmp0 = in_ptr0[static_cast<int64_t>(0L)];
''')
extern_kernels = None
    def call(self, args):
        cpp_fused_mul_0(buf0)
        extern_kernels.mm(buf0, buf1, out=buf2)
        buf3 = torch.ops.aten.sort.stable(buf2)
        cpp_fused_add_1(buf3)
"""


def test_kernels_are_loop_nests_and_calls_of_libraries():
    assert kernels(GENERATED) == 5


def test_operations_are_counted_by_part_and_views_are_not():
    x = torch.ones(4, 4)
    with Operations() as counted:
        (x + 1).view(16)[2:].unsqueeze(0).sum()
        counted.part = "other"
        x.mul_(2)
    assert counted.total("own") == 2 and counted.total("other") == 1


def test_an_iteration_asks_for_no_more_than_what_is_recorded():
    # docs/performance.md tells the numbers; a change that adds to them should be one on purpose.
    recorded = json.loads((gpu.RESULTS / "operations.json").read_text())["methods"]
    for method, options in (("ar", {}), ("pjd", {"context": 4})):
        config = configure(method, guidance=2.5, top_k=16, **options)
        with torch.inference_mode():
            counted = operations_of(*in_the_middle(tiny(1), config))
        assert counted.total("own") <= recorded[method]["own"]
