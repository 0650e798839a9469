"""The queries of one forward pass: all that an image feeds, side by side."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pjd.decoder.cache import SlotMap
from pjd.decoder.drafts import Windows
from pjd.decoder.grid import RowLayout
from pjd.decoder.schedule import Band
from pjd.decoder.state import State


class Queries(NamedTuple):
    """What one forward pass is fed: the windows of all lanes, and the flush.

    Fields are int64 [batch, queries] where nothing else is said.

    Attributes:
        token: the token that is fed.
        draft: the draft of the position that is predicted; any id where there is none.
        row: the row that the prediction is for.
        column: column of the token in that row, -1 if it starts the row.
        slot: where keys and values go.
        valid: bool; False for blanks, which fill up an image that feeds less than another.
        lane: the lane whose window the query is in; the number of lanes for blanks and the flush.
        depth: position of the prediction in that window: 0 follows the committed tokens.
        flush: bool [batch, 1]; whether the last token of a finished row is among the queries.
    """

    token: Tensor
    draft: Tensor
    row: Tensor
    column: Tensor
    slot: Tensor
    valid: Tensor
    lane: Tensor
    depth: Tensor
    flush: Tensor

    def gather(self, order: Tensor) -> "Queries":
        """The queries at the indices ``order`` int64 [batch, fewer], in that order."""
        return Queries._make([*(field.gather(1, order) for field in self[:-1]), self.flush])


def per_query(values: Tensor, lane: Tensor) -> Tensor:
    """Give each query its lane's value.

    Args:
        values: [batch, lanes].
        lane: int64 [batch, queries]; see :class:`Queries`.

    Returns:
        [batch, queries]; 0 or False for blanks and for the flush.
    """
    return F.pad(values, (0, 1)).gather(1, lane)


def build_queries(
    state: State, layout: RowLayout, slots: SlotMap, band: Band, windows: Windows
) -> Queries:
    """The queries of all lanes, lane by lane, then the flush; those that are not fed are blanks.

    Args:
        state: of the batch.
        layout: the decoder's.
        slots: where tokens go.
        band: the active rows.
        windows: what they feed and test.
    """
    lanes, window = windows.drafts.shape[1:]
    depth = torch.arange(window, device=state.tokens.device)
    column = band.committed[..., None] + depth - 1
    slot = slots.first_image + layout.position(band.row[..., None], column)
    # A stand-in has a slot of its own; a row-end token and the prompt's end have theirs.
    stand_in = (band.committed == 0) & (band.row > 0) & (not layout.row_ends)
    own_slot = slots.first_stand_in + torch.arange(lanes, device=slot.device)
    slot[..., 0] = torch.where(stand_in, own_slot, slot[..., 0])
    valid = band.active[..., None] & (depth <= band.n_drafts[..., None])
    of_lanes = Queries(
        token=torch.cat([windows.last[..., None], windows.drafts[..., :-1]], dim=-1),
        draft=windows.drafts,
        row=band.row[..., None].expand_as(column),
        column=column,
        slot=slot,
        valid=valid,
        lane=torch.arange(lanes, device=slot.device)[:, None].expand_as(column),
        depth=depth.expand_as(column),
        flush=flush(state, band),
    )
    joined = Queries._make([*(field.flatten(1) for field in of_lanes[:-1]), of_lanes.flush])
    # In a single row no later row reads the last token, so it is never fed.
    if layout.rows > 1:
        joined = append_flush(joined, state, layout, slots, band)
    return joined._replace(
        slot=torch.where(joined.valid, joined.slot, slots.blank),
        lane=torch.where(joined.valid, joined.lane, lanes),
    )


def flush(state: State, band: Band) -> Tensor:
    """Whether the last token of a finished row must be fed now, bool [batch, 1].

    It predicts no token of its row, but later rows need its keys and values: it is fed once, in
    the iteration after its row is finished. At most one row is finished per iteration.
    """
    return (state.flushed < band.finished) & (band.finished < state.n_rows)


def append_flush(
    queries: Queries, state: State, layout: RowLayout, slots: SlotMap, band: Band
) -> Queries:
    """``queries`` and one more: the last token of the row that was finished last."""
    row = (band.finished - 1).clamp(min=0)
    column = torch.full_like(row, layout.columns - 1)
    zero = torch.zeros_like(row)
    one = Queries(
        token=state.tokens[state.batch_index, row, column],
        draft=zero,
        row=row,
        column=column,
        slot=slots.first_image + layout.position(row, column),
        valid=queries.flush,
        lane=zero + band.row.shape[1],
        depth=zero,
        flush=queries.flush,
    )
    pairs = zip(queries[:-1], one[:-1], strict=True)
    return Queries._make([*(torch.cat(pair, dim=1) for pair in pairs), queries.flush])
