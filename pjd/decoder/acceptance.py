"""When is a draft accepted? The tests, by name (docs/method.md, section 6)."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor


class AcceptInputs(NamedTuple):
    """What a test may look at. The last axis of p and q has one entry per token id.

    Attributes:
        target_probs: p, the distributions of this forward pass, float [batch, queries, ids].
        draft_probs: q, what the drafts were drawn from, float [batch, queries, ids].
        drafts: int64 [batch, queries], the drafted tokens.
        uniforms: fresh uniform numbers [batch, queries] in [0, 1).
        sampled: int64 [batch, queries], the tokens that would be drawn from p now.
        codebook: unit vectors of the codes, float [vocabulary, width].
        group_size: the largest number of tokens in a group.
        depth: int64 [batch, queries]; how many positions of its row a draft is behind the next
            one to be committed.
    """

    target_probs: Tensor
    draft_probs: Tensor
    drafts: Tensor
    uniforms: Tensor
    sampled: Tensor
    codebook: Tensor
    group_size: int
    depth: Tensor


class AcceptRule(NamedTuple):
    """A test, and what replaces the first draft that fails it.

    Attributes:
        accepts: from :class:`AcceptInputs` to bool [batch, queries].
        correction: "residual": a token drawn from norm(max(0, p - q)); "sampled": the token that
            was drawn from p.
    """

    accepts: Callable[[AcceptInputs], Tensor]
    correction: Literal["residual", "sampled"] = "residual"


def likelihood(distribution: Tensor, tokens: Tensor) -> Tensor:
    """Probability [...] of each of ``tokens`` int64 [...] under ``distribution`` [..., ids]."""
    return distribution.gather(-1, tokens[..., None]).squeeze(-1)


def ratio(inputs: AcceptInputs) -> Tensor:
    """Accept x with probability min(1, p(x) / q(x)) (SJD, PJD); never if p(x) is 0."""
    p = likelihood(inputs.target_probs, inputs.drafts)
    return inputs.uniforms * likelihood(inputs.draft_probs, inputs.drafts) < p


def match(inputs: AcceptInputs) -> Tensor:
    """Accept x if it is drawn again (Jacobi): exact for any x, fast where the noise is fixed."""
    return inputs.sampled == inputs.drafts


def group(inputs: AcceptInputs, near: float = 0.15, close: float = 0.5) -> Tensor:
    """Accept x with probability min(1, P(S) / Q(S)) for a group S of tokens around x (GSD).

    S is x and those of its neighbours in the order of p that differ from it by less than ``near``
    in probability and by less than ``close`` in squared distance of code vectors. Not exact.
    """
    p, q, drafts = inputs.target_probs, inputs.draft_probs, inputs.drafts
    order = p.argsort(dim=-1, descending=True, stable=True)
    rank = (order == drafts[..., None]).to(drafts.dtype).argmax(-1)
    half = inputs.group_size // 2
    step = rank.new_ones(2 * half + 1).cumsum(0) - 1 - half
    neighbour = rank[..., None] + step
    inside = (neighbour >= 0) & (neighbour < order.shape[-1])
    ids = order.gather(-1, neighbour.clamp(0, order.shape[-1] - 1))
    # A forced row-end token has no vector, and no group but itself.
    last_code = len(inputs.codebook) - 1
    vectors = inputs.codebook[ids.clamp(max=last_code)]
    own = inputs.codebook[drafts.clamp(max=last_code)][..., None, :]
    alike = (p.gather(-1, ids) - likelihood(p, drafts)[..., None]).abs() < near
    alike &= (vectors - own).square().sum(-1) < close
    alike &= (ids <= last_code) & (drafts <= last_code)[..., None]
    members = inside & (alike | (step == 0))
    mass_p = (p.gather(-1, ids) * members).sum(-1)
    mass_q = (q.gather(-1, ids) * members).sum(-1)
    return inputs.uniforms * mass_q < mass_p


ACCEPT_RULES: dict[str, AcceptRule] = {
    "ratio": AcceptRule(ratio),
    "match": AcceptRule(match, correction="sampled"),
    "group": AcceptRule(group),
}
"""Tests by the name that the option ``accept`` takes; it takes a rule itself too."""


def accept_rule(accept: str | AcceptRule) -> AcceptRule:
    """The rule that the option ``accept`` names, or is."""
    return ACCEPT_RULES[accept] if isinstance(accept, str) else accept
