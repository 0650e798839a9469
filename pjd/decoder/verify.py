"""Test the drafts: accept, resample at the first rejection, redraft the rest."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pjd.decoder import released
from pjd.decoder.acceptance import AcceptInputs, accept_rule
from pjd.decoder.config import DecodeConfig
from pjd.decoder.drafts import Windows, distribution_above
from pjd.decoder.grid import RowLayout
from pjd.decoder.noise import Noise
from pjd.decoder.queries import Queries, per_query
from pjd.decoder.redraft import REDRAFT_RULES
from pjd.decoder.sampling import gumbel_sample, inverse_cdf_sample
from pjd.decoder.schedule import Band
from pjd.decoder.state import State

BEYOND = 2**31
"""A depth behind every window."""


class Drafts(NamedTuple):
    """Drafted tokens, one per query, before or after verification.

    Attributes:
        tokens: int64 [batch, queries].
        probs: float [batch, queries, ids]; q, the distributions that they were drawn from; 0
            where there is no draft.
    """

    tokens: Tensor
    probs: Tensor


class Verified(NamedTuple):
    """Outcome of one verification.

    Attributes:
        drafts: what the positions become: in each window, first what is committed now, then the
            drafts of the next iteration and what they were drawn from.
        accepted: int64 [batch, lanes]; drafts accepted.
        committed: int64 [batch, lanes]; tokens committed, a resampled one included.
        variation: float [batch, queries]; total variation between p and q at each draft, 0 where
            there is none.
    """

    drafts: Drafts
    accepted: Tensor
    committed: Tensor
    variation: Tensor


def proposals(
    state: State,
    layout: RowLayout,
    config: DecodeConfig,
    band: Band,
    windows: Windows,
    queries: Queries,
) -> Drafts:
    """The drafts that the predictions are tested against, and what they were drawn from.

    A draft of the iteration before has the distribution that it was drawn from then. A first
    draft is declared as certain (all of q on that token) or, with ``initial`` "uniform", as
    uniform, or with "sample-above" as what it was drawn from.

    Args:
        state: of the batch.
        layout: the decoder's.
        config: the method's choices.
        band: the active rows.
        windows: their drafts.
        queries: as fed.
    """
    tested = queries.depth < per_query(band.n_drafts, queries.lane)
    token, column, depth = queries.draft, queries.column + 1, queries.depth
    if config.finish == "released":
        late = queries.flush & tested
        token, column, depth = released.one_position_earlier(
            late, queries.token, token, column, depth
        )
    known = tested & (column >= 0) & (depth < per_query(windows.carried, queries.lane))
    probs = state.draft_probs[state.ring_index(queries.row, column)]
    probs.masked_fill_(~known[..., None], 0.0)
    certain = initial = tested & ~known
    if config.initial in ("uniform", "sample-above"):
        certain = initial & (layout.forced(column) | (depth < 0))
        drawn = (initial & ~certain)[..., None]
        if config.initial == "uniform":
            probs[..., : layout.vocabulary] += drawn / layout.vocabulary
        else:
            probs += drawn * distribution_above(state, layout, queries.row, column)
    probs.scatter_add_(-1, token[..., None], certain[..., None].to(probs.dtype))
    return Drafts(token, probs)


def verify(
    target_probs: Tensor,
    drafts: Drafts,
    queries: Queries,
    band: Band,
    noise: Noise,
    config: DecodeConfig,
    codebook: Tensor,
) -> Verified:
    """Accept drafts up to the first rejection, resample there, redraft the rest.

    A lane that may resample then draws the rejected position from the residual
    norm(max(0, p - q)) or, if nothing was rejected, one extra token from p. All later positions
    become the next drafts, as the option ``redraft`` says, with q set to what they were drawn
    from (docs/method.md, section 6).

    Args:
        target_probs: p, float [batch, queries, ids].
        drafts: to test, with q.
        queries: as fed; the query at depth k of a lane predicts the k-th position after the
            committed ones.
        band: how far each lane may go.
        noise: random numbers.
        config: ``accept``, ``redraft`` and ``group_size``.
        codebook: unit vectors of the codes, float [vocabulary, width].
    """
    accept, redraft = accept_rule(config.accept), REDRAFT_RULES[config.redraft]
    (tokens, draft_probs), depth, lane = drafts, queries.depth, queries.lane
    tested = depth < per_query(band.n_drafts, lane)
    residual = (target_probs - draft_probs).clamp_(min=0)
    variation = residual.sum(-1).masked_fill(~tested, 0.0)
    if noise.fixed_uniforms is not None:
        sampled = gumbel_sample(target_probs, noise.fixed_uniforms)
    elif accept.correction == "sampled":
        sampled = inverse_cdf_sample(target_probs, noise.sample_uniforms)
    else:
        # Drawn together with the corrections below.
        sampled = tokens

    # Accept: up to the first draft that fails, the last draft, or what the lane may commit.
    inputs = AcceptInputs(
        target_probs,
        draft_probs,
        tokens,
        noise.accept_uniforms,
        sampled,
        codebook,
        config.group_size,
        depth,
    )
    passed = accept.accepts(inputs) & tested
    failed = tested & ~passed
    failed_at = torch.where(failed, depth, tokens.new_full((), BEYOND))
    accepted = F.pad(band.n_drafts, (0, 1)).scatter_reduce(1, lane, failed_at, "amin")[:, :-1]
    accepted = torch.minimum(accepted, band.max_commits)

    # Resample: one token more, at the first position that was not accepted.
    resample = band.may_resample & (accepted < band.max_commits)
    first = per_query(accepted, lane)
    corrected = (depth == first) & per_query(resample, lane) & tested
    if accept.share is not None:
        shared = (accept.share(inputs)[..., None] * target_probs - draft_probs).clamp_(min=0)
        residual = torch.where(corrected[..., None], shared, residual)

    # Redraft: what was not accepted and does not stay is drawn anew.
    kept = depth < first
    stays = redraft.keeps(inputs, passed, tested & (depth > first))
    if redraft.from_residual:
        corrected = corrected | failed
    if accept.correction == "sampled":
        new = sampled
    else:
        # In exact arithmetic no residual is empty; where rounding empties it, p takes its place.
        corrected = corrected[..., None] & (residual.sum(-1, keepdim=True) > 0)
        weights = torch.where(corrected, residual, target_probs)
        new = inverse_cdf_sample(weights, noise.sample_uniforms)
        if noise.fixed_uniforms is not None:
            new = torch.where(corrected.squeeze(-1), new, sampled)
    probs = target_probs
    if redraft.keeps_draft_probs:
        probs = torch.where((stays | kept)[..., None], draft_probs, target_probs)
    next_drafts = Drafts(torch.where(kept | stays, tokens, new), probs)
    return Verified(next_drafts, accepted, accepted + resample.long(), variation)
