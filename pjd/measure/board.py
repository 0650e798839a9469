"""One image's board: what each position holds after a step, and who sees whom in it.

All of it is read off a :class:`pjd.api.Result`. A step is named by its index, which counts from 0.
"""

from typing import NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from pjd.api import Result
from pjd.decoder.grid import Grid, RowLayout
from pjd.decoder.inputs import image_mask
from pjd.decoder.queries import Queries
from pjd.decoder.schedule import lanes_needed, schedule

EMPTY, COMMITTED, DRAFTED, ACCEPTED, RESAMPLED = range(5)
"""What a position holds when a step is over; the last three came about in that step."""

STATES = {
    "empty": "#f2f2f2",
    "committed before": "#4c72b0",
    "draft, rejected or behind": "#dddd77",
    "draft, accepted": "#55a868",
    "resampled": "#c44e52",
}
"""Name and colour of each state."""


class Sight(NamedTuple):
    """The queries of one step and what they see; the flush, which predicts nothing, is left out.

    Attributes:
        row: int64 [queries]; the row of the decoder's layout that a query predicts a token of.
        column: int64 [queries]; column of the query's own token, -1 for the input that starts a
            row.
        seen: bool [queries, R, C]; which codes of the image the query sees. The prompt, which
            every query sees, is left out.
    """

    row: Tensor
    column: Tensor
    seen: Tensor


def boards(result: Result, image: int, grid: Grid) -> Tensor:
    """What every position of an image holds after each step.

    Args:
        result: from :func:`pjd.api.generate`.
        image: index of the image.
        grid: of the model.

    Returns:
        uint8 [steps, R, C], :data:`EMPTY` to :data:`RESAMPLED`.
    """
    before = tokens_before(result, image)[..., None]
    after, drafted, accepted = (counts[..., None] for counts in counts_of(result, image))
    column = torch.arange(result.trace.columns)
    board = torch.full((*before.shape[:2], len(column)), EMPTY, dtype=torch.uint8)
    # Each state is painted over what the one before it painted too far to the left.
    board[column < before + drafted] = DRAFTED
    board[column < after] = RESAMPLED
    board[column < before + accepted] = ACCEPTED
    board[column < before] = COMMITTED
    return grid.without_row_ends(board)


def counts_of(result: Result, image: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens after each step, drafts tested and drafts accepted in it: int64 [steps, rows] each."""
    steps, trace = int(result.trace.steps[image]), result.trace
    counts = (trace.committed, trace.drafted, trace.accepted)
    committed, drafted, accepted = (count[:steps, image].long() for count in counts)
    return committed, drafted, accepted


def tokens_before(result: Result, image: int) -> Tensor:
    """Tokens that each row has committed before each step, int64 [steps, rows]."""
    committed, _, _ = counts_of(result, image)
    return F.pad(committed[:-1], (0, 0, 1, 0))


def sight(result: Result, image: int, grid: Grid, step: int) -> Sight:
    """Who sees whom in one step, by the decoder's own schedule and mask.

    Args:
        result: from :func:`pjd.api.generate`.
        image: index of the image.
        grid: of the model.
        step: index of the step.
    """
    config, before = result.config, F.pad(tokens_before(result, image), (0, 1))
    # No board needs the vocabulary.
    layout = RowLayout.of(grid, config, vocabulary=0)
    committed, drafted = before[step : step + 1], counts_of(result, image)[1][step : step + 1]
    lanes = lanes_needed(layout.rows, config.rows)
    band = schedule(committed, F.pad(drafted, (0, 1)), layout, lanes, config)
    depth = torch.arange(config.window)
    # A full window has as many drafts as positions: the last one is tested, but not fed.
    fed = band.active[..., None] & (depth <= band.n_drafts[..., None])
    row = band.row[..., None].expand_as(fed)[fed]
    column = (band.committed[..., None] + depth - 1)[fed]
    complete = (before == layout.columns).sum(1)
    flush = complete[step] > (complete[step - 1] if step else 0)
    blank = torch.zeros_like(row[None])
    queries = Queries(
        token=blank,
        draft=blank,
        row=row[None],
        column=column[None],
        slot=blank,
        valid=blank == 0,
        lane=blank,
        depth=blank,
        flush=flush.view(1, 1),
    )
    seen = image_mask(committed, layout, config, band, queries)[0]
    return Sight(row, column, grid.without_row_ends(seen))


def busiest(result: Result, image: int) -> int:
    """The step that drafts most, among those in which most rows draft."""
    _, drafted, accepted = counts_of(result, image)
    most = len(drafted[0]) * result.trace.columns
    return int(((drafted > 0).sum(1) * most + drafted.sum(1) + accepted.sum(1)).argmax())


def rows_of(result: Result, image: int, step: int) -> pd.DataFrame:
    """What each active row did in one step: one line per row of the decoder's layout.

    Columns: row, before (tokens committed when the step began), drafted, accepted, resampled (1 if
    the row committed a token that was not drafted) and after.
    """
    after, drafted, accepted = (counts[step] for counts in counts_of(result, image))
    before = tokens_before(result, image)[step]
    table = pd.DataFrame(
        {
            "row": range(len(after)),
            "before": before,
            "drafted": drafted,
            "accepted": accepted,
            "resampled": after - before - accepted,
            "after": after,
        }
    )
    return table[(table.drafted > 0) | (table.after > table.before)].reset_index(drop=True)
