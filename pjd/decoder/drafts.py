"""What is fed where nothing is committed yet: first drafts, and the input that starts a row."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pjd.decoder.config import DecodeConfig
from pjd.decoder.grid import RowLayout
from pjd.decoder.noise import DRAFT, uniform
from pjd.decoder.sampling import inverse_cdf_sample
from pjd.decoder.schedule import Band
from pjd.decoder.state import State


class Windows(NamedTuple):
    """What the lanes feed.

    Attributes:
        last: int64 [batch, lanes]; the token before the drafts, see :func:`predecessor`.
        drafts: int64 [batch, lanes, window]; the drafted tokens.
        carried: int64 [batch, lanes]; how many of them come from the iteration before: their
            distributions are known to the state, the others are first drafts.
    """

    last: Tensor
    drafts: Tensor
    carried: Tensor


def draft(state: State, layout: RowLayout, config: DecodeConfig, band: Band) -> Windows:
    """Fill the window of every lane: drafts carried over, then first drafts.

    Args:
        state: of the batch.
        layout: the decoder's.
        config: the method's choices.
        band: the active rows.
    """
    depth = torch.arange(config.window, device=band.row.device)
    row, column = band.row[..., None], band.committed[..., None] + depth
    tokens = state.tokens[state.batch_index[..., None], row, column]
    carried = torch.minimum(state.drafted.gather(1, band.row), band.n_drafts)
    is_initial = (depth >= carried[..., None]) & (depth < band.n_drafts[..., None])
    position = layout.position(row, column)
    noise = uniform(state.iteration[..., None], position, state=state.streams[..., DRAFT, None])
    initial = (noise * layout.vocabulary).long()
    if config.initial == "sample-above":
        places = (part.flatten(1) for part in (row.expand_as(column), column))
        probs = distribution_above(state, layout, *places)
        initial = inverse_cdf_sample(probs, noise.flatten(1)).view_as(column)
    elif config.initial not in ("random", "uniform"):
        source = copied(state, layout, config, band, tokens, carried, column)
        is_code = (source >= 0) & (source < layout.vocabulary)
        initial = torch.where(is_code, source, initial)
    initial = torch.where(layout.forced(column), layout.vocabulary, initial)
    last = predecessor(state, layout, config, band)
    return Windows(last, torch.where(is_initial, initial, tokens), carried)


def copied(
    state: State,
    layout: RowLayout,
    config: DecodeConfig,
    band: Band,
    tokens: Tensor,
    carried: Tensor,
    column: Tensor,
) -> Tensor:
    """The token that a first draft copies, -1 where there is none (docs/method.md, section 4).

    Args:
        state: of the batch.
        layout: the decoder's.
        config: the method's choices.
        band: the active rows.
        tokens: int64 [batch, lanes, window]; the windows, ``carried`` drafts of which are known.
        carried: int64 [batch, lanes].
        column: int64 [batch, lanes, window]; columns that the windows cover.

    Returns:
        int64 [batch, lanes, window].
    """
    if config.initial == "preview":
        return state.preview[state.batch_index[..., None], band.row[..., None], column]
    if config.initial == "repeat-above":
        row, above, known = place_above(layout, band.row[..., None], column)
        known &= state.committed.gather(1, row.squeeze(-1))[..., None] > above
        return torch.where(known, state.tokens[state.batch_index[..., None], row, above], -1)
    last = state.tokens[state.batch_index, band.row, (band.committed - 1).clamp(min=0)]
    left = tokens.gather(-1, (carried - 1).clamp(min=0)[..., None]).squeeze(-1)
    source = torch.where(carried > 0, left, torch.where(band.committed > 0, last, -1))
    return source[..., None].expand_as(column)


def place_above(layout: RowLayout, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row and column, int64 [...], of the token above, and whether there is one, bool [...].

    In the raster layout the token above is one grid row back. Where there is none, the place is
    some other one of the image.
    """
    row = row - (0 if layout.raster else 1)
    above = column - layout.grid.stride if layout.raster else column
    return row.clamp(min=0), above.clamp(min=0), (row >= 0) & (above >= 0)


def distribution_above(state: State, layout: RowLayout, row: Tensor, column: Tensor) -> Tensor:
    """What first drafts are drawn from with ``initial`` "sample-above".

    It depends on tokens before the position alone, so that a draft from it is tested exactly.

    Args:
        state: of the batch, before the iteration.
        layout: the decoder's.
        row: int64 [batch, positions].
        column: int64 [batch, positions].

    Returns:
        float [batch, positions, ids]; uniform where the state does not have the distribution above.
    """
    row, above, known = place_above(layout, row, column)
    # The state has those of the drafts.
    end = state.committed.gather(1, row)
    known &= (above >= end) & (above < end + state.drafted.gather(1, row))
    uniform_probs = state.draft_probs.new_zeros(layout.n_ids)
    uniform_probs[: layout.vocabulary] = 1 / layout.vocabulary
    return torch.where(
        known[..., None], state.draft_probs[state.ring_index(row, above)], uniform_probs
    )


def predecessor(state: State, layout: RowLayout, config: DecodeConfig, band: Band) -> Tensor:
    """The token before each lane's drafts, int64 [batch, lanes].

    It is the last committed token of the row. In a row that has none it is the forced row-end
    token or, in a format without row ends, a stand-in for the last token of the row above. Once
    the row above is complete the stand-in is that very token, except in the staircase, where it is
    what M_c sees. The first row starts from the prompt (docs/method.md, section 4).
    """
    row, committed = band.row, band.committed
    newest = state.tokens[state.batch_index, row, (committed - 1).clamp(min=0)]
    if layout.row_ends:
        return torch.where(committed == 0, layout.vocabulary, newest)
    above = (row - 1).clamp(min=0)
    if config.lag == "fixed":
        # What the target M_c may see does not depend on how far other rows have come.
        known = torch.full_like(row, layout.context)
        complete = row - math.ceil(layout.columns / layout.context)
    else:
        known = state.committed.gather(1, above)
        complete = (band.finished - 1).expand_as(row)
    source, column = above, (known - 1).clamp(min=0)
    if config.stand_in == "last-column":
        source = torch.where(complete < 0, above, complete)
        column = torch.where(complete < 0, column, layout.columns - 1)
    elif config.stand_in == "above":
        column = torch.where(known == layout.columns, column, 0)
    stand_in = state.tokens[state.batch_index, source, column]
    return torch.where(committed == 0, stand_in, newest)
