"""Draw the board of an image: what its positions hold after a step, and who sees whom in it."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from pjd.api import Result
from pjd.decoder.grid import Grid
from pjd.measure.board import COMMITTED, STATES, Sight, boards, sight

UNSEEN, SEEN, OWN_DRAFT = "#f2f2f2", "#4c72b0", "#dddd77"
"""Colours of a mask: not seen, a committed token, a draft of the query's own row."""


def draw_board(axis: Axes, board: Tensor, title: str) -> None:
    """Draw what the positions of an image hold.

    Args:
        axis: where.
        board: uint8 [R, C], of :func:`pjd.measure.board.boards`.
        title: above it.
    """
    axis.pcolormesh(
        board.numpy(),
        cmap=ListedColormap(list(STATES.values())),
        vmin=0,
        vmax=len(STATES) - 1,
        edgecolors="w",
        linewidth=1,
    )
    axis.invert_yaxis()
    axis.set(title=title, xticks=[], yticks=[], aspect="equal")


def name_states(figure: Figure) -> None:
    """Write what the colours of a board mean, below all boards of a figure."""
    marks = [
        figure.axes[0].scatter([], [], marker="s", s=60, color=colour, edgecolor="0.6", label=name)
        for name, colour in STATES.items()
    ]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=9)


def film(result: Result, image: int, grid: Grid, steps: list[int]) -> Figure:
    """The board after some steps, four in a line.

    Args:
        result: from :func:`pjd.api.generate`.
        image: index of the image.
        grid: of the model.
        steps: their indices, from 0.
    """
    drawn = boards(result, image, grid)
    lines = -(-len(steps) // 4)
    figure, axes = plt.subplots(lines, 4, figsize=(12, 3.2 * lines + 0.5), layout="constrained")
    for axis in axes.flat[len(steps) :]:
        axis.set_axis_off()
    for axis, step in zip(axes.flat, steps, strict=False):
        draw_board(axis, drawn[step], f"after step {step + 1} of {len(drawn)}")
    name_states(figure)
    return figure


def side_by_side(results: dict[str, Result], image: int, grid: Grid, passes: int) -> Figure:
    """The boards of several decoders after the same number of forward passes.

    Args:
        results: label to result; the same prompt and seed in each.
        image: index of the image.
        grid: of the model.
        passes: forward passes, at least 1; a decoder that needed fewer shows its last one.
    """
    figure, axes = plt.subplots(
        1, len(results), figsize=(3 * len(results), 3.6), squeeze=False, layout="constrained"
    )
    for axis, (label, result) in zip(axes[0], results.items(), strict=True):
        drawn = boards(result, image, grid)
        last = min(passes, len(drawn))
        done = ", done" if last == len(drawn) else f" of {len(drawn)}"
        draw_board(axis, drawn[last - 1], f"{label}: {last}{done}")
    name_states(figure)
    return figure


def draw_sight(axis: Axes, seen: Sight, board: Tensor) -> None:
    """Draw a mask: one line per query, one column per position of the rows from the first one on.

    Args:
        axis: where.
        seen: who sees whom in a step.
        board: uint8 [R, C], what the positions hold after that step.
    """
    columns = board.shape[1]
    first, last = (int(seen.seen.flatten(1).any(0).nonzero()[at]) // columns for at in (0, -1))
    # Rows that are long complete are seen by all: two of them say as much as all do.
    first = max(first, int((board == COMMITTED).all(1).sum()) - 2)
    span = slice(first * columns, (last + 1) * columns)
    drafts = (board > COMMITTED).flatten()
    values = seen.seen.flatten(1).int() * (1 + drafts.int())
    axis.imshow(
        values[:, span],
        cmap=ListedColormap([UNSEEN, SEEN, OWN_DRAFT]),
        vmin=0,
        vmax=2,
        aspect="auto",
        interpolation="nearest",
    )
    for edge in range(columns, span.stop - span.start, columns):
        axis.axvline(edge - 0.5, color="0.3", lw=0.8)
    changes = np.flatnonzero(np.diff(seen.row))
    for change in changes:
        axis.axhline(change + 0.5, color="0.3", lw=0.8)
    middles = [part.mean() for part in np.split(np.arange(len(seen.row)), changes + 1)]
    axis.set_yticks(middles, [f"row {row}" for row in seen.row.unique().tolist()])
    rows = range(first, last + 1)
    axis.set_xticks(
        [(row - first + 0.5) * columns - 0.5 for row in rows], [f"row {r}" for r in rows]
    )
    axis.tick_params(length=0)
    axis.grid(False)


def iteration(result: Result, image: int, grid: Grid, step: int) -> Figure:
    """One step: the board after it, and the mask of its forward pass (figures 3 and 4)."""
    board = boards(result, image, grid)[step]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(14, 6), width_ratios=(1, 1.5), layout="constrained"
    )
    draw_board(left, board, f"the board after step {step + 1} of {int(result.trace.steps[image])}")
    draw_sight(right, sight(result, image, grid, step), board)
    right.set(
        title="its mask: a query per line; blue: a committed token, yellow: a draft of its own row",
        xlabel="positions of the image, row by row",
        ylabel="queries, by the row that they predict",
    )
    name_states(figure)
    return figure
