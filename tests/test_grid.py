"""Geometry: one grid, laid out as its rows or as one row."""

import pytest
import torch

from pjd.decoder.grid import Grid, RowLayout
from pjd.decoder.methods import configure


def test_a_row_end_token_takes_a_position_and_is_no_code():
    grid = Grid(rows=3, columns=4, row_end=99)
    assert (grid.stride, grid.length, grid.n_codes) == (5, 15, 12)
    assert (Grid(3, 4).stride, Grid(3, 4).length) == (4, 12)


@pytest.mark.parametrize(("method", "rows", "columns"), [("pjd", 3, 4), ("sjd", 1, 15)])
def test_a_layout_has_the_rows_of_the_grid_or_one_row_of_all_tokens(method, rows, columns):
    layout = RowLayout.of(Grid(3, 4, row_end=99), configure(method), vocabulary=11)
    assert (layout.rows, layout.columns) == (rows, columns)
    # By rows the decoder does not fill the row ends; in raster order it does.
    assert layout.row_ends == (method == "pjd")
    assert layout.length == rows * columns
    forced = layout.forced(torch.arange(columns)).nonzero().flatten().tolist()
    assert forced == ([] if method == "pjd" else [4, 9, 14])
    # The row-end token has the id behind the codes.
    assert layout.n_ids == 12


def test_context_tokens_are_at_most_a_row():
    for context, expected in ((2, 2), (99, 4)):
        layout = RowLayout.of(Grid(3, 4), configure("pjd", context=context), vocabulary=11)
        assert layout.context == expected


@pytest.mark.parametrize("size", [0, -1, 2.0])
def test_a_size_that_is_no_positive_integer_is_refused(size):
    with pytest.raises(ValueError, match="grid columns must be a positive integer"):
        Grid(3, size)
