import itertools

import pytest
import torch

from pjd.mask import visible


def brute_force(query, key, committed, drafts, columns, stride, mask) -> bool:
    """The visibility rule, in words, for one (query, key) pair of (row, column) places.

    A query is named by the row of its prediction and the column of its token, -1 for the input
    that starts the row.
    """
    (row, column), (key_row, key_column) = query, key
    own_place = row * stride + column
    if key_column >= columns:
        # A row-end token starts the row below: that row's queries and all later ones see it.
        return key_row < row
    if key_row * stride + key_column > own_place:
        return False
    if key_row == row:
        return True
    if column < 0 and key_row * stride + key_column == own_place:
        return False  # what the stand-in stands in for
    known = committed[key_row] + (drafts[key_row] if mask == "none" else 0)
    return key_column < known


CASES = [
    # rows, columns, row-end token, committed, drafts: windows equal and unequal, 3 and 4 rows.
    (3, 8, False, [6, 3, 1], [2, 3, 2]),
    (3, 8, False, [7, 7, 0], [0, 1, 7]),
    (4, 9, False, [9, 6, 4, 2], [0, 3, 2, 2]),
    (4, 9, False, [8, 5, 1, 0], [1, 1, 4, 1]),
    (4, 5, True, [5, 4, 2, 0], [0, 1, 2, 2]),
    (2, 3, True, [2, 0], [1, 2]),
]


@pytest.mark.parametrize("mask", ["row-causal", "none"])
@pytest.mark.parametrize("case", CASES)
def test_visibility_equals_brute_force(case, mask):
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
        row, column, torch.tensor([committed]), torch.tensor([drafts]), columns, stride, mask
    )
    keys = list(itertools.product(range(rows), range(stride)))
    for number, query in enumerate(queries):
        for place, key in enumerate(keys):
            expected = brute_force(query, key, committed, drafts, columns, stride, mask)
            assert shown[0, number, place] == expected, (query, key)


def test_masks_differ_only_in_other_rows_drafts():
    committed, drafts = torch.tensor([[5, 2, 0]]), torch.tensor([[2, 2, 1]])
    row, column = torch.tensor([[2]]), torch.tensor([[0]])
    causal = visible(row, column, committed, drafts, 8, 8, "row-causal").view(3, 8)
    unmasked = visible(row, column, committed, drafts, 8, 8, "none").view(3, 8)
    assert (unmasked & ~causal).nonzero().tolist() == [[0, 5], [0, 6], [1, 2], [1, 3]]
    assert not (causal & ~unmasked).any()
