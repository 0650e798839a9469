"""When is a draft kept? The tests of METHODS 1.2, 2.2 and 2.5, by name.

No torch at run time here: the command line checks names before it imports anything heavy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Evidence(NamedTuple):
    """What a test may look at.

    Attributes:
        target: the new distributions p, float [..., ids].
        proposal: q, what the drafts were drawn from, same shape.
        tokens: the drafts, int64 [...].
        coins: fresh uniform numbers [...] in [0, 1).
        sampled: what would be drawn from p now, int64 [...].
        codes: unit vectors of the codes, float [vocabulary, width].
        group: most codes of a group.
        depth: int64 [...]; places of the drafts in their windows, 0 for the next to be committed.
    """

    target: Tensor
    proposal: Tensor
    tokens: Tensor
    coins: Tensor
    sampled: Tensor
    codes: Tensor
    group: int
    depth: Tensor


class Rule(NamedTuple):
    """A test, and what takes the place of a draft that fails it.

    Attributes:
        keeps: from evidence to bool [...].
        correction: "residual": a token from norm(max(0, p - q)); "sampled": the token drawn anew.
    """

    keeps: Callable[[Evidence], Tensor]
    correction: Literal["residual", "sampled"] = "residual"


def likelihood(distribution: Tensor, tokens: Tensor) -> Tensor:
    """Probability [...] of each of ``tokens`` under ``distribution``."""
    return distribution.gather(-1, tokens[..., None]).squeeze(-1)


def ratio(evidence: Evidence) -> Tensor:
    """Keep x with probability min(1, p(x) / q(x)) (SJD, PJD); never if p(x) is 0."""
    p = likelihood(evidence.target, evidence.tokens)
    return evidence.coins * likelihood(evidence.proposal, evidence.tokens) < p


def match(evidence: Evidence) -> Tensor:
    """Keep x if it is drawn again (Jacobi): exact whatever x is, quick where noise is fixed."""
    return evidence.sampled == evidence.tokens


def grouped(evidence: Evidence, near: float = 0.15, close: float = 0.5) -> Tensor:
    """Keep x with probability min(1, P(S) / Q(S)) for a group S of codes around x (GSD).

    S is x and those of its neighbours in the order of p that differ from it by less than ``near``
    in probability and by less than ``close`` in squared distance of code vectors. Not exact.
    """
    order = evidence.target.argsort(dim=-1, descending=True, stable=True)
    rank = (order == evidence.tokens[..., None]).to(evidence.tokens.dtype).argmax(-1)
    half = evidence.group // 2
    step = rank.new_ones(2 * half + 1).cumsum(0) - 1 - half
    places = rank[..., None] + step
    inside = (places >= 0) & (places < order.shape[-1])
    ids = order.gather(-1, places.clamp(0, order.shape[-1] - 1))
    p, q = evidence.target.gather(-1, ids), evidence.proposal.gather(-1, ids)
    # Ids beyond the codes (a forced row-end token) have no vector and no group but themselves.
    known = len(evidence.codes) - 1
    vectors = evidence.codes[ids.clamp(max=known)]
    own = evidence.codes[evidence.tokens.clamp(max=known)][..., None, :]
    alike = (p - likelihood(evidence.target, evidence.tokens)[..., None]).abs() < near
    alike &= (vectors - own).square().sum(-1) < close
    alike &= (ids <= known) & (evidence.tokens <= known)[..., None]
    members = inside & (alike | (step == 0))
    return evidence.coins * (q * members).sum(-1) < (p * members).sum(-1)


RULES: dict[str, Rule] = {
    "ratio": Rule(ratio),
    "match": Rule(match, correction="sampled"),
    "group": Rule(grouped),
}
"""Tests by the name that the option ``accept`` takes."""
