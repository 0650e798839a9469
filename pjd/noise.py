"""Counter-based randomness: a number depends on its keys alone, never on what was drawn before.

This is what makes an image independent of the batch it is in: no generator has a state that
another image could advance.
"""

import torch
from torch import Tensor

COIN, TOKEN, DRAFT, FIXED = 1, 2, 3, 4
"""Streams: verification coins, sampled tokens, initial drafts, fixed noise of a position."""


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit numbers (held in int64) whose output bits look independent."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)


def uniform(*keys: Tensor | int) -> Tensor:
    """Uniform numbers in [0, 1), one for each combination of the broadcast ``keys``.

    Args:
        keys: non-negative integers below 2**62 or int64 tensors of them: seed, stream,
            iteration, position.

    Returns:
        float32 tensor of the keys' broadcast shape, multiples of 2**-24.
    """
    state: Tensor = torch.zeros((), dtype=torch.int64)
    for key in keys:
        key = torch.as_tensor(key)
        state = state.to(key.device) if key.ndim else state
        state = _mix(state ^ _mix((key & 0xFFFFFFFF) ^ 0x9E3779B9))
        state = _mix(state ^ (key >> 32))
    return (state >> 8).to(torch.float32) * 2.0**-24
