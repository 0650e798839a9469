"""The slot KV cache: a slot is a place in the sequence, written whatever the order of decoding."""

from copy import copy

import torch
from torch import Tensor


class SlotCache:
    """Keys and values of every layer, allocated once.

    Feeding the token of slot s writes slot s; a rejected draft is overwritten when its position
    is fed again. Nothing is cropped, moved or concatenated.

    Args:
        layers: transformer layers.
        batch: sequences, guidance branches included.
        heads: key-value heads.
        slots: places in the sequence, scratch slots included.
        head_dim: numbers a head.
        dtype: of keys and values.
        device: where the cache lives.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        heads: int,
        slots: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """Allocate zeros: a NaN in a slot that is masked but read would spoil every logit."""
        shape = (layers, batch, heads, slots, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.sequence = torch.arange(batch, device=device)[:, None]
        self.slots: Tensor | None = None
        self.used: int | None = None
        self.fixed = False

    def fix(self) -> "SlotCache":
        """Promise that keys and values stay where they are: a captured graph may write to them."""
        self.fixed = True
        for tensor in (self.keys, self.values):
            torch._dynamo.mark_static_address(tensor)
        return self

    def take(self, kept: Tensor) -> "SlotCache":
        """A cache of the sequences at ``kept`` int64 [fewer] alone."""
        cache = copy(self)
        cache.keys, cache.values = self.keys[:, kept], self.values[:, kept]
        cache.sequence = self.sequence[: len(kept)]
        return cache.fix() if self.fixed else cache

    def at(self, slots: Tensor, used: int | None = None) -> "SlotCache":
        """Aim the next forward; returns the cache itself.

        Args:
            slots: int64 [batch, length]; where its keys and values go.
            used: how many slots it may look at, the first ones; None: all.
        """
        self.slots, self.used = slots, used
        return self

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Write [batch, heads, length, head_dim] to the current slots.

        Returns:
            Keys and values of the layer that may be looked at, [batch, heads, used, head_dim].
        """
        keys, values = self.keys[layer], self.values[layer]
        keys[self.sequence, :, self.slots] = key.transpose(1, 2)
        values[self.sequence, :, self.slots] = value.transpose(1, 2)
        return keys[:, :, : self.used], values[:, :, : self.used]
