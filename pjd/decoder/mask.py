"""Who sees whom: the row-causal mask (paper section 3) and its ablations.

A query at column j of row r sees the prompt; of its own row, the columns up to j, drafts
included; of each row above, the codes committed before this iteration. It never sees another
row's drafts, unless the mask is "none" or "released".
"""

import torch
from torch import Tensor

from pjd.decoder.config import Mask


def causal(shown: Tensor, length: int) -> Tensor:
    """The mask of ``length`` inputs in sequence order: the shown places up to its own, and its own.

    Args:
        shown: bool [batch, keys]; False for padding, which only padding itself attends to.
        length: queries, at the first places of the keys.

    Returns:
        bool [batch, 1, length, keys], True where the query may attend.
    """
    key = torch.arange(shown.shape[1], device=shown.device)
    query = key[:length, None]
    return ((shown[:, None] & (key <= query)) | (key == query))[:, None]


def visible(
    row: Tensor,
    column: Tensor,
    committed: Tensor,
    drafts: Tensor,
    columns: int,
    stride: int,
    unhidden: Tensor | int,
    lag: int | None = None,
) -> Tensor:
    """Which places of the image each query sees.

    Args:
        row: int64 [batch, queries]; the row that a query's prediction is for.
        column: int64 [batch, queries]; the column of the query's token, -1 for the input that
            starts a row: the prompt's end, the row-end token above, or a stand-in for the last
            token above.
        committed: int64 [batch, rows]; codes committed when the iteration began.
        drafts: int64 [batch, rows]; drafts fed in this iteration.
        columns: codes C of a row.
        stride: sequence positions a row: C, and one for the forced row-end token, if any.
        unhidden: int64 [batch, queries]; from which row on a query sees the drafts of rows above
            its own, see :func:`drafts_seen`.
        lag: c of the staircase model M_c: of the k-th row above, only columns before
            column + 1 + k * c; None: no such limit.

    Returns:
        bool [batch, queries, rows * stride], True where the query may attend. A query that
        starts a row sees itself besides, which is the caller's business.
    """
    other = torch.arange(committed.shape[1], device=committed.device)
    place = torch.arange(stride, device=committed.device)
    row, column = row[..., None], column[..., None]
    unhidden = unhidden[..., None] if isinstance(unhidden, Tensor) else unhidden
    seen = committed[:, None] + torch.where(other >= unhidden, drafts[:, None], 0)
    if lag is not None:
        seen = torch.minimum(seen, column + 1 + (row - other) * lag)
    limit = torch.where(other < row, seen, torch.where(other == row, column + 1, 0))
    # The input that starts a row stands, in raster order, at the last place of the row above: it
    # must not see the very token that it stands in for.
    limit = torch.where((column < 0) & (other == row - 1), limit.clamp(max=stride - 1), limit)
    shown = place < limit[..., None]
    # A row-end token was fed to start the row below it: every row from there on sees it.
    shown |= (place >= columns) & (other < row)[..., None]
    return shown.flatten(2)


def drafts_seen(
    mask: Mask,
    row: Tensor,
    column: Tensor,
    committed: Tensor,
    drafts: Tensor,
    active: Tensor,
    flush: Tensor,
) -> Tensor | int:
    """From which row on each query sees the drafts of rows above its own.

    The released code writes the mask of the n-th active row not at its own block of queries but
    at a cursor that advances by running totals (METHODS 3.2): the first two active rows are
    protected, the others partly or not at all.

    Args:
        mask: which mask.
        row: int64 [batch, queries], see :func:`visible`.
        column: int64 [batch, queries].
        committed: int64 [batch, rows].
        drafts: int64 [batch, rows].
        active: bool [batch, rows]; rows that are fed.
        flush: bool [batch, 1]; whether a finished row's last token is fed before all else.

    Returns:
        int64 [batch, queries], or one number for all.
    """
    if mask == "none":
        return 0
    if mask == "row-causal":
        return committed.shape[1]
    other = torch.arange(committed.shape[1], device=committed.device)
    row = row.clamp(max=committed.shape[1] - 1)
    length = torch.where(active, drafts + 1, 0)
    begin = length.cumsum(1) - length
    cursor = torch.where(active, begin, 0).cumsum(1) + flush * active.cumsum(1)
    query = flush + begin.gather(1, row) + column + 1 - committed.gather(1, row)
    after, before = (
        cursor[:, None] <= query[..., None],
        query[..., None] < (cursor + length)[:, None],
    )
    return torch.where(after & before & active[:, None], other, 0).amax(-1)
