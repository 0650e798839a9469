"""The wavefront: which rows are active in an iteration, and how far each may draft and commit."""

from typing import NamedTuple

import torch
from torch import Tensor


class Band(NamedTuple):
    """The active rows of one iteration, in lanes from the top-most unfinished row down.

    Attributes:
        row: int64 [batch, lanes]; the row of a lane, R where there is none.
        start: int64 [batch, lanes]; codes the row had committed when the iteration began.
        drafts: int64 [batch, lanes]; drafts to feed after them, at most window - 1.
        room: int64 [batch, lanes]; most codes the row may commit, 0 in a lane that is idle.
        resample: bool [batch, lanes]; whether the row may commit a resampled token.
    """

    row: Tensor
    start: Tensor
    drafts: Tensor
    room: Tensor
    resample: Tensor

    @property
    def active(self) -> Tensor:
        """Bool [batch, lanes]: lanes that take part."""
        return self.room > 0

    def first(self, lanes: int) -> "Band":
        """The first ``lanes`` lanes."""
        return Band(*(field[:, :lanes] for field in self))


def band(
    committed: Tensor, columns: int, lanes: int, window: int, context: int, every_row: bool
) -> Band:
    """Lay the band over the rows (paper section 3; METHODS 7.1, steps 1 and 2).

    A row starts once the row above has ``context`` codes, and never overtakes it.

    Args:
        committed: int64 [batch, R + 1], codes committed a row; the last entry is padding.
        columns: codes C of a row.
        lanes: most rows active at once.
        window: positions predicted a row.
        context: codes the row above must have, at most C.
        every_row: whether rows below the top-most may commit a resampled token.
    """
    count = committed.shape[1] - 1
    top = (committed[:, :-1] == columns).sum(1, keepdim=True)
    row = top + torch.arange(lanes, device=committed.device)
    exists = row < count
    row = torch.where(exists, row, count)
    start = committed.gather(1, row)
    above = torch.where(row > 0, committed.gather(1, (row - 1).clamp(min=0)), columns)
    room = torch.where(exists & (above >= context), above - start, 0)
    resample = (room > 0) & (every_row | (row == top))
    # A row that may resample fills its last place with the resampled token, the others with a
    # draft.
    drafts = (room - resample.long()).clamp(0, window - 1)
    return Band(row, start, drafts, room, resample)


def wavefront_steps(rows: int, columns: int, context: int) -> int:
    """Forwards a row-parallel decoder needs if each active row commits one code in each.

    C + (R - 1) c (METHODS 5.1).
    """
    return columns + (rows - 1) * min(context, columns)


def lanes_needed(rows: int, limit: int | None) -> int:
    """Lanes of a band over ``rows`` rows: ``limit``, or all."""
    return min(rows, limit if limit is not None else rows)
