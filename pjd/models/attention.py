"""Attention of few queries over many keys: the same sums by several kernels, the fastest of them.

A GPU's kernels for attention are made for as many queries as keys. A decoder has 1 to some 100
queries over a thousand keys or more, for which two plain products may be faster.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from pjd.decoder.cache import KeyValueCache, LayerCache
from pjd.decoder.capture import cuda_recorder

Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""From queries [batch, heads, length, head_dim], keys and values [batch, key-value heads, keys,
head_dim] and a mask [batch, 1, length, keys] to sums of values, shaped as the queries. Each head of
keys and values serves as many heads of queries, which follow each other."""

REPEATS = 20
"""Calls of a kernel that are timed together: one alone is too short."""

TRIALS = 5
"""How often they are timed; the first replay is slower."""

MARGIN = 1.05
"""How many times slower than another kernel the reference must be. Kernels round differently, so
chance should not choose between two that are as fast."""


def sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """``scaled_dot_product_attention``: the reference, and all that a CPU uses."""
    group = query.shape[1] // key.shape[1]
    if group > 1:
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Two batched products, and a softmax in single precision between them.

    Args:
        query: see :data:`Attend`.
        key: of the same dtype.
        value: of the same dtype.
        mask: what is added to the scores.
    """
    # All queries that a head of keys serves are rows of one product.
    rows = query.unflatten(1, (key.shape[1], -1)).flatten(2, 3)
    scores = (rows * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    scores = scores.view(*query.shape[:3], -1).float() + mask
    shares = scores.softmax(-1).to(value.dtype)
    return (shares.view(*rows.shape[:3], -1) @ value).view(query.shape)


def flex(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """FlexAttention, which has a kernel for few queries that splits the keys; to be compiled.

    Args:
        query: see :data:`Attend`.
        key: of the same dtype.
        value: of the same dtype.
        mask: what is added to the scores.
    """

    def masked(score: Tensor, batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return score + mask[batch, 0, row, column]

    grouped = query.shape[1] != key.shape[1]
    out = flex_attention(query, key, value, score_mod=masked, enable_gqa=grouped)
    assert isinstance(out, Tensor)
    return out


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

COMPILED_KERNELS: dict[str, Attend] = {**KERNELS, "flex": flex}
"""The choices within a block that is compiled, by name."""

_fastest: dict[tuple[object, ...], Attend] = {}


def seconds(attend: Attend, *inputs: Tensor) -> float:
    """Seconds of :data:`REPEATS` calls on a GPU, captured as they are in an iteration: the fewest.

    Infinitely many if a kernel cannot be compiled for such inputs, or cannot be captured.
    """

    def repeat() -> None:
        for _ in range(REPEATS):
            attend(*inputs)

    try:
        repeat()
        replay = cuda_recorder()(repeat)
        times = []
        for _ in range(TRIALS):
            torch.cuda.synchronize()
            began = time.perf_counter()
            replay()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
    except RuntimeError:
        return float("inf")
    return min(times)


def fastest(
    cache: KeyValueCache | None, heads: int, length: int, mask: Tensor, compiled: bool
) -> Attend:
    """The kernel for inputs of these shapes, measured when they are met for the first time.

    Args:
        cache: on one device, told the slots of this forward pass; None, a CPU's, or with a boolean
            mask: :func:`sdpa`.
        heads: of queries.
        length: queries per sequence.
        mask: [batch, 1, length, keys].
        compiled: whether the kernel becomes a part of a block that is compiled.
    """
    if cache is None or mask.dtype == torch.bool:
        return sdpa
    layer = cache.layer(0)
    keys = layer.keys[:, :, : layer.place.used]
    if keys.device.type != "cuda":
        return sdpa
    case = heads, length, keys.shape, keys.dtype, compiled
    if case not in _fastest:
        # Zeros: random numbers would be drawn from the user's own generator.
        query = torch.zeros_like(keys[:, :1, :1]).repeat(1, heads, length, 1)
        kernels = COMPILED_KERNELS if compiled else KERNELS
        times = {}
        for attend in kernels.values():
            run = torch.compile(attend, fullgraph=True, dynamic=False) if compiled else attend
            times[attend] = seconds(run, query, keys, keys, mask)
        quickest = min(times, key=lambda one: times[one])
        _fastest[case] = quickest if MARGIN * times[quickest] < times[sdpa] else sdpa
    return _fastest[case]
