"""Which drafts are kept, and what the other positions become."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pjd.decoder.acceptance import Evidence, Rule, likelihood
from pjd.decoder.config import Redraft
from pjd.decoder.queries import spread
from pjd.decoder.sampling import draw, race

NEVER = 2**31
"""A depth beyond every window."""


class Drafts(NamedTuple):
    """Tokens at the places that the queries predict, before or after verification.

    Attributes:
        tokens: int64 [batch, queries].
        proposal: float [batch, queries, ids]; q, what they were drawn from; 0 where there is no
            draft.
    """

    tokens: Tensor
    proposal: Tensor


class Limits(NamedTuple):
    """What a lane may do in this iteration; all int64 or bool [batch, lanes].

    Attributes:
        drafts: drafts to test, at most the window.
        room: most tokens to commit.
        resample: bool; whether a token drawn anew may be among them.
    """

    drafts: Tensor
    room: Tensor
    resample: Tensor


class Noise(NamedTuple):
    """Randomness of one iteration, independent of each other and of the drafts' own.

    Attributes:
        coins: uniform [batch, queries] in [0, 1), for acceptance.
        tokens: uniform [batch, queries] in [0, 1), for drawing.
        fixed: uniform [batch, queries, ids] in [0, 1), the same in every iteration; or None
            where no rule asks for it.
    """

    coins: Tensor
    tokens: Tensor
    fixed: Tensor | None = None


class Verdict(NamedTuple):
    """Outcome of one iteration.

    Attributes:
        drafts: what the queries' places become: in each window, first what is committed now,
            then the drafts of the next iteration and what they were drawn from.
        accepted: int64 [batch, lanes]; drafts accepted.
        committed: int64 [batch, lanes]; tokens committed, the one drawn anew included.
        variation: float [batch, queries]; total variation between p and q at each draft, 0 where
            there is none.
    """

    drafts: Drafts
    accepted: Tensor
    committed: Tensor
    variation: Tensor


def verify(
    target: Tensor,
    drafts: Drafts,
    lane: Tensor,
    depth: Tensor,
    limits: Limits,
    noise: Noise,
    rule: Rule,
    redraft: Redraft,
    codes: Tensor,
    group: int = 1,
) -> Verdict:
    """Test the drafts, correct the first one that fails, redraft the rest (METHODS 1.2 to 2.7).

    A lane that may resample commits, at its first rejection, the rule's correction: a token of
    norm(max(0, p - q)), or the one drawn anew; after its last accepted draft, a token of p. What
    becomes of the later positions is the choice ``redraft``; q is then what they were drawn from.

    Args:
        target: p, float [batch, queries, ids].
        drafts: to test against it.
        lane: int64 [batch, queries]; see :class:`pjd.decoder.queries.Queries`.
        depth: int64 [batch, queries]; entry k of a lane predicts the k-th position after the
            committed ones.
        limits: how far each lane may go.
        noise: see :class:`Noise`.
        rule: the test of a draft.
        redraft: see :class:`pjd.decoder.config.DecodeConfig`.
        codes: unit vectors of the codes, float [vocabulary, width].
        group: see :class:`pjd.decoder.config.DecodeConfig`.
    """
    tokens, proposal = drafts
    tested = depth < spread(limits.drafts, lane)
    left = (target - proposal).clamp_(min=0)
    variation = left.sum(-1).masked_fill(~tested, 0.0)
    if rule.correction == "sampled" or redraft == "gumbel":
        fixed = noise.fixed
        sampled = draw(target, noise.tokens) if fixed is None else race(target, fixed)
    else:
        # Drawn together with the corrections below.
        sampled = tokens
    evidence = Evidence(target, proposal, tokens, noise.coins, sampled, codes, group, depth)
    passed = rule.keeps(evidence) & tested
    failed = tested & ~passed
    # Where the first draft fails, or all of them.
    accepted = F.pad(limits.drafts, (0, 1)).scatter_reduce(
        1, lane, torch.where(failed, depth, tokens.new_full((), NEVER)), "amin"
    )
    accepted = torch.minimum(accepted[:, :-1], limits.room)
    resample = limits.resample & (accepted < limits.room)
    first = spread(accepted, lane)
    kept = depth < first
    wrong = (depth == first) & spread(resample, lane) & tested
    if redraft == "coupled":
        kept, wrong = passed, failed
    still = kept
    if redraft == "threshold":
        good = likelihood(target, tokens) > 0.5 * likelihood(proposal, tokens)
        still = kept | (good & tested & (depth > first))
    if rule.correction == "sampled":
        new = sampled
    else:
        # In exact arithmetic no residual is empty; where rounding empties it, p.
        wrong = wrong[..., None] & (left.sum(-1, keepdim=True) > 0)
        new = draw(torch.where(wrong, left, target), noise.tokens)
        if redraft == "gumbel":
            new = torch.where(wrong.squeeze(-1), new, sampled)
    q = target
    if redraft == "threshold":
        q = torch.where((still & ~kept)[..., None], proposal, target)
    return Verdict(
        Drafts(torch.where(still, tokens, new), q),
        accepted,
        accepted + resample.long(),
        variation,
    )
