"""Which drafts are kept, and what the other positions become."""

from typing import NamedTuple

import torch
from torch import Tensor

from pjd.sampling import draw


class Verdict(NamedTuple):
    """Outcome of one iteration in every lane.

    Attributes:
        tokens: int64 [..., window]; tokens of the positions after the committed ones: accepted
            drafts, then a resampled token, then fresh drafts.
        accepted: int64 [...]; drafts accepted.
        committed: int64 [...]; tokens committed, the resampled one included.
    """

    tokens: Tensor
    accepted: Tensor
    committed: Tensor


def verify(
    target: Tensor,
    proposal: Tensor,
    tokens: Tensor,
    drafts: Tensor,
    room: Tensor,
    resample: Tensor,
    coins: Tensor,
    noise: Tensor,
) -> Verdict:
    """Likelihood-ratio verification with residual resampling (METHODS 1.2 and 7.1).

    A draft x is accepted with probability min(1, p(x) / q(x)). At the first rejection a row that
    may resample commits a token from norm(max(0, p - q)); after the last accepted draft, one
    from p, which is the same rule with q = 0. All later positions get fresh drafts from p.

    Args:
        target: p, float [..., window, vocabulary]: entry k predicts the k-th position after the
            committed ones.
        proposal: q, the distributions the drafts were drawn from, same shape; 0 beyond them.
        tokens: int64 [..., window]; the drafts.
        drafts: int64 [...]; how many there are, at most window - 1.
        room: int64 [...]; most tokens that may be committed.
        resample: bool [...]; whether a resampled token may be committed.
        coins: float [..., window] in [0, 1), for acceptance.
        noise: float [..., window] in [0, 1), for drawing; independent of ``coins``.
    """
    place = torch.arange(tokens.shape[-1], device=tokens.device)
    p = target.gather(-1, tokens[..., None]).squeeze(-1)
    q = proposal.gather(-1, tokens[..., None]).squeeze(-1)
    # u < p / q without the division; a draft of zero probability is never accepted.
    passed = (coins * q < p) & (place < drafts[..., None])
    accepted = torch.minimum(passed.long().cumprod(-1).sum(-1), room)
    resample = resample & (accepted < room)
    stop = (place == accepted[..., None]) & resample[..., None]
    weights = torch.where(stop[..., None], residual(target, proposal), target)
    tokens = torch.where(place < accepted[..., None], tokens, draw(weights, noise))
    return Verdict(tokens, accepted, accepted + resample.long())


def residual(target: Tensor, proposal: Tensor) -> Tensor:
    """The unnormalised distribution max(0, p - q) of a token that replaces a rejected draft.

    In exact arithmetic it is never empty after a rejection; where rounding empties it, p.
    """
    left = (target - proposal).clamp(min=0)
    return torch.where(left.sum(-1, keepdim=True) > 0, left, target)
