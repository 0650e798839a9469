"""What the authors' released code does otherwise than the paper, defects included.

Kept out of the reader's way, for the ablation `pjd-released`. docs/method.md, section 8, lists
the differences; each function here is one of them, and is called where the paper's rule stands.
"""

import torch
from torch import Tensor

from pjd.decoder.acceptance import AcceptInputs, likelihood


def n_drafts(max_commits: Tensor, window: int) -> Tensor:
    """Drafts per lane, one fewer than the row may commit (``draft_limit`` "released").

    Args:
        max_commits: int64 [batch, lanes].
        window: positions predicted per row.
    """
    return (max_commits - 1).clamp(max=window - 1)


def drafts_visible_from(
    row: Tensor, column: Tensor, committed: Tensor, drafts: Tensor, active: Tensor, flush: Tensor
) -> Tensor:
    """From which row on each query sees the drafts of rows above its own (``mask`` "released").

    The released code writes the mask of the n-th active row not at that row's own block of
    queries but at a cursor that advances by running totals. The first two active rows are
    protected, the others partly or not at all.

    Args:
        row: int64 [batch, queries], see :func:`pjd.decoder.mask.visible`.
        column: int64 [batch, queries].
        committed: int64 [batch, rows].
        drafts: int64 [batch, rows].
        active: bool [batch, rows]; rows that are fed.
        flush: bool [batch, 1]; whether a finished row's last token is fed before all else.

    Returns:
        int64 [batch, queries].
    """
    rows = torch.arange(committed.shape[1], device=committed.device)
    row = row.clamp(max=committed.shape[1] - 1)
    length = torch.where(active, drafts + 1, 0)
    begin = length.cumsum(1) - length
    cursor = torch.where(active, begin, 0).cumsum(1) + flush.long() * active.cumsum(1)
    query = flush.long() + begin.gather(1, row) + column + 1 - committed.gather(1, row)
    written = (cursor[:, None] <= query[..., None]) & (
        query[..., None] < (cursor + length)[:, None]
    )
    return torch.where(written & active[:, None], rows, 0).amax(-1)


def one_position_earlier(
    late: Tensor, token: Tensor, draft: Tensor, column: Tensor, depth: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Drafts that are off by one, in the iteration after a row is finished (``finish``).

    There the released code loses count: it tests the distribution after a lane's last committed
    token against that very token, the next distribution against the draft before, and so on. That
    token has the q that it was accepted with; the input that starts a row has none, and counts as
    certain.

    Args:
        late: bool [batch, queries]; tested queries of images in which a row was just finished.
        token: int64 [batch, queries]; the tokens that are fed.
        draft: int64 [batch, queries]; the drafts of the positions that are predicted.
        column: int64 [batch, queries]; their columns.
        depth: int64 [batch, queries]; their positions in the windows.

    Returns:
        Tokens, columns and depths of the drafts that are tested, int64 [batch, queries] each.
    """
    # The draft one position earlier is the very token that is fed.
    return torch.where(late, token, draft), column - late.long(), depth - late.long()


def keep_half_as_likely(inputs: AcceptInputs, passed: Tensor, behind: Tensor) -> Tensor:
    """Drafts behind the rejection stay if more than half as likely as before (``redraft``).

    They keep their old q, which makes their law neither p nor q: not exact.
    """
    p = likelihood(inputs.target_probs, inputs.drafts)
    q = likelihood(inputs.draft_probs, inputs.drafts)
    return (p > 0.5 * q) & behind
