"""What a figure shows, as a table: read off the figure itself, so that the two cannot differ."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.container import BarContainer, Container, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FuncFormatter

Row = dict[str, object]

COLUMNS = ["panel", "series", "x", "y", "low", "high"]
"""Columns of the table. panel: title of the axes or, without one, the name of its vertical axis;
low and high: ends of an error bar or of a shaded band; x is empty where a line holds for all x."""


def drawn_values(figure: Figure) -> pd.DataFrame:
    """Every point, bar, line, band and cell of a figure, in the order in which it was drawn.

    Photographs are left out: they are no numbers. Columns: :data:`COLUMNS`; of a coloured grid, x
    and y are column and row, and ``value`` is what the colour stands for.
    """
    rows = [
        {"panel": axis.get_title() or axis.get_ylabel(), **row}
        for axis in figure.axes
        for row in of_axes(axis)
    ]
    table = pd.DataFrame(rows)
    kept = [*COLUMNS, "value"]
    return table.reindex(columns=kept).dropna(axis="columns", how="all") if rows else table


def of_axes(axis: Axes) -> Iterator[Row]:
    """The rows of one axes."""
    held: set[Artist] = set()
    for container in axis.containers:
        if isinstance(container, ErrorbarContainer):
            line, caps, bars = container.lines
            held |= {line, *caps}
            ends = [segment[:, 1] for segment in bars[0].get_segments()] if bars else []
            for place, row in enumerate(points(axis, container, points_of(line))):
                interval = dict(zip(("low", "high"), ends[place], strict=True)) if ends else {}
                yield row | interval
        elif isinstance(container, BarContainer):
            held |= set(container.patches)
            tops = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in container]
            yield from points(axis, container, np.array(tops))
    for line in axis.lines:
        if line in held:
            continue
        if line.get_transform() == axis.get_yaxis_transform(which="grid"):
            yield {"series": shown_label(line), "y": points_of(line)[0, 1]}
        elif line.get_transform() != axis.get_xaxis_transform(which="grid"):
            yield from points(axis, line, points_of(line))
    for patch in axis.patches:
        if patch not in held and shown_label(patch):
            box = patch.get_path().get_extents(patch.get_patch_transform())
            yield {"series": shown_label(patch), "low": box.ymin, "high": box.ymax}
    for collection in axis.collections:
        if isinstance(collection, PathCollection):
            yield from points(axis, collection, np.asarray(collection.get_offsets()))
        elif isinstance(collection, QuadMesh):
            yield from cells(np.asarray(collection.get_array()))
    for image in axis.images:
        yield from cells(np.asarray(image.get_array()))


def points_of(line: Line2D) -> np.ndarray:
    """Points of a line, float [points, 2]."""
    return np.asarray(line.get_xydata())


def points(axis: Axes, artist: Artist | Container, places: np.ndarray) -> Iterator[Row]:
    """One row per point [points, 2] of what is drawn."""
    for x, y in places:
        yield {"series": shown_label(artist), "x": tick(axis, x), "y": y}


def cells(values: np.ndarray) -> Iterator[Row]:
    """The rows of a coloured grid; none of a photograph."""
    if values.ndim == 2:
        for (row, column), value in np.ndenumerate(values):
            yield {"x": column, "y": row, "value": value}


def tick(axis: Axes, x: float) -> object:
    """What the horizontal axis calls ``x``: the text of its tick there or, without one, ``x``."""
    if isinstance(axis.xaxis.get_major_formatter(), FixedFormatter | FuncFormatter):
        texts = [label.get_text() for label in axis.get_xticklabels()]
        for place, text in zip(axis.get_xticks(), texts, strict=False):
            if text and np.isclose(place, x):
                return text
    return x


def shown_label(artist: Artist | Container) -> str:
    """The label that a legend would show; matplotlib's own names of the others begin with _."""
    label = str(artist.get_label())
    return "" if label.startswith("_") else label
