"""Attention of few queries over many keys: the same sums by several kernels, the fastest of them.

A GPU's kernels for attention are made for as many queries as keys. A decoder has 1 to some 100
queries over a thousand keys or more, for which two plain products may be faster.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pjd.decoder.cache import LayerCache
from pjd.decoder.capture import cuda_recorder

Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""From queries [batch, heads, length, head_dim], keys and values [batch, heads, keys, head_dim]
and a mask [batch, 1, length, keys] to sums of values, shaped as the queries."""

REPEATS = 20
"""Calls of a kernel that are timed together: one alone is too short."""


def sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """``scaled_dot_product_attention``: the reference, and all that a CPU uses."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Two batched products, and a softmax in single precision between them.

    Args:
        query: see :data:`Attend`.
        key: of the same dtype.
        value: of the same dtype.
        mask: what is added to the scores.
    """
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    shares = (scores.float() + mask).softmax(-1)
    return shares.to(value.dtype) @ value


def attend_through(
    cache: LayerCache | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    attend: Attend,
) -> Tensor:
    """Write keys and values to a cache, and attend to what it then has; or to the inputs alone.

    Args:
        cache: of the layer; None: there is none.
        query: [batch, length, heads, head_dim], or packed, see
            :meth:`pjd.decoder.cache.Placement.pack`.
        key: of the same shape.
        value: of the same shape.
        mask: see :data:`Attend`.
        attend: the kernel.

    Returns:
        [batch, length, heads * head_dim], or packed.
    """
    if cache is None:
        key, value = key.transpose(1, 2), value.transpose(1, 2)
    else:
        query = cache.place.unpack(query)
        key, value = cache.update(key, value)
    out = attend(query.transpose(1, 2), key, value, mask).transpose(1, 2).flatten(-2)
    return out if cache is None else cache.place.pack(out)


KERNELS: dict[str, Attend] = {"sdpa": sdpa, "products": products}
"""The choices, by name."""

_fastest: dict[tuple[object, ...], Attend] = {}


def seconds(attend: Attend, *inputs: Tensor) -> float:
    """Seconds of :data:`REPEATS` calls on a GPU, captured as they are in an iteration."""

    def repeat() -> None:
        for _ in range(REPEATS):
            attend(*inputs)

    repeat()
    replay = cuda_recorder()(repeat)
    replay()
    torch.cuda.synchronize()
    began = time.perf_counter()
    replay()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def fastest(queries: int, keys: Tensor, mask: Tensor) -> Attend:
    """The kernel for inputs of these shapes, measured when they are met for the first time.

    Args:
        queries: per sequence.
        keys: [batch, heads, keys, head_dim]; where they are and their shape count.
        mask: a boolean one is left to :func:`sdpa`.
    """
    if keys.device.type != "cuda" or mask.dtype == torch.bool:
        return sdpa
    shape = queries, keys.shape, keys.dtype
    if shape not in _fastest:
        query = torch.randn_like(keys[:, :, :1]).expand(-1, -1, queries, -1).contiguous()
        try:
            times = {one: seconds(one, query, keys, keys, mask) for one in KERNELS.values()}
            _fastest[shape] = min(times, key=lambda one: times[one])
        except RuntimeError:
            # What cannot be captured cannot be timed so; the reference always works.
            _fastest[shape] = sdpa
    return _fastest[shape]
