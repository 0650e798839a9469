"""The wavefront: which rows are active in an iteration, and how far each may draft and commit.

A row starts once the row above has c context tokens, and never overtakes it. With C = 8 columns
and c = 4, after 8, 5, 1 and 0 tokens have been committed::

    row 0   ########   complete
    row 1   #####...   the top active row: it may commit up to column C
    row 2   #.......   may come up to row 1: it may gain four tokens
    row 3   ........   waits: row 2 has fewer than four tokens
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pjd.decoder import released
from pjd.decoder.config import DecodeConfig
from pjd.decoder.grid import RowLayout


class Band(NamedTuple):
    """The rows from the top-most unfinished one down, in lanes; ``active`` says which take part.

    Attributes:
        finished: int64 [batch, 1]; complete rows when the iteration began: the first ones.
        row: int64 [batch, lanes]; the row of a lane, R where there is none.
        committed: int64 [batch, lanes]; tokens that the row had when the iteration began.
        active: bool [batch, lanes]; lanes that take part.
        n_drafts: int64 [batch, lanes]; drafts to test after them, at most the window.
        max_commits: int64 [batch, lanes]; the largest number of tokens that the row may commit.
        may_resample: bool [batch, lanes]; whether the row may commit a token that was not drafted.
    """

    finished: Tensor
    row: Tensor
    committed: Tensor
    active: Tensor
    n_drafts: Tensor
    max_commits: Tensor
    may_resample: Tensor

    @property
    def begun(self) -> Tensor:
        """Lanes that take part or have tokens already, bool [batch, lanes]."""
        return self.active | (self.committed > 0)

    def head(self, lanes: int) -> "Band":
        """The first ``lanes`` lanes, at least one."""
        return Band(*(field[:, :lanes] for field in self))


def schedule(
    committed: Tensor, drafted: Tensor, layout: RowLayout, n_lanes: int, config: DecodeConfig
) -> Band:
    """Lay the band over the rows (paper, section 3; docs/method.md, section 3).

    Args:
        committed: int64 [batch, R + 1], tokens committed per row; the last entry is padding.
        drafted: int64 [batch, R + 1], drafts that each row has from the iteration before.
        layout: rows, columns and context tokens.
        n_lanes: the largest number of rows active at once.
        config: the method's choices.
    """
    rows, columns, window = layout.rows, layout.columns, config.window
    finished = (committed[:, :-1] == columns).sum(1, keepdim=True)
    row = finished + torch.arange(n_lanes, device=committed.device)
    row = torch.where(row < rows, row, rows)
    own = committed.gather(1, row)
    above = torch.where(row > 0, committed.gather(1, (row - 1).clamp(min=0)), columns)
    started = (row < rows) & (above >= layout.context)
    # How many tokens the row may have after this iteration.
    limit = above if config.lag == "at-start" else staircase_limit(own, columns, layout.context)
    max_commits = torch.where(started, (limit - own).clamp(min=0), 0)
    active = max_commits > 0
    may_resample = active & ((config.resample == "every-row") | (row == finished))
    # A row that may resample leaves its last window position to the resampled token.
    spared = may_resample.long()
    if config.draft_limit == "window":
        n_drafts = torch.minimum(columns - own - 1, window - spared)
        active = started
    elif config.draft_limit == "released":
        n_drafts = released.n_drafts(max_commits, window)
    else:
        n_drafts = torch.minimum(max_commits - spared, window - spared)
    n_drafts = torch.where(active, n_drafts, 0).clamp(min=0)
    if config.start == "adaptive":
        # The row's first token is tested against a later prediction before the row may start.
        waiting = active & (own == 0) & (above < columns)
        max_commits = torch.where(waiting, 1, max_commits)
        may_resample = may_resample & ~waiting
        n_drafts = torch.where(waiting, drafted.gather(1, row).clamp(max=1), n_drafts)
    return Band(finished, row, own, active, n_drafts, max_commits, may_resample)


def staircase_limit(committed: Tensor, columns: int, context: int) -> Tensor:
    """Tokens that each lane may have so that every token keeps its distance (M_c).

    The token at column j waits for the columns before j + k * c of the k-th row above, for every
    row above that is not complete.

    Args:
        committed: int64 [batch, lanes].
        columns: tokens C per row.
        context: the distance c.

    Returns:
        int64 [batch, lanes].
    """
    offset = torch.arange(committed.shape[1], device=committed.device) * context
    no_limit = torch.iinfo(committed.dtype).max // 2
    # A finished row imposes no limit.
    reached = torch.where(committed == columns, no_limit, committed + offset)
    reached = torch.cat([torch.full_like(committed[:, :1], no_limit), reached[:, :-1]], dim=1)
    return (reached.cummin(1).values - offset + 1).clamp(max=columns)


def wavefront_steps(rows: int, columns: int, context: int) -> int:
    """Forward passes that a row-parallel decoder needs if every active row gains one token in each.

    C + (R - 1) c (docs/method.md, section 3).
    """
    return columns + (rows - 1) * min(context, columns)


def lanes_needed(rows: int, limit: int | None) -> int:
    """Lanes of a band over ``rows`` rows: ``limit``, or all."""
    return min(rows, limit if limit is not None else rows)
