"""Torch's global state: what a caller has changed changes no image, and stays as it was."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch

from pjd.api import generate
from pjd.decoder.ordinary import ordinary_state
from pjd.models.registry import available, load
from tests.decoding import PROMPTS
from tests.tiny import tiny_model


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Another default dtype."""
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    """Another default device."""
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


STATES = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: default_device("meta"),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}
State = Callable[[], AbstractContextManager[None]]
METHODS = {
    "ar": {},
    "mc-sjd": {"window": 5, "initial": "uniform"},
    "gsd": {"window": 4},
    "pjd": {"context": 2, "guidance": 2.0, "top_p": 0.9},
    "pjd-plus": {"context": 2, "initial": "sample-above", "min_p": 0.05},
}
every_state = pytest.mark.parametrize("state", STATES.values(), ids=STATES)


@every_state
@pytest.mark.parametrize("method", METHODS)
def test_codes_and_pixels_are_those_of_the_ordinary_state(state: State, method):
    model = tiny_model(grid=5, vocabulary=11)
    expected = generate(model, PROMPTS[:3], method, seed=3, **METHODS[method])
    with state():
        found = generate(model, PROMPTS[:3], method, seed=3, **METHODS[method])
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.steps, expected.steps)
    assert [image.tobytes() for image in found.images] == [
        image.tobytes() for image in expected.images
    ]


@every_state
@pytest.mark.skipif("emoji-64" not in available(), reason="no weights: run `make data`")
def test_a_model_that_is_loaded_under_another_state_is_the_same(state: State):
    expected = generate(load("emoji-64"), ["cat face, noto, on teal"], "pjd")
    with state():
        model = load("emoji-64")
    found = generate(model, ["cat face, noto, on teal"], "pjd")
    assert torch.equal(found.tokens, expected.tokens)
    assert found.images[0].tobytes() == expected.images[0].tobytes()


@every_state
def test_the_callers_state_is_there_again_afterwards(state: State):
    with state():
        before = torch.get_default_dtype(), torch.empty(0).device
        enabled = torch.is_autocast_enabled("cpu")
        with pytest.raises(KeyError), ordinary_state():
            assert torch.empty(0).dtype == torch.float32
            assert torch.empty(0).device.type == "cpu"
            assert not torch.is_autocast_enabled("cpu")
            raise KeyError
        assert (torch.get_default_dtype(), torch.empty(0).device) == before
        assert torch.is_autocast_enabled("cpu") == enabled
