"""One image's board: what each position holds after a step, and who sees whom in it.

All of it is read off a :class:`pjd.api.Result`. A step is named by its index, which counts from 0.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pjd.api import Result
from pjd.decoder.grid import Grid, RowLayout
from pjd.decoder.schedule import Band, lanes_needed, schedule

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
    return on_grid(board, grid)


def counts_of(result: Result, image: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens after each step, drafts tested and drafts accepted in it: int64 [steps, rows] each."""
    steps, trace = int(result.steps[image]), result.trace
    counts = (trace.committed, trace.drafted, trace.accepted)
    committed, drafted, accepted = (count[:steps, image].long() for count in counts)
    return committed, drafted, accepted


def tokens_before(result: Result, image: int) -> Tensor:
    """Tokens that each row has committed before each step, int64 [steps, rows]."""
    committed, _, _ = counts_of(result, image)
    return F.pad(committed[:-1], (0, 0, 1, 0))


def on_grid(values: Tensor, grid: Grid) -> Tensor:
    """Values of the decoder's layout [n, rows, columns] as those of the codes, [n, R, C].

    The raster layout has positions of forced row-end tokens, which are left out.
    """
    return values.reshape(len(values), grid.rows, -1)[..., : grid.columns]


def band_of(result: Result, image: int, grid: Grid, step: int) -> Band:
    """The active rows of one step, of a batch of one image."""
    config, layout = result.config, layout_of(result, grid)
    before = F.pad(tokens_before(result, image)[step : step + 1], (0, 1))
    drafted = F.pad(counts_of(result, image)[1][step : step + 1], (0, 1))
    return schedule(before, drafted, layout, lanes_needed(layout.rows, config.rows), config)


def layout_of(result: Result, grid: Grid) -> RowLayout:
    """The layout that the image was decoded in; its vocabulary, which no board needs, is 0."""
    return RowLayout.of(grid, result.config, 0)


def sight(result: Result, image: int, grid: Grid, step: int) -> Sight:
    """Who sees whom in one step.

    Args:
        result: from :func:`pjd.api.generate`.
        image: index of the image.
        grid: of the model.
        step: index of the step.
    """
    config, layout, before = result.config, layout_of(result, grid), tokens_before(result, image)
    band = band_of(result, image, grid, step)
    # A full window has as many drafts as positions: the last draft is tested but not fed.
    fed = band.n_drafts.clamp(max=config.window - 1)
    pairs = [
        (row, column)
        for row, own, drafts, active in zip(
            *(part[0].tolist() for part in (band.row, band.committed, fed, band.active)),
            strict=True,
        )
        if active
        for column in range(own - 1, own + drafts)
    ]
    row, column = torch.tensor(pairs).T
    ...
