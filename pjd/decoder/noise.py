"""Counter-based randomness: a number depends on its keys alone, never on what was drawn before.

This is what makes an image independent of the batch it is in: no generator has a state that
another image could advance.
"""

from typing import NamedTuple

import torch
from torch import Tensor

ACCEPT, SAMPLE, DRAFT, FIXED = 1, 2, 3, 4
"""Streams: acceptance of a draft, sampled tokens, first drafts, fixed noise of a position."""

VERIFICATION = slice(ACCEPT, SAMPLE + 1)
"""The two streams that every verification reads, side by side."""


class Noise(NamedTuple):
    """Random numbers of one verification, independent of each other and of the drafts' own.

    Attributes:
        accept_uniforms: uniform [batch, queries] in [0, 1), for acceptance.
        sample_uniforms: uniform [batch, queries] in [0, 1), for drawing tokens.
        fixed_uniforms: uniform [batch, queries, ids] in [0, 1), the same in every iteration; None
            where no rule asks for it.
    """

    accept_uniforms: Tensor
    sample_uniforms: Tensor
    fixed_uniforms: Tensor | None = None


def _mix(x: Tensor | int) -> Tensor | int:
    """A bijection of 32-bit numbers (held in int64) whose output bits look independent."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)


def hashed(*keys: Tensor | int, state: Tensor | int = 0) -> Tensor | int:
    """A 32-bit number for each combination of the broadcast ``keys``.

    Args:
        keys: non-negative integers below 2**62, or int64 tensors of them.
        state: what earlier keys were hashed to: ``hashed(a, b)`` is ``hashed(b, state=hashed(a))``.
    """
    for key in keys:
        # A Python number stays one: a tensor would be copied to the device.
        state = _mix(state ^ _mix((key & 0xFFFFFFFF) ^ 0x9E3779B9))
        state = _mix(state ^ (key >> 32))
    return state


def streams(seeds: Tensor) -> Tensor:
    """States of all streams of ``seeds`` int64 [...], int64 [..., 5], for :func:`uniform`."""
    states = [torch.as_tensor(hashed(seeds, stream)) for stream in range(FIXED + 1)]
    return torch.stack(states, dim=-1)


def uniform(*keys: Tensor | int, state: Tensor | int = 0) -> Tensor:
    """Uniform numbers in [0, 1), one for each combination of the broadcast ``keys``.

    Args:
        keys: non-negative integers below 2**62, or int64 tensors of them: seed, stream,
            iteration, position.
        state: see :func:`hashed`.

    Returns:
        float32 tensor of the keys' broadcast shape, multiples of 2**-24.
    """
    number = torch.as_tensor(hashed(*keys, state=state))
    return (number >> 8).to(torch.float32) * 2.0**-24


def verification_noise(
    streams: Tensor, iteration: Tensor, position: Tensor, fixed_ids: int
) -> Noise:
    """Random numbers for the verification of the drafts at ``position``.

    Args:
        streams: int64 [batch, 1, 5], see :func:`streams`.
        iteration: int64 [batch, 1].
        position: int64 [batch, queries], raster positions.
        fixed_ids: number of token ids, if noise is wanted for each that is the same in every
            iteration; else 0.
    """
    fixed_uniforms = None
    if fixed_ids:
        ids = torch.arange(fixed_ids, device=position.device)
        fixed_uniforms = uniform(position[..., None], ids, state=streams[..., FIXED, None])
    both = uniform(iteration[..., None], position[..., None], state=streams[..., VERIFICATION])
    accept_uniforms, sample_uniforms = both.unbind(-1)
    return Noise(accept_uniforms, sample_uniforms, fixed_uniforms)
