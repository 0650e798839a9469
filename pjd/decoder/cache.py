"""The slot KV cache: a slot is a position of the sequence, written in any order of decoding."""

from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor


class SlotMap(NamedTuple):
    """Which slot holds what: one for blanks, one stand-in per lane, the prompt, the image.

    Attributes:
        n_lanes: lanes of the band.
        prompt: positions of the prompt, padding included.
        image: positions of the image.
    """

    n_lanes: int
    prompt: int
    image: int

    @property
    def blank(self) -> int:
        """The slot that blank queries write."""
        return 0

    @property
    def first_stand_in(self) -> int:
        """The slot of the first lane's stand-in; only the query that writes it sees it."""
        return 1

    @property
    def first_prompt(self) -> int:
        """The slot of the prompt's first position."""
        return self.first_stand_in + self.n_lanes

    @property
    def first_image(self) -> int:
        """The slot of the image's first position; the others follow in raster order."""
        return self.first_prompt + self.prompt

    @property
    def total(self) -> int:
        """All slots."""
        return self.first_image + self.image


class SlotCache:
    """Keys and values of every layer, allocated once.

    Feeding the token of slot s writes slot s; a rejected draft is overwritten when its position
    is fed again. Nothing is cropped, moved or concatenated.

    Args:
        layers: transformer layers.
        batch: sequences, guidance branches included.
        heads: key-value heads.
        slots: see :class:`SlotMap`.
        head_dim: width of a head.
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
        self.slots = torch.zeros(batch, 0, dtype=torch.long, device=device)
        self.used: int | None = None
        self.fed: Tensor | None = None
        self.fixed = False

    def fix(self) -> "SlotCache":
        """Promise that keys and values stay where they are: a captured graph may write to them."""
        self.fixed = True
        for tensor in (self.keys, self.values):
            torch._dynamo.mark_static_address(tensor)
        return self

    def select(self, sequences: Tensor) -> "SlotCache":
        """A cache of the sequences at ``sequences`` int64 [fewer] alone."""
        cache = copy(self)
        cache.keys, cache.values = self.keys[:, sequences], self.values[:, sequences]
        cache.sequence = self.sequence[: len(sequences)]
        return cache.fix() if self.fixed else cache

    def at(self, slots: Tensor, used: int | None = None, fed: Tensor | None = None) -> "SlotCache":
        """Say where the next forward pass writes; returns the cache itself.

        Args:
            slots: int64 [batch, length]; where its keys and values go.
            used: how many slots it may read, the first ones; None: all.
            fed: int64 [rows]; the inputs that are no blanks, as indices into batch * length; None:
                all are computed. A model may make use of it, see :meth:`pack`.
        """
        self.slots, self.used, self.fed = slots, used, fed
        return self

    def pack(self, x: Tensor) -> Tensor:
        """The inputs that are fed, [rows, ...] of [batch, length, ...]; all if all are computed."""
        return x if self.fed is None else x.flatten(0, 1)[self.fed]

    def unpack(self, x: Tensor) -> Tensor:
        """What :meth:`pack` was given, [batch, length, ...], with zeros in the place of blanks."""
        if self.fed is None:
            return x
        padded = x.new_zeros(self.slots.numel(), *x.shape[1:])
        padded[self.fed] = x
        return padded.unflatten(0, self.slots.shape)

    def update_packed(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Like :meth:`update`, of what :meth:`pack` gave: [..., heads, head_dim]."""
        if self.fed is None:
            return self.update(key.transpose(1, 2), value.transpose(1, 2), layer)
        keys, values = self.keys[layer], self.values[layer]
        sequence = self.fed // self.slots.shape[1]
        slot = self.slots.flatten()[self.fed]
        keys[sequence, :, slot] = key
        values[sequence, :, slot] = value
        return keys[:, :, : self.used], values[:, :, : self.used]

    def update(self, key: Tensor, value: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Write [batch, heads, length, head_dim] to the slots that :meth:`at` named.

        Returns:
            Keys and values of the layer that may be read, [batch, heads, used, head_dim].
        """
        keys, values = self.keys[layer], self.values[layer]
        keys[self.sequence, :, self.slots] = key.transpose(1, 2)
        values[self.sequence, :, self.slots] = value.transpose(1, 2)
        return keys[:, :, : self.used], values[:, :, : self.used]
