"""Batches that processes share out: the same images, in the same order, and the same errors."""

import pytest
import torch

from pjd.api import decode
from pjd.decoder.methods import configure
from pjd.errors import LogitsError, ParameterError
from pjd.pipeline.processes import decode_on_cores
from tests.tiny import tiny_model

PROMPTS = ["cat", "dog", "red cat", "red dog", "cat dog"]


@pytest.mark.parametrize("method", ["ar", "sjd", "pjd"])
@pytest.mark.parametrize(("batch_size", "cores"), [(2, 2), (64, 2), (1, 3), (2, 1)])
def test_processes_decode_what_one_decodes(model, method, batch_size, cores):
    config = configure(method, seed=7, guidance=2.0)
    alone = decode(model, PROMPTS, config, batch_size=batch_size)
    shared = decode_on_cores(model, PROMPTS, config, batch_size, cores)
    assert torch.equal(shared.tokens, alone.tokens) and torch.equal(shared.steps, alone.steps)
    assert [image.tobytes() for image in shared.images] == [i.tobytes() for i in alone.images]
    for name in ("committed", "drafted", "accepted", "fed"):
        assert torch.equal(getattr(shared.trace, name), getattr(alone.trace, name))
    torch.testing.assert_close(shared.trace.variation, alone.trace.variation)
    assert shared.config == config and shared.seconds > 0


def test_what_stops_a_process_is_told():
    model = tiny_model(grid=3)
    model.transformer.output.weight.fill_(float("nan"))
    with pytest.raises(LogitsError, match="the image with seed 5, step 1"):
        decode_on_cores(model, PROMPTS[:2], configure("ar", seed=5), 1, 2)


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"cores": 0}, {"cores": 2.0}, {"prompts": []}]
)
def test_what_is_not_allowed_is_refused_before_a_process_starts(model, wrong):
    asked = {"prompts": PROMPTS, "batch_size": 2, "cores": 2} | wrong
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        decode_on_cores(model, config=configure("ar"), **asked)
