import itertools

import pytest
import torch

from pjd.decoder.drafts import draft
from pjd.decoder.engine import Engine
from pjd.decoder.mask import causal, visible
from pjd.decoder.methods import configure
from pjd.decoder.queries import build_queries
from pjd.decoder.released import drafts_visible_from
from pjd.decoder.schedule import schedule


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
        row,
        column,
        torch.tensor([committed]),
        torch.tensor([drafts]),
        columns,
        stride,
        0 if mask == "none" else rows,
    )
    keys = list(itertools.product(range(rows), range(stride)))
    for number, query in enumerate(queries):
        for place, key in enumerate(keys):
            expected = brute_force(query, key, committed, drafts, columns, stride, mask)
            assert shown[0, number, place] == expected, (query, key)


def test_masks_differ_only_in_other_rows_drafts():
    committed, drafts = torch.tensor([[5, 2, 0]]), torch.tensor([[2, 2, 1]])
    row, column = torch.tensor([[2]]), torch.tensor([[0]])
    causal = visible(row, column, committed, drafts, 8, 8, 3).view(3, 8)
    unmasked = visible(row, column, committed, drafts, 8, 8, 0).view(3, 8)
    assert (unmasked & ~causal).nonzero().tolist() == [[0, 5], [0, 6], [1, 2], [1, 3]]
    assert not (causal & ~unmasked).any()


def released(lengths: list[int], flush: bool) -> list[list[int]]:
    """For each query of each active row, from which active row on it sees drafts of those above.

    ``lengths`` are the windows: a committed token and ``length - 1`` drafts. A query that
    no block covers sees them all, which is 0, as does one of the first row.
    """
    count = len(lengths)
    drafts = torch.tensor([[length - 1 for length in lengths]])
    committed = torch.full((1, count), 20) - 5 * torch.arange(count)
    queries = [(row, place) for row, length in enumerate(lengths) for place in range(length)]
    row, place = (torch.tensor(part)[None] for part in zip(*queries, strict=True))
    column = committed.gather(1, row) - 1 + place
    seen = drafts_visible_from(
        row,
        column,
        committed,
        drafts,
        torch.ones(1, count, dtype=torch.bool),
        torch.tensor([[flush]]),
    )
    return [part.tolist() for part in seen[0].split(lengths)]


@pytest.mark.parametrize(
    ("lengths", "flush", "expected"),
    [
        # Three rows: the second is right, the third is not protected at all.
        ([8, 8, 8], False, [[0] * 8, [1] * 8, [0] * 8]),
        # The third row's block, 24 to 31, is the fourth's place: that row has the wrong mask.
        ([8, 8, 8, 8], False, [[0] * 8, [1] * 8, [0] * 8, [2] * 8]),
        # Unequal windows: written at 12 to 19, correct 10 to 17.
        ([2, 8, 8], False, [[0] * 2, [1] * 8, [0] * 2 + [2] * 6]),
        ([1, 8, 8], False, [[0], [1] * 8, [0] + [2] * 7]),
        ([8, 8, 2], False, [[0] * 8, [1] * 8, [0] * 2]),
        ([8, 1, 8], False, [[0] * 8, [1], [0] * 8]),
        # After a row is finished: the second row's first query is bare, the third's first has
        # the second row's mask.
        ([8, 8, 8], True, [[0] * 8, [0] + [1] * 7, [1] + [0] * 7]),
    ],
)
def test_released_offsets_as_counted_by_hand(lengths, flush, expected):
    assert released(lengths, flush) == expected


def test_released_and_row_causal_masks_differ_from_the_third_row_on():
    committed, drafts = torch.tensor([[9, 6, 3]]), torch.tensor([[2, 2, 2]])
    row = torch.tensor([[0, 1, 1, 2, 2]])
    column = torch.tensor([[8, 5, 6, 2, 3]])
    active = torch.ones(1, 3, dtype=torch.bool)
    no_flush = torch.zeros(1, 1, dtype=torch.bool)
    seen = drafts_visible_from(row, column, committed, drafts, active, no_flush)
    wrong = visible(row, column, committed, drafts, 12, 12, seen)
    right = visible(row, column, committed, drafts, 12, 12, 3)
    assert torch.equal(wrong[:, :3], right[:, :3])
    extra = (wrong & ~right)[0, 3].view(3, 12).nonzero().tolist()
    assert extra == [[0, 9], [0, 10], [1, 6], [1, 7]]


def test_the_fixed_lag_hides_columns_beyond_it():
    committed, drafts = torch.tensor([[8, 8, 2]]), torch.zeros(1, 3, dtype=torch.long)
    row, column = torch.tensor([[2, 2]]), torch.tensor([[-1, 1]])
    shown = visible(row, column, committed, drafts, 8, 8, 3, staircase=3)[0].view(2, 3, 8)
    # The code at column j sees columns before j + c of the row above, j + 2c of the next.
    assert shown[0].sum(-1).tolist() == [6, 3, 0]
    assert shown[1].sum(-1).tolist() == [8, 5, 2]


def test_causal_mask_shows_earlier_places_and_padding_only_itself():
    shown = torch.tensor([[False, True, True, True]])
    expected = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]
    assert causal(shown, 4)[0, 0].int().tolist() == expected


@pytest.mark.parametrize("mask", ["row-causal", "none", "released"])
def test_other_rows_drafts_move_logits_only_where_they_are_seen(model, mask):
    config = configure("pjd", context=1, window=4, mask=mask, guidance=2.0)
    engine = Engine(model, config, model.encode(["cat"], config.guided), torch.tensor([1]))
    state = engine.initial_state()
    engine.prefill()
    # Three rows under way, with room for drafts in each.
    state.committed[0, :3] = torch.tensor([3, 2, 1])
    layout = engine.layout
    band = schedule(state.committed, state.drafted, layout, engine.slots.n_lanes, config)
    assert (band.n_drafts[0, :3] >= 1).all()
    logits = []
    for other in (False, True):
        windows = draft(state, layout, config, band)
        if other:
            # Other drafts in the top row, everything else as it was.
            windows.drafts[:, 0] = (windows.drafts[:, 0] + 1) % model.vocabulary
        queries = build_queries(state, layout, engine.slots, band, windows)
        logits.append(engine.predict(state, band, queries))
    change = (logits[0] - logits[1]).abs().amax(-1)
    moved = [float(change[queries.lane == lane].max()) > 1e-6 for lane in range(3)]
    protected = {"row-causal": [1, 2], "none": [], "released": [1]}[mask]
    for lane in (1, 2):
        assert moved[lane] == (lane not in protected), (lane, moved)
