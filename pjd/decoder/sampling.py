"""Logits to probabilities to tokens."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pjd.decoder.config import DecodeConfig


def guide(logits: Tensor, guidance: float | Tensor) -> Tensor:
    """Classifier-free guidance: u + s (c - u).

    Args:
        logits: [2 * batch, ..., vocabulary], conditional branch first.
        guidance: the scale s, one for all or float [...], one per position. It would scale an
            error of rounding to 16 bits too, so the sum is in single precision.

    Returns:
        float32 [batch, ..., vocabulary].
    """
    conditional, unconditional = logits.float().chunk(2)
    if isinstance(guidance, Tensor):
        guidance = guidance[..., None]
    guided = unconditional + guidance * (conditional - unconditional)
    # A token that both branches rule out stays so: minus infinity less itself is no number.
    out = torch.maximum(conditional, unconditional) == float("-inf")
    return guided.masked_fill(out, float("-inf"))


def probabilities(logits: Tensor, config: DecodeConfig) -> Tensor:
    """The distribution that tokens are drawn from: temperature, then top-k, top-p and min-p.

    Temperature 0 puts all mass on the likeliest token, which makes every decoder greedy.

    Args:
        logits: guided logits [..., vocabulary].
        config: sampling options.

    Returns:
        float32 [..., vocabulary]; the last axis sums to 1.
    """
    logits = logits.float()
    if config.temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    logits = logits / config.temperature
    if config.top_k:
        # By scattering, not by a threshold: a threshold keeps more than k where logits tie.
        top, ids = logits.topk(min(config.top_k, logits.shape[-1]), dim=-1)
        logits = torch.full_like(logits, float("-inf")).scatter(-1, ids, top)
    if config.top_p < 1:
        ordered, ids = logits.sort(dim=-1, descending=True)
        share = ordered.softmax(-1)
        # A token stays while the mass before it is below top_p; the first always stays.
        ordered = ordered.masked_fill(cumulated(share) - share >= config.top_p, float("-inf"))
        logits = torch.full_like(logits, float("-inf")).scatter(-1, ids, ordered)
    if config.min_p:
        least = logits.amax(-1, keepdim=True) + math.log(config.min_p)
        logits = logits.masked_fill(logits < least, float("-inf"))
    return logits.softmax(-1)


def has_finite_maximum(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Whether tokens can be drawn from ``logits`` [..., vocabulary], bool [...].

    They cannot if one is NaN or infinite, or if all are minus infinity. Some may be minus infinity:
    these tokens are excluded.
    """
    # A low temperature may carry finite logits beyond the largest number.
    return torch.isfinite(logits.amax(-1).float() / (temperature or 1.0))


def with_forced_token(probs: Tensor, forced: Tensor) -> Tensor:
    """Append the row-end token: probability 1 where the format forces it, else 0.

    Args:
        probs: float [..., vocabulary].
        forced: bool [...].

    Returns:
        float [..., vocabulary + 1].
    """
    probs = F.pad(probs.masked_fill(forced[..., None], 0.0), (0, 1))
    probs[..., -1:] += forced[..., None]
    return probs


@torch.library.custom_op("pjd::cumulated_apart", mutates_args=())
def cumulated_apart(weights: Tensor) -> Tensor:
    """Sums along the last axis, as an operation that no compiler looks into."""
    return weights.cumsum(-1)


@cumulated_apart.register_fake
def _(weights: Tensor) -> Tensor:
    """What it returns, for the compiler."""
    return torch.empty_like(weights)


def cumulated(weights: Tensor) -> Tensor:
    """Sums of ``weights`` [..., vocabulary] along the last axis.

    Inductor (torch 2.11) makes no code for it on a GPU where the axis has 16,384 numbers.
    """
    return cumulated_apart(weights) if torch.compiler.is_compiling() else weights.cumsum(-1)


def inverse_cdf_sample(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw a token from unnormalised ``weights`` by inversion of the cumulative sum.

    Args:
        weights: non-negative [..., vocabulary] with a positive sum.
        uniform: [...] in [0, 1).

    Returns:
        int64 [...]; a token of zero weight is never drawn.
    """
    mass = cumulated(weights)
    total = mass[..., -1:]
    # Rounding must not carry the point up to the total, past the last token of positive weight.
    below = torch.nextafter(total, torch.zeros_like(total))
    point = torch.minimum(uniform[..., None] * total, below)
    return torch.searchsorted(mass, point, right=True).squeeze(-1).clamp(max=weights.shape[-1] - 1)


def gumbel_sample(weights: Tensor, uniform: Tensor) -> Tensor:
    """Draw a token from ``weights`` by Gumbel-max: equal noise and close weights, equal tokens.

    It is computed in an equivalent form: the token with the shortest exponential waiting time
    divided by its weight.

    Args:
        weights: non-negative [..., vocabulary] with a positive sum.
        uniform: [..., vocabulary] in [0, 1), multiples of 2**-24.

    Returns:
        int64 [...]; a token of zero weight is never drawn.
    """
    return (weights / waiting_times(uniform)).argmax(-1)


def waiting_times(uniform: Tensor) -> Tensor:
    """Exponential waiting times [...] from ``uniform`` [...] in [0, 1), multiples of 2**-24."""
    # The middle of each cell of the grid of numbers: never 0, and never 1.
    return -torch.log1p(-(uniform + 2.0**-25).clamp(max=1 - 2.0**-24))
