"""What the authors' released code does otherwise than the paper, defects included.

Kept out of the reader's way, for the ablation `pjd-released`. docs/method.md, section 6, lists
the differences; each function here is one of them, and is called where the paper's rule stands.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pjd.decoder.acceptance import likelihood

if TYPE_CHECKING:
    from pjd.decoder.queries import Queries
    from pjd.decoder.redraft import RedraftInputs


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


def one_position_earlier(queries: "Queries", tested: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Drafts that are off by one, in the iteration after a row is finished (``finish``).

    There the released code loses count: it tests the distribution after a lane's last committed
    token against that very token, the next distribution against the draft before, and so on.

    Args:
        queries: as they are fed.
        tested: bool [batch, queries]; queries whose prediction a draft is tested against.

    Returns:
        Tokens, columns and depths of the drafts, int64 [batch, queries] each.
    """
    late = queries.flush & tested
    # The draft one position earlier is the very token that is fed.
    draft = torch.where(late, queries.token, queries.draft)
    return draft, queries.column + 1 - late.long(), queries.depth - late.long()


def at_least_half_as_likely(inputs: "RedraftInputs") -> Tensor:
    """Drafts behind the rejection that are more than half as likely as before stay (``redraft``).

    With their old q, which makes their law neither p nor q: not exact.
    """
    p = likelihood(inputs.accept.target_probs, inputs.accept.drafts)
    q = likelihood(inputs.accept.draft_probs, inputs.accept.drafts)
    return (p > 0.5 * q) & inputs.behind
