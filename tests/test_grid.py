"""Geometry: one grid, laid out as its rows or as one row."""

import pytest
import torch

from pjd.decoder.grid import Grid, RowLayout
from pjd.decoder.methods import configure


def test_a_row_end_token_takes_a_position_and_is_no_code():
    grid = Grid(rows=3, columns=4, row_end=99)
    assert (grid.stride, grid.length, grid.n_codes) == (5, 15, 12)
    assert (Grid(3, 4).stride, Grid(3, 4).length) == (4, 12)


@pytest.mark.parametrize("row_end", [None, 99])
def test_codes_lose_and_get_back_their_row_ends(row_end):
    grid = Grid(rows=2, columns=3, row_end=row_end)
    codes = torch.arange(12).view(2, 6)
    tokens = grid.with_row_ends(codes, -5)
    if row_end is None:
        assert torch.equal(tokens, codes)
    else:
        assert tokens.tolist() == [[0, 1, 2, -5, 3, 4, 5, -5], [6, 7, 8, -5, 9, 10, 11, -5]]
    ends = grid.is_row_end(torch.arange(grid.length))
    assert torch.equal(ends, tokens[0] == -5)
    # Of all tokens, or of the codes alone, in one dimension or in several.
    for values in (tokens, codes, tokens.view(2, 1, -1), codes.view(2, 2, 3)):
        assert torch.equal(grid.without_row_ends(values), codes.view(2, 2, 3))


@pytest.mark.parametrize("method", ["pjd", "sjd"])
def test_known_codes_are_laid_out_beside_unknown_row_ends(method):
    layout = RowLayout.of(Grid(2, 3, row_end=99), configure(method), vocabulary=11)
    rows = layout.rows_of(torch.arange(6)[None])
    by_rows = [[[0, 1, 2], [3, 4, 5]]]
    assert rows.tolist() == (by_rows if method == "pjd" else [[[0, 1, 2, -1, 3, 4, 5, -1]]])


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
