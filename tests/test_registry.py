"""Models by name: what is missing is said, and compiled forward passes change no token."""

from functools import partial

import pytest
import torch

from pjd.decoder.methods import configure
from pjd.errors import ParameterError
from pjd.models import emoji
from pjd.models.registry import compile_forward, resolve
from tests.decoding import PROMPTS, decode_ten, engine_of
from tests.tiny import tiny_model


def test_missing_weights_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("pjd.models.registry.WEIGHTS", tmp_path)
    for name in ("emoji", "emoji-64"):
        with pytest.raises(ParameterError, match="dvc pull"):
            resolve(name)
    with pytest.raises(FileNotFoundError, match="dvc pull"):
        emoji.load("x", tmp_path)


def test_all_forward_passes_of_a_compiled_model_are_compiled(monkeypatch):
    model, called = tiny_model(grid=12, vocabulary=11), []
    eager = torch.compile

    def compile_cheaply(function, **options):
        return eager(function, dynamic=False, backend=lambda graph, _: partial(count, graph))

    def count(graph, *inputs):
        called.append(1)
        return graph.forward(*inputs)

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", compile_cheaply)
    compile_forward(model)
    passes = 0
    for method, options in (("pjd", {"context": 2}), ("pjd-plus", {"context": 4}), ("sjd", {})):
        config = configure(method, **options)
        engine = engine_of(model, config, 4 * PROMPTS[:4], torch.arange(16), static=True)
        passes += len(engine.run().trace.fed) + 1
    assert len(called) == passes


@pytest.mark.slow
@pytest.mark.parametrize("static", [False, True])
def test_compiled_forward_passes_change_no_token(static):
    plain = tiny_model(grid=4)
    compiled = compile_forward(tiny_model(grid=4))
    expected, _ = decode_ten(plain, "pjd", static)
    assert torch.equal(decode_ten(compiled, "pjd", static)[0], expected)
