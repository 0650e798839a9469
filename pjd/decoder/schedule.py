"""The wavefront: which rows are active in an iteration, and how far each may draft and commit."""

from typing import NamedTuple

import torch
from torch import Tensor

from pjd.decoder.config import DecodeConfig


class Band(NamedTuple):
    """The active rows of one iteration, in lanes from the top-most unfinished row down.

    Attributes:
        row: int64 [batch, lanes]; the row of a lane, R where there is none.
        start: int64 [batch, lanes]; codes the row had committed when the iteration began.
        active: bool [batch, lanes]; lanes that take part.
        drafts: int64 [batch, lanes]; drafts to test after them, at most the window.
        room: int64 [batch, lanes]; most codes the row may commit.
        resample: bool [batch, lanes]; whether the row may commit a token drawn anew.
    """

    row: Tensor
    start: Tensor
    active: Tensor
    drafts: Tensor
    room: Tensor
    resample: Tensor

    @property
    def begun(self) -> Tensor:
        """Lanes that take part or have codes already, bool [batch, lanes]."""
        return self.active | (self.start > 0)

    def first(self, lanes: int) -> "Band":
        """The first ``lanes`` lanes."""
        return Band(*(field[:, :lanes] for field in self))


def band(
    committed: Tensor,
    drafted: Tensor,
    columns: int,
    lanes: int,
    context: int,
    config: DecodeConfig,
) -> Band:
    """Lay the band over the rows (paper section 3; METHODS 7.1, steps 1 and 2).

    A row starts once the row above has ``context`` codes, and never overtakes it.

    Args:
        committed: int64 [batch, R + 1], codes committed a row; the last entry is padding.
        drafted: int64 [batch, R + 1], drafts that each row has kept.
        columns: codes C of a row.
        lanes: most rows active at once.
        context: codes the row above must have, at most C.
        config: the method's choices.
    """
    count, window = committed.shape[1] - 1, config.window
    top = (committed[:, :-1] == columns).sum(1, keepdim=True)
    lane = torch.arange(lanes, device=committed.device)
    row = torch.where(top + lane < count, top + lane, count)
    start = committed.gather(1, row)
    above = torch.where(row > 0, committed.gather(1, (row - 1).clamp(min=0)), columns)
    started = (row < count) & (above >= context)
    limit = above if config.lag == "at-start" else staircase(row, start, columns, context)
    room = torch.where(started, (limit - start).clamp(min=0), 0)
    resample = (room > 0) & ((config.resample == "every-row") | (row == top))
    # A row that may resample fills its last place with the token drawn anew, others with a draft.
    spared = resample.long()
    drafts = torch.minimum(room - spared, window - spared)
    active = room > 0
    if config.reach == "inside-gap":
        drafts = (room - 1).clamp(max=window - 1)
    elif config.reach == "window":
        drafts = torch.minimum(columns - start - 1, window - spared)
        active = started
    drafts = torch.where(active, drafts, 0).clamp(min=0)
    if config.start == "adaptive":
        # The row's first code is tested against a later view before the row may start.
        waiting = active & (start == 0) & (above < columns)
        room = torch.where(waiting, 1, room)
        resample = resample & ~waiting
        drafts = torch.where(waiting, drafted.gather(1, row).clamp(max=1), drafts)
    return Band(row, start, active, drafts, room, resample)


def staircase(row: Tensor, start: Tensor, columns: int, context: int) -> Tensor:
    """Codes each lane may have at most so that every one keeps its distance (METHODS 6.7).

    The code at column j waits for columns before j + k * c of the k-th row above, for every k.

    Args:
        row: int64 [batch, lanes].
        start: int64 [batch, lanes], codes committed.
        columns: codes C of a row.
        context: the distance c.

    Returns:
        int64 [batch, lanes].
    """
    lane = torch.arange(row.shape[1], device=row.device) * context
    never = torch.iinfo(row.dtype).max // 2
    # A complete row bars nobody.
    furthest = torch.where(start == columns, never, start + lane)
    furthest = torch.cat([torch.full_like(row[:, :1], never), furthest[:, :-1]], dim=1)
    return (furthest.cummin(1).values - lane + 1).clamp(max=columns)


def wavefront_steps(rows: int, columns: int, context: int) -> int:
    """Forwards a row-parallel decoder needs if each active row commits one code in each.

    C + (R - 1) c (METHODS 5.1).
    """
    return columns + (rows - 1) * min(context, columns)


def lanes_needed(rows: int, limit: int | None) -> int:
    """Lanes of a band over ``rows`` rows: ``limit``, or all."""
    return min(rows, limit if limit is not None else rows)
