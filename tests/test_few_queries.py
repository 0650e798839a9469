"""Attention by other kernels is attention, and the fastest one is taken once per shape."""

import pytest
import torch

from pjd.decoder.inputs import bias
from pjd.models import attention
from pjd.models.attention import KERNELS, fastest, products, sdpa


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(KERNELS))
def test_every_kernel_is_attention(name, dtype):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, 3, length, 16, generator=generator).to(dtype) for length in (5, 40, 40)
    )
    seen = torch.rand(2, 1, 5, 40, generator=generator) < 0.3
    seen[..., 0] = True
    expected = sdpa(query.double(), key.double(), value.double(), bias(seen, torch.float64))
    found = KERNELS[name](query, key, value, bias(seen, dtype))
    assert found.dtype == dtype and found.shape == query.shape
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(found.double(), expected, atol=tolerance, rtol=tolerance)


class OnGpu:
    """Keys that say they are on a GPU."""

    device, dtype, shape = torch.device("cuda"), torch.bfloat16, torch.Size([2, 3, 40, 16])

    def __getitem__(self, index):
        return torch.zeros(2, 3, 1, 16)


def test_the_fastest_is_measured_once_for_each_shape(monkeypatch):
    timed = []

    def seconds(attend, *inputs):
        timed.append(attend)
        return 1.0 if attend is products else 2.0

    monkeypatch.setattr(attention, "seconds", seconds)
    monkeypatch.setattr(attention, "_fastest", {})
    keys, mask = OnGpu(), torch.zeros(2, 1, 5, 40)
    assert fastest(5, keys, mask) is products and fastest(5, keys, mask) is products
    assert len(timed) == len(KERNELS)
    fastest(6, keys, mask)
    assert len(timed) == 2 * len(KERNELS)


def test_what_cannot_be_timed_is_left_to_the_reference(monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(attention, "seconds", fail)
    monkeypatch.setattr(attention, "_fastest", {})
    assert fastest(5, OnGpu(), torch.zeros(2, 1, 5, 40)) is sdpa


def test_a_cpu_and_a_boolean_mask_have_the_reference():
    assert fastest(5, torch.zeros(2, 3, 40, 16), torch.zeros(2, 1, 5, 40)) is sdpa
    assert fastest(5, OnGpu(), torch.ones(2, 1, 5, 40, dtype=torch.bool)) is sdpa
