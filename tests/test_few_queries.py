"""Attention by other kernels is attention, and the fastest one is taken once per shape."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from pjd.decoder.compiled import compile_model
from pjd.decoder.inputs import bias
from pjd.decoder.methods import configure
from pjd.models import attention
from pjd.models.attention import COMPILED_KERNELS, KERNELS, fastest, flex, products, sdpa
from tests.backbones import MODELS
from tests.decoding import PROMPTS, engine_of
from tests.tiny import tiny_model

# Uncompiled, FlexAttention says that it is slow.
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")


def inputs(dtype: torch.dtype, group: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Six heads of queries, the keys and values that groups of them share, and who sees whom."""
    generator = torch.Generator().manual_seed(0)
    shapes = (6, 5), (6 // group, 40), (6 // group, 40)
    drawn = [torch.randn(2, *shape, 16, generator=generator).to(dtype) for shape in shapes]
    seen = torch.rand(2, 1, 5, 40, generator=generator) < 0.3
    seen[..., 0] = True
    return drawn, seen


def check(attend: attention.Attend, dtype: torch.dtype, group: int) -> None:
    (query, key, value), seen = inputs(dtype, group)
    wide = [x.double().repeat_interleave(6 // x.shape[1], 1) for x in (query, key, value)]
    expected = F.scaled_dot_product_attention(*wide, attn_mask=seen)
    found = attend(query, key, value, bias(seen, dtype))
    assert found.dtype == dtype and found.shape == query.shape
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(COMPILED_KERNELS))
def test_every_kernel_is_attention(name, dtype, group):
    check(COMPILED_KERNELS[name], dtype, group)


@pytest.mark.slow
def test_flex_attention_is_attention_once_it_is_compiled():
    torch._dynamo.reset()
    check(torch.compile(flex, fullgraph=True, dynamic=False), torch.float32, group=3)


@pytest.mark.parametrize("name", sorted(COMPILED_KERNELS))
@pytest.mark.parametrize("family", ["llamagen", *MODELS])
def test_models_give_the_same_logits_by_every_kernel(family, name, monkeypatch):
    model = tiny_model(grid=6, vocabulary=11) if family == "llamagen" else MODELS[family]()[0]
    used = []

    def attend(*tensors):
        used.append(tensors[0].shape)
        return COMPILED_KERNELS[name](*tensors)

    def logits():
        prompt = model.encode(PROMPTS, guided=True)
        batch, length = prompt.mask.shape
        cache = model.cache(batch, length).at(torch.arange(length).expand(batch, -1))
        seen = torch.ones(length, length, dtype=torch.bool).tril() & prompt.mask[:, None, None]
        mask = bias(seen | torch.eye(length, dtype=torch.bool), model.dtype)
        return model.forward(prompt.embeddings, prompt.positions, mask, cache)[prompt.mask]

    with torch.no_grad():
        expected = logits()
        for module in ("llamagen", "transformers_decoder"):
            monkeypatch.setattr(f"pjd.models.{module}.fastest", lambda *_: attend)
        found = logits()
    assert len(used) >= 2
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llamagen", "llama"])
def test_flex_attention_becomes_a_part_of_a_compiled_block(family, monkeypatch):
    model = tiny_model(grid=6, vocabulary=11) if family == "llamagen" else MODELS[family]()[0]
    config = configure("sjd", guidance=2.0, temperature=0)
    expected = engine_of(model, config, PROMPTS[:1], torch.arange(1), static=True).run().tokens
    torch._dynamo.reset()
    # Without generated code, which the test before this one is about.
    plain = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *a, **o: plain(*a, **o, backend="eager"))
    compile_model(model)
    asked = []

    def fastest(cache, heads, length, mask, compiled):
        asked.append(compiled)
        return sdpa if mask.dtype == torch.bool else flex

    for module in ("llamagen", "transformers_decoder"):
        monkeypatch.setattr(f"pjd.models.{module}.fastest", fastest)
    found = engine_of(model, config, PROMPTS[:1], torch.arange(1), static=True).run().tokens
    assert torch.equal(found, expected) and all(asked)


class OnGpu:
    """A cache of one layer that says it is on a GPU."""

    def layer(self, index):
        keys = Keys(torch.zeros(2, 3, 40, 16))
        return SimpleNamespace(keys=keys, place=SimpleNamespace(used=40))


class Keys:
    """Keys that say they are on a GPU."""

    device, dtype, shape = torch.device("cuda"), torch.bfloat16, torch.Size([2, 3, 40, 16])

    def __init__(self, keys):
        self.keys = keys

    def __getitem__(self, index):
        return self if index[-1] == slice(40) else self.keys[index]


MASK = torch.zeros(2, 1, 5, 40)


@pytest.mark.parametrize(("compiled", "kernels"), [(False, KERNELS), (True, COMPILED_KERNELS)])
def test_the_fastest_is_measured_once_for_each_shape(compiled, kernels, monkeypatch):
    shapes = []

    def seconds(attend, query, *inputs):
        shapes.append(query.shape)
        return 1.0 if len(shapes) % len(kernels) == 2 % len(kernels) else 2.0

    monkeypatch.setattr(attention, "seconds", seconds)
    monkeypatch.setattr(attention, "_fastest", {})
    for _ in range(2):
        assert fastest(OnGpu(), 6, 5, MASK, compiled) is products
    assert shapes == [(2, 6, 5, 16)] * len(kernels)
    fastest(OnGpu(), 6, 4, MASK, compiled)
    assert len(shapes) == 2 * len(kernels)


@pytest.mark.parametrize(("others", "expected"), [(0.97, sdpa), (0.9, products)])
def test_a_kernel_that_is_hardly_faster_is_not_taken(monkeypatch, others, expected):
    monkeypatch.setattr(attention, "seconds", lambda one, *_: 1.0 if one is sdpa else others)
    monkeypatch.setattr(attention, "_fastest", {})
    assert fastest(OnGpu(), 6, 5, MASK, False) is expected


def test_a_kernel_that_cannot_be_timed_is_not_taken(monkeypatch):
    def recorder():
        return lambda function: function

    def broken(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(attention, "cuda_recorder", recorder)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert attention.seconds(broken) == float("inf")
    assert attention.seconds(lambda: None) < 1


def test_a_cpu_and_a_boolean_mask_have_the_reference():
    here = SimpleNamespace(keys=torch.zeros(2, 3, 40, 16), place=SimpleNamespace(used=40))
    cache = SimpleNamespace(layer=lambda _: here)
    for compiled in (False, True):
        assert fastest(cache, 6, 5, MASK, compiled) is sdpa
        assert fastest(OnGpu(), 6, 5, MASK.bool(), compiled) is sdpa
        assert fastest(None, 6, 5, MASK, compiled) is sdpa
