"""A captured iteration is the iteration: replayed with all that the host chose frozen, it draws
the same codes."""

from dataclasses import fields

import pytest
import torch

from pjd.decoder.capture import Captured
from pjd.decoder.engine import Engine
from pjd.decoder.methods import PRESETS, configure
from pjd.decoder.trace import COUNTS
from tests.backbones import tiny_llama
from tests.decoding import BY_ROWS, PROMPTS, engine_of
from tests.tape import Tape, recorder
from tests.tiny import tiny_model


def decode(engine: Engine, capture: bool) -> tuple[list, list[Tape]]:
    """Codes and trace of a batch, and the graphs that were recorded."""
    tapes: list[Tape] = []
    initial_state, empty_trace, select = engine.initial_state, engine.empty_trace, engine.select
    live: dict[str, object] = {}

    def written() -> list[torch.Tensor]:
        state, trace = live["state"], live["trace"]
        kept = [getattr(state, field.name) for field in fields(state)]
        kept += [getattr(trace, name) for name in (*COUNTS, "variation")]
        return [*kept, engine.cache.keys, engine.cache.values]

    engine.initial_state = lambda: live.setdefault("state", initial_state())
    engine.empty_trace = lambda: live.setdefault("trace", empty_trace())

    def selected(state, images):
        live["state"] = select(state, images)
        return live["state"]

    engine.select = selected
    if capture:
        engine.recorder = recorder(written, tapes)
    done = engine.run()
    return [done.tokens, *(getattr(done.trace, name) for name in (*COUNTS, "variation"))], tapes


def agree(make) -> int:
    """Decode with and without graphs, and compare; returns how many were recorded."""
    (plain, none), (captured, tapes) = decode(make(), False), decode(make(), True)
    assert not none and tapes
    for one, other in zip(plain, captured, strict=True):
        assert torch.equal(one, other)
    return len(tapes)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("method", sorted(PRESETS))
def test_every_preset_draws_the_same_codes(method, guidance):
    options = {"context": 2} if method in BY_ROWS else {}
    config = configure(method, guidance=guidance, **options)
    model = tiny_model(grid=6, vocabulary=11)
    agree(lambda: engine_of(model, config, PROMPTS[:3], torch.arange(3), static=True))


@pytest.mark.parametrize("method", ["ar", "sjd", "pjd", "pjd-plus", "pjd-staircase", "zipar"])
@pytest.mark.parametrize("images", [1, 5])
def test_a_format_with_row_ends_draws_the_same_codes(method, images):
    config = configure(method, guidance=2.0, **({"context": 2} if method in BY_ROWS else {}))
    model, _ = tiny_llama(row_end=True)
    prompts = PROMPTS[:images]
    agree(lambda: engine_of(model, config, prompts, torch.arange(images), static=True))


def test_there_is_a_graph_for_each_number_of_images_and_rows():
    config = configure("pjd", context=2)
    model = tiny_model(grid=8, vocabulary=11)

    def made(images: int) -> int:
        prompts = (PROMPTS * 2)[:images]
        return agree(lambda: engine_of(model, config, prompts, torch.arange(images), static=True))

    assert 2 <= made(1) <= 4
    assert made(8) <= 12


def test_what_cannot_be_captured_runs_as_it_is():
    done = []

    def refuse(function):
        raise RuntimeError("operation not permitted when stream is capturing")

    captured = Captured(refuse)
    with pytest.warns(UserWarning, match="not captured, which is slower: operation not permitted"):
        for _ in range(4):
            captured.run("key", lambda: done.append(1))
    assert len(done) == 4


def test_the_first_iteration_of_a_kind_is_not_recorded():
    recorded, done = [], []

    def record(function):
        recorded.append(1)
        return function

    captured = Captured(record)
    for key in ("a", "b", "a", "a"):
        captured.run(key, lambda: done.append(1))
    assert len(done) == 4 and len(recorded) == 1
    captured.forget()
    captured.run("a", lambda: done.append(1))
    assert len(done) == 5 and len(recorded) == 1


def test_a_tape_refuses_what_the_host_reads():
    with pytest.raises(RuntimeError, match="the host reads"), Tape():
        int(torch.zeros(1))
