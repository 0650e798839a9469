"""The slot KV cache: a slot is a position of the sequence, written in any order of decoding."""

from copy import copy
from typing import NamedTuple, Protocol

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


class Placement(NamedTuple):
    """Where the inputs of one forward pass go: worked out once, used by every layer.

    Attributes:
        sequence: int64, index of each input's sequence, [batch, 1], or [rows] if packed.
        slot: int64, the slot of each input, [batch, length], or [rows] if packed.
        used: how many slots may be read, the first ones; None: all.
        fed: int64 [rows]; the inputs that are no blanks, as indices into batch * length; None: all
            are computed.
        shape: batch and length.
    """

    sequence: Tensor
    slot: Tensor
    used: int | None
    fed: Tensor | None
    shape: torch.Size

    def pack(self, x: Tensor) -> Tensor:
        """The inputs that are fed, [rows, ...] of [batch, length, ...]; all if all are computed."""
        return x if self.fed is None else x.flatten(0, 1)[self.fed]

    def unpack(self, x: Tensor) -> Tensor:
        """What :meth:`pack` was given, [batch, length, ...], with zeros in the place of blanks."""
        if self.fed is None:
            return x
        padded = x.new_zeros(self.shape.numel(), *x.shape[1:])
        padded[self.fed] = x
        return padded.unflatten(0, self.shape)


class LayerCache(NamedTuple):
    """Keys and values of one layer, and where the inputs of this forward pass go.

    Attributes:
        keys: [batch, heads, slots, head_dim].
        values: of the same shape.
        place: of the inputs.
    """

    keys: Tensor
    values: Tensor
    place: Placement

    def update(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write the inputs' keys and values, [batch, length, heads, head_dim] or packed.

        Returns:
            Keys and values that may be read, [batch, heads, used, head_dim].
        """
        sequence, slot, used, *_ = self.place
        self.keys[sequence, :, slot] = key
        self.values[sequence, :, slot] = value
        return self.keys[:, :, :used], self.values[:, :, :used]


class KeyValueCache(Protocol):
    """What the engine and the models ask of a cache, on one device or on several."""

    @property
    def place(self) -> Placement:
        """Where the inputs of this forward pass go, on the device that they come from."""
        ...

    def select(self, sequences: Tensor) -> "KeyValueCache":
        """A cache of the sequences at ``sequences`` int64 [fewer] alone."""
        ...

    def at(
        self, slots: Tensor, used: int | None = None, fed: Tensor | None = None
    ) -> "KeyValueCache":
        """Say where the next forward pass writes, see :meth:`SlotCache.at`."""
        ...

    def leave_out_blanks(self) -> Placement:
        """Where inputs go if blanks are left out, see :meth:`SlotCache.leave_out_blanks`."""
        ...

    def layer(self, index: int) -> LayerCache:
        """The part of one layer."""
        ...


class SlotCache:
    """Keys and values of every layer on one device, allocated once; a :class:`KeyValueCache`.

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

    place: Placement
    fed: Tensor | None

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

    def select(self, sequences: Tensor) -> "SlotCache":
        """A cache of the sequences at ``sequences`` int64 [fewer] alone."""
        cache = copy(self)
        cache.keys, cache.values = self.keys[:, sequences], self.values[:, sequences]
        return cache

    def at(self, slots: Tensor, used: int | None = None, fed: Tensor | None = None) -> "SlotCache":
        """Say where the next forward pass writes; returns the cache itself.

        Args:
            slots: int64 [batch, length]; where its keys and values go.
            used: how many slots it may read, the first ones; None: all.
            fed: int64 [rows]; the inputs that are no blanks, as indices into batch * length; None:
                not known. A model may make use of it, see :meth:`leave_out_blanks`.
        """
        sequence = torch.arange(len(slots), device=slots.device)[:, None]
        self.place, self.fed = Placement(sequence, slots, used, None, slots.shape), fed
        return self

    def leave_out_blanks(self) -> Placement:
        """Where inputs go if those that are no blanks are computed alone, as far as it is known.

        A model that calls it packs its inputs, :meth:`Placement.pack`; only the work changes.
        """
        place, fed = self.place, self.fed
        if fed is not None:
            sequence, slot = fed // place.shape[1], place.slot.flatten()[fed]
            self.place = Placement(sequence, slot, place.used, fed, place.shape)
        return self.place

    def layer(self, index: int) -> LayerCache:
        """The part of one layer."""
        return LayerCache(self.keys[index], self.values[index], self.place)


class SplitCache:
    """A :class:`KeyValueCache` of layers on several devices: one :class:`SlotCache` on each.

    It leaves out no blanks: layers that are spread over devices compute them too.

    Args:
        devices: of each layer.
        batch: see :class:`SlotCache`.
        heads: see :class:`SlotCache`.
        slots: see :class:`SlotCache`.
        head_dim: see :class:`SlotCache`.
        dtype: see :class:`SlotCache`.
    """

    def __init__(
        self,
        devices: list[torch.device],
        batch: int,
        heads: int,
        slots: int,
        head_dim: int,
        dtype: torch.dtype,
    ) -> None:
        """Allocate the caches, and note which layer of which one a layer is."""
        self.parts = {
            device: SlotCache(devices.count(device), batch, heads, slots, head_dim, dtype, device)
            for device in dict.fromkeys(devices)
        }
        self.layers = [(one, devices[:index].count(one)) for index, one in enumerate(devices)]

    @property
    def place(self) -> Placement:
        """Where inputs go, on the device of the first layer."""
        return self.layer(0).place

    def select(self, sequences: Tensor) -> "SplitCache":
        """A cache of the sequences at ``sequences`` int64 [fewer] alone."""
        cache = copy(self)
        cache.parts = {
            device: part.select(sequences.to(device)) for device, part in self.parts.items()
        }
        return cache

    def at(self, slots: Tensor, used: int | None = None, fed: Tensor | None = None) -> "SplitCache":
        """Say where the next forward pass writes, once for each device; returns the cache itself.

        Args:
            slots: see :meth:`SlotCache.at`.
            used: see :meth:`SlotCache.at`.
            fed: not used.
        """
        for device, part in self.parts.items():
            part.at(slots.to(device), used)
        return self

    def leave_out_blanks(self) -> Placement:
        """Where inputs go: blanks are computed too."""
        return self.place

    def layer(self, index: int) -> LayerCache:
        """The part of one layer."""
        device, number = self.layers[index]
        return self.parts[device].layer(number)
