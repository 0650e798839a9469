"""What is fed where nothing is committed yet: first drafts, and the input that starts a row."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pjd.decoder.config import DecodeConfig
from pjd.decoder.grid import View
from pjd.decoder.noise import DRAFT, uniform
from pjd.decoder.queries import Queries, spread
from pjd.decoder.schedule import Band
from pjd.decoder.state import State
from pjd.decoder.verify import Drafts


class Windows(NamedTuple):
    """What the lanes feed.

    Attributes:
        last: int64 [batch, lanes]; the token before the drafts, see :func:`predecessor`.
        tokens: int64 [batch, lanes, window]; the drafts.
        kept: int64 [batch, lanes]; how many of them come from the iteration before: their
            distributions are known to the state, the others are first drafts.
    """

    last: Tensor
    tokens: Tensor
    kept: Tensor


def prepare(state: State, view: View, config: DecodeConfig, lanes: Band) -> Windows:
    """Fill the window of every lane: drafts kept from before, then first drafts.

    Args:
        state: of the batch.
        view: the decoder's.
        config: the method's choices.
        lanes: the active rows.
    """
    depth = torch.arange(config.window, device=lanes.row.device)
    row, column = lanes.row[..., None], lanes.start[..., None] + depth
    tokens = state.tokens[state.image[..., None], row, column]
    kept = torch.minimum(state.drafted.gather(1, lanes.row), lanes.drafts)
    fresh = (depth >= kept[..., None]) & (depth < lanes.drafts[..., None])
    place = row * view.stride + column
    noise = uniform(state.iteration[..., None], place, state=state.streams[..., DRAFT, None])
    first = (noise * view.vocabulary).long()
    if config.initial not in ("random", "uniform"):
        source = neighbour(state, view, config, lanes, tokens, kept, column)
        first = torch.where((source >= 0) & (source < view.vocabulary), source, first)
    first = torch.where(view.forced(column), view.vocabulary, first)
    last = predecessor(state, view, config, lanes)
    return Windows(last, torch.where(fresh, first, tokens), kept)


def neighbour(
    state: State,
    view: View,
    config: DecodeConfig,
    lanes: Band,
    tokens: Tensor,
    kept: Tensor,
    column: Tensor,
) -> Tensor:
    """The token that a first draft copies (METHODS 2.4), -1 where there is none.

    Args:
        state: of the batch.
        view: the decoder's.
        config: the method's choices.
        lanes: the active rows.
        tokens: int64 [batch, lanes, window]; the windows, with as many drafts as are ``kept``.
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
    end = (kept - 1).clamp(min=0)
    if config.initial == "sample-left":
        left = state.proposal[state.proposed(lanes.row, lanes.start + end)].argmax(-1)
    else:
        left = tokens.gather(-1, end[..., None]).squeeze(-1)
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


def declare(
    state: State,
    view: View,
    config: DecodeConfig,
    lanes: Band,
    windows: Windows,
    queries: Queries,
) -> Drafts:
    """The drafts that the queries' predictions are tested against, and what they were drawn from.

    A draft of the iteration before has the distribution it was drawn from then; a first draft is
    declared as certain or, with ``initial`` "uniform", as uniform.

    In the iteration after a row is finished, the released code loses count (METHODS 3.3): it
    tests the distribution after a lane's last committed token against that very token, here
    declared as certain, and so on, one place on.

    Args:
        state: of the batch.
        view: the decoder's.
        config: the method's choices.
        lanes: the active rows.
        windows: as fed.
        queries: as fed.
    """
    tested = queries.depth < spread(lanes.drafts, queries.lane)
    late = queries.flush & tested & (config.finish == "released")
    # One entry before the window, for the token that precedes it; one lane for the blanks.
    tokens = F.pad(torch.cat([windows.last[..., None], windows.tokens], dim=-1), (0, 0, 0, 1))
    depth, column = queries.depth - late.long(), queries.column + 1 - late.long()
    token = tokens.flatten(1).gather(1, queries.lane * tokens.shape[-1] + depth + 1)
    known = tested & (depth >= 0) & (depth < spread(windows.kept, queries.lane))
    proposal = state.proposal[state.proposed(queries.row, column)]
    proposal.masked_fill_(~known[..., None], 0.0)
    certain = first = tested & ~known
    if config.initial == "uniform":
        certain = first & (view.forced(column) | (depth < 0))
        proposal[..., : view.vocabulary] += (first & ~certain)[..., None] / view.vocabulary
    proposal.scatter_add_(-1, token[..., None], certain[..., None].to(proposal.dtype))
    return Drafts(token, proposal)
