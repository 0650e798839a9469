"""What is fed where nothing is committed yet: first drafts, and the input that starts a row."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pjd.config import DecodeConfig
from pjd.front import Band
from pjd.grid import View
from pjd.noise import DRAFT, uniform
from pjd.state import State
from pjd.verify import Drafts


def prepare(
    state: State, view: View, config: DecodeConfig, lanes: Band, place: Tensor, iteration: int
) -> Drafts:
    """Fill the window of every lane: drafts kept from before, then first drafts.

    Args:
        state: of the batch.
        view: the decoder's.
        config: the method's choices.
        lanes: the active rows.
        place: int64 [batch, lanes, window]; raster places that the tokens are for.
        iteration: iterations done.
    """
    depth = torch.arange(config.window, device=place.device)
    column = lanes.start[..., None] + depth
    tokens = state.tokens[state.image[..., None], lanes.row[..., None], column]
    missing = lanes.row.shape[1] - state.proposal.shape[1]
    proposal = F.pad(state.proposal, (0, 0, 0, 0, 0, missing))
    # A row that must wait for the row above is idle, and its drafts stay as they are.
    kept = state.drafted.gather(1, lanes.row)
    kept = torch.where(lanes.active, torch.minimum(kept, lanes.drafts), kept)
    fresh = (depth >= kept[..., None]) & (depth < lanes.drafts[..., None])
    first = (uniform(state.seeds, DRAFT, iteration, place) * view.vocabulary).long()
    if config.initial not in ("random", "uniform"):
        source = neighbour(state, view, config, lanes, Drafts(tokens, proposal), kept, column)
        first = torch.where((source >= 0) & (source < view.vocabulary), source, first)
    forced = view.forced(column)
    first = torch.where(forced, view.vocabulary, first)
    proposal = torch.where((depth < kept[..., None])[..., None], proposal, 0.0)
    certain = fresh
    if config.initial == "uniform":
        certain = fresh & forced
        proposal[..., : view.vocabulary] += (fresh & ~forced)[..., None] / view.vocabulary
    proposal.scatter_add_(-1, first[..., None], certain[..., None].to(proposal.dtype))
    return Drafts(torch.where(fresh, first, tokens), proposal)


def neighbour(
    state: State,
    view: View,
    config: DecodeConfig,
    lanes: Band,
    drafts: Drafts,
    kept: Tensor,
    column: Tensor,
) -> Tensor:
    """The token that a first draft copies (METHODS 2.4), -1 where there is none.

    Args:
        state: of the batch.
        view: the decoder's.
        config: the method's choices.
        lanes: the active rows.
        drafts: the windows, with as many drafts as are ``kept``.
        kept: int64 [batch, lanes].
        column: int64 [batch, lanes, window]; columns that the windows cover.

    Returns:
        int64 [batch, lanes, window].
    """
    if config.initial == "repeat-above":
        # In one long row, the code above is a grid row back.
        row = lanes.row[..., None] - (0 if view.raster else 1)
        above = column - view.grid.stride if view.raster else column
        known = (row >= 0) & (above >= 0)
        row, above = row.clamp(min=0), above.clamp(min=0)
        known &= state.committed.gather(1, row.squeeze(-1))[..., None] > above
        return torch.where(known, state.tokens[state.image[..., None], row, above], -1)
    last = state.tokens[state.image, lanes.row, (lanes.start - 1).clamp(min=0)]
    end = (kept - 1).clamp(min=0)[..., None]
    if config.initial == "sample-left":
        left = drafts.proposal.gather(2, end[..., None].expand(-1, -1, -1, view.ids))
        left = left.squeeze(2).argmax(-1)
    else:
        left = drafts.tokens.gather(-1, end).squeeze(-1)
    source = torch.where(kept > 0, left, torch.where(lanes.start > 0, last, -1))
    return source[..., None].expand_as(column)


def predecessor(state: State, view: View, config: DecodeConfig, lanes: Band) -> Tensor:
    """The token before each lane's drafts, int64 [batch, lanes].

    It is the last one committed. In a row that has none: the forced row-end token or, where the
    format has none, a stand-in for the last code above, which is that code itself once the row
    above is complete (METHODS 2.12, step 2, and 8, finding 1).
    """
    row, start = lanes.row, lanes.start
    newest = state.tokens[state.image, row, (start - 1).clamp(min=0)]
    if view.stride > view.columns:
        return torch.where(start == 0, view.vocabulary, newest)
    above = (row - 1).clamp(min=0)
    if config.lag == "fixed":
        # What the target M_c may see does not depend on how far other rows have come.
        context = min(config.context, view.columns)
        known = torch.full_like(row, context)
        complete = row - math.ceil(view.columns / context)
    else:
        known = state.committed.gather(1, above)
        complete = (state.finished(view.columns) - 1).expand_as(row)
    source, column = above, (known - 1).clamp(min=0)
    if config.stand_in == "last-column":
        source = torch.where(complete < 0, above, complete)
        column = torch.where(complete < 0, column, view.columns - 1)
    elif config.stand_in == "above":
        column = torch.where(known == view.columns, column, 0)
    return torch.where(start == 0, state.tokens[state.image, source, column], newest)


def misaligned(drafts: Drafts, last: Tensor, count: Tensor, late: Tensor) -> Drafts:
    """The drafts one place on, where the released code loses count (METHODS 3.3).

    In the iteration after a row is finished, the distribution after a lane's last committed token
    is tested against that very token, here declared as certain, and so on.

    Args:
        drafts: as fed.
        last: int64 [batch, lanes], tokens before them.
        count: int64 [batch, lanes], drafts to test.
        late: bool [batch, 1], images that this happens to.
    """
    depth = torch.arange(drafts.tokens.shape[-1], device=last.device)
    shifted = (late & (count > 0))[..., None] & (depth < count[..., None])
    certain = F.one_hot(last[..., None], drafts.proposal.shape[-1]).to(drafts.proposal.dtype)
    tokens = torch.cat([last[..., None], drafts.tokens[..., :-1]], dim=-1)
    proposal = torch.cat([certain, drafts.proposal[..., :-1, :]], dim=-2)
    return Drafts(
        torch.where(shifted, tokens, drafts.tokens),
        torch.where(shifted[..., None], proposal, drafts.proposal),
    )
