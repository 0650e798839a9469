"""Who sees whom: the row-causal mask (paper, section 3) and its ablations.

A query sees a position of the image if that comes earlier in raster order and

- holds a committed token, or
- is in the query's own row (up to the query itself, drafts included), or
- holds a draft of another row, and the mask lets drafts of other rows be seen.

For C = 8 columns, with 5, 3 and 1 tokens committed (#) and two drafts (d) in each row::

    row 0   #####dd.      the query at row 1, column 4     xxxxx...
    row 1   ###dd...      (its second draft) sees (x)      xxxxx...
    row 2   #dd.....                                       ........

"Committed" is as of the beginning of the iteration. docs/method.md has the picture for one to four
rows in flight.
"""

import torch
from torch import Tensor

from pjd.decoder import released
from pjd.decoder.config import Mask


def causal(real: Tensor, length: int) -> Tensor:
    """Causal mask: a query sees every key up to itself that is not padding, and always itself.

    Args:
        real: bool [batch, keys]; False for padding.
        length: number of queries, which are the first of the keys.

    Returns:
        bool [batch, 1, length, keys], True where the query may attend.
    """
    key = torch.arange(real.shape[1], device=real.device)
    query = key[:length, None]
    return ((real[:, None] & (key <= query)) | (key == query))[:, None]


def visible(
    row: Tensor,
    column: Tensor,
    committed: Tensor,
    drafts: Tensor,
    columns: int,
    stride: int,
    drafts_visible_from: Tensor | int,
    staircase: int | None = None,
) -> Tensor:
    """Which positions of the image each query sees.

    Args:
        row: int64 [batch, queries]; the row that a query's prediction is for.
        column: int64 [batch, queries]; the column of the query's token, -1 for the input that
            starts a row: the prompt's end, the row-end token above, or a stand-in for the last
            token above.
        committed: int64 [batch, rows]; tokens committed when the iteration began.
        drafts: int64 [batch, rows]; drafts fed in this iteration.
        columns: tokens C per row.
        stride: sequence positions per row: C, and one for the forced row-end token, if any.
        drafts_visible_from: int64 [batch, queries], or one number for all; see the function of
            this name.
        staircase: c of the staircase model M_c: of the k-th row above, only columns before
            column + 1 + k * c are seen; None: no such limit.

    Returns:
        bool [batch, queries, rows * stride], True where the query may attend. A query that
        starts a row also sees itself, which the caller adds.
    """
    key_row = torch.arange(committed.shape[1], device=committed.device)
    key_column = torch.arange(stride, device=committed.device)
    row, column = row[..., None], column[..., None]
    if isinstance(drafts_visible_from, Tensor):
        drafts_visible_from = drafts_visible_from[..., None]
    above, own = key_row < row, key_row == row
    # In each row a query sees the columns before a limit. In a row above: committed tokens, and
    # drafts where the mask lets them be seen; in its own row: everything up to itself.
    of_above = committed[:, None]
    of_above = of_above + torch.where(key_row >= drafts_visible_from, drafts[:, None], 0)
    if staircase is not None:
        of_above = torch.minimum(of_above, column + 1 + (row - key_row) * staircase)
    limit = torch.where(above, of_above, torch.where(own, column + 1, 0))
    # In raster order the input that starts a row is at the last position of the row above. As a
    # stand-in it must not see the very token that it stands in for.
    starts = (column < 0) & (key_row == row - 1)
    limit = torch.where(starts, limit.clamp(max=stride - 1), limit)
    seen = key_column < limit[..., None]
    # A row-end token was fed to start the row below it: that row and all later ones see it.
    seen |= (key_column >= columns) & above[..., None]
    return seen.flatten(2)


def drafts_visible_from(
    mask: Mask,
    row: Tensor,
    column: Tensor,
    committed: Tensor,
    drafts: Tensor,
    active: Tensor,
    flush: Tensor,
) -> Tensor | int:
    """From which row on a query sees the drafts of the rows above its own (0: of all, R: of none).

    Args:
        mask: which mask.
        row: int64 [batch, queries], see :func:`visible`.
        column: int64 [batch, queries].
        committed: int64 [batch, rows].
        drafts: int64 [batch, rows].
        active: bool [batch, rows]; rows that are fed.
        flush: bool [batch, 1]; whether a finished row's last token is fed too.

    Returns:
        int64 [batch, queries], or one number for all.
    """
    if mask == "none":
        return 0
    if mask == "row-causal":
        return committed.shape[1]
    return released.drafts_visible_from(row, column, committed, drafts, active, flush)
