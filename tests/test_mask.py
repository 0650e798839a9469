"""Who sees whom: the mask as a drawing, and against the rule in words."""

import itertools

import pytest
import torch

from pjd.decoder.mask import causal, drafts_visible_from, visible

# The board has committed tokens (#) and drafts (d). Beside it is what one query sees (x) under
# either mask. Its token is at the row and column given; column -1 is the input that starts a row.
PICTURES = [
    pytest.param(
        (0, 4),
        """
        board     row-causal  none
        ###ddd..  xxxxx...    xxxxx...
        ........  ........    ........
        """,
        id="one row: a query sees its own row up to itself, drafts included",
    ),
    pytest.param(
        (1, 2),
        """
        board     row-causal  none
        #####dd.  xxxxx...    xxxxxxx.
        #ddd....  xxx.....    xxx.....
        """,
        id="two rows: of the row above it sees committed tokens only",
    ),
    pytest.param(
        (1, 4),
        """
        board     row-causal  none
        ######dd  xxxxxx..    xxxxxxxx
        ###dd...  xxxxx...    xxxxx...
        #dd.....  ........    ........
        """,
        id="three rows: it never sees a row below",
    ),
    pytest.param(
        (2, 0),
        """
        board     row-causal  none
        ######dd  xxxxxx..    xxxxxxxx
        ###dd...  xxx.....    xxxxx...
        #dd.....  x.......    x.......
        """,
        id="three rows: so does the last committed token, which is fed again",
    ),
    pytest.param(
        (3, 1),
        """
        board     row-causal  none
        #######.  xxxxxxx.    xxxxxxx.
        #####dd.  xxxxx...    xxxxxxx.
        ###dd...  xxx.....    xxxxx...
        #dd.....  xx......    xx......
        """,
        id="four rows: drafts of all rows above are hidden",
    ),
    pytest.param(
        (3, -1),
        """
        board     row-causal  none
        ########  xxxxxxxx    xxxxxxxx
        ######dd  xxxxxx..    xxxxxxxx
        ####dd..  xxxx....    xxxxxx..
        dd......  ........    ........
        """,
        id="four rows: a stand-in starts row 3; it sees the rows above, and itself in its own slot",
    ),
    pytest.param(
        (2, -1),
        """
        board     row-causal  none
        ########  xxxxxxxx    xxxxxxxx
        ########  xxxxxxx.    xxxxxxx.
        dd......  ........    ........
        """,
        id="the row above is complete: the stand-in is its last token, and does not see it twice",
    ),
]


@pytest.mark.parametrize(("query", "picture"), PICTURES)
def test_what_a_query_sees(query, picture):
    (_, *masks), *lines = [line.split() for line in picture.strip().splitlines()]
    board, *drawn = zip(*lines, strict=True)
    committed, drafts = (
        torch.tensor([[line.count(mark) for line in board]]) for mark in ("#", "d")
    )
    row, column = (torch.tensor([[place]]) for place in query)
    for mask, wanted in zip(masks, drawn, strict=True):
        active = no_flush = torch.ones(1, 1, dtype=torch.bool)
        seen_from = drafts_visible_from(mask, row, column, committed, drafts, active, no_flush)
        seen = visible(row, column, committed, drafts, 8, 8, seen_from).view(-1, 8)
        assert ["".join(".x"[cell] for cell in line) for line in seen] == list(wanted), mask


def brute_force(query, key, committed, drafts, columns, stride, mask) -> bool:
    """The rule in words, for one query and one key, each a row and a column.

    A query is named by the row of its prediction and the column of its token, -1 for the input
    that starts the row.
    """
    (row, column), (key_row, key_column) = query, key
    own, position = row * stride + column, key_row * stride + key_column
    if key_column >= columns:
        # A row-end token starts the row below: that row's queries and all later ones see it.
        return key_row < row
    if position > own:
        return False
    if key_row == row:
        return True
    if column < 0 and position == own:
        return False  # This is the token that the stand-in stands in for.
    known = committed[key_row] + (drafts[key_row] if mask == "none" else 0)
    return key_column < known


CASES = [
    # Rows, columns, a row-end token or not, committed, drafts.
    (3, 8, False, [6, 3, 1], [2, 3, 2]),
    (3, 8, False, [7, 7, 0], [0, 1, 7]),
    (4, 9, False, [9, 6, 4, 2], [0, 3, 2, 2]),
    (4, 9, False, [8, 5, 1, 0], [1, 1, 4, 1]),
    (4, 5, True, [5, 4, 2, 0], [0, 1, 2, 2]),
    (2, 3, True, [2, 0], [1, 2]),
]


@pytest.mark.parametrize("mask", ["row-causal", "none"])
@pytest.mark.parametrize("case", CASES)
def test_visibility_equals_the_rule_in_words(case, mask):
    rows, columns, row_end, committed, drafts = case
    stride = columns + row_end
    queries = [
        (row, column)
        for row in range(rows)
        for column in range(-1, committed[row] + drafts[row])
        if row or column >= 0
    ]
    row, column = (torch.tensor(part)[None] for part in zip(*queries, strict=True))
    shown = visible(
        row,
        column,
        torch.tensor([committed]),
        torch.tensor([drafts]),
        columns,
        stride,
        0 if mask == "none" else rows,
    )
    keys = list(itertools.product(range(rows), range(stride)))
    for index, query in enumerate(queries):
        for position, key in enumerate(keys):
            expected = brute_force(query, key, committed, drafts, columns, stride, mask)
            assert shown[0, index, position] == expected, (query, key)


def test_the_masks_differ_only_in_drafts_of_other_rows():
    committed, drafts = torch.tensor([[5, 2, 0]]), torch.tensor([[2, 2, 1]])
    row, column = torch.tensor([[2]]), torch.tensor([[0]])
    row_causal = visible(row, column, committed, drafts, 8, 8, 3).view(3, 8)
    none = visible(row, column, committed, drafts, 8, 8, 0).view(3, 8)
    assert (none & ~row_causal).nonzero().tolist() == [[0, 5], [0, 6], [1, 2], [1, 3]]
    assert not (row_causal & ~none).any()


def test_the_staircase_hides_columns_beyond_its_lag():
    committed, drafts = torch.tensor([[8, 8, 2]]), torch.zeros(1, 3, dtype=torch.long)
    row, column = torch.tensor([[2, 2]]), torch.tensor([[-1, 1]])
    shown = visible(row, column, committed, drafts, 8, 8, 3, staircase=3)[0].view(2, 3, 8)
    # The token at column j sees the columns before j + c of the row above, and before j + 2 c of
    # the row above that.
    assert shown[0].sum(-1).tolist() == [6, 3, 0]
    assert shown[1].sum(-1).tolist() == [8, 5, 2]


def test_the_causal_mask_shows_earlier_positions_and_padding_only_itself():
    shown = torch.tensor([[False, True, True, True]])
    expected = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]
    assert causal(shown, 4)[0, 0].int().tolist() == expected
