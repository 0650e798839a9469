"""Who sees whom: the row-causal mask (paper section 3) and its ablation.

A query at column j of row r sees the prompt; of its own row, the columns up to j, drafts
included; of each row above, the codes committed before this iteration. It never sees another
row's drafts, unless the mask is "none".
"""

import torch
from torch import Tensor

from pjd.config import Mask


def visible(
    row: Tensor,
    column: Tensor,
    committed: Tensor,
    drafts: Tensor,
    columns: int,
    stride: int,
    mask: Mask,
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
        mask: "row-causal" or "none".

    Returns:
        bool [batch, queries, rows * stride], True where the query may attend. A query that
        starts a row sees itself besides, which is the caller's business.
    """
    other = torch.arange(committed.shape[1], device=committed.device)
    place = torch.arange(stride, device=committed.device)
    row, column = row[..., None], column[..., None]
    seen = (committed + drafts if mask == "none" else committed)[:, None]
    limit = torch.where(other < row, seen, torch.where(other == row, column + 1, 0))
    # The input that starts a row stands, in raster order, at the last place of the row above: it
    # must not see the very token that it stands in for.
    limit = torch.where((column < 0) & (other == row - 1), limit.clamp(max=stride - 1), limit)
    shown = place < limit[..., None]
    # A row-end token was fed to start the row below it: every row from there on sees it.
    shown |= (place >= columns) & (other < row)[..., None]
    return shown.flatten(2)
