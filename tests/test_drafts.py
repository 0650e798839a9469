"""What is fed where nothing is committed: first drafts, and the input that starts a row."""

import torch
from scipy.stats import chisquare

from pjd.decoder.drafts import draft, predecessor
from pjd.decoder.methods import configure
from pjd.decoder.queries import build_queries
from pjd.decoder.schedule import schedule
from pjd.decoder.verify import proposals
from tests.decoding import engine_of

DRAWS = 4_000
"""Images whose first drafts are compared with a distribution."""


def test_the_stand_in_is_the_token_that_the_option_names(model):
    seen = {}
    for stand_in in ("newest", "last-column", "above"):
        config = configure("zipar", context=2, stand_in=stand_in)
        engine = engine_of(model, config, ["cat"], torch.tensor([0]))
        state = engine.initial_state()
        state.tokens[0, :6, :6] = torch.arange(36).view(6, 6)
        for counts in ([6, 6, 2, 0, 0, 0], [2, 0, 0, 0, 0, 0], [6, 0, 0, 0, 0, 0]):
            state.committed[0, :6] = torch.tensor(counts)
            band = schedule(state.committed, state.drafted, engine.layout, 6, config)
            last = predecessor(state, engine.layout, config, band)[0]
            seen.setdefault(stand_in, []).append(int(last[(band.committed == 0)[0]][0]))
    # The token at row r and column j is 6 r + j. First case: rows 0 and 1 are complete, row 2 has
    # two tokens, and row 3 starts. Second: row 0 has two tokens, and row 1 starts. Third: row 0 is
    # complete, and its last token starts row 1 whatever the option says.
    assert seen["newest"] == [13, 1, 5]
    assert seen["last-column"] == [11, 1, 5]
    assert seen["above"] == [12, 0, 5]


def test_first_drafts_come_from_where_the_option_says(model):
    engine = engine_of(model, configure("sjd", window=4), ["cat"], torch.tensor([0]))
    for initial, expected in {"repeat-left": 7, "repeat-above": None}.items():
        config = configure("sjd", window=4, initial=initial)
        state = engine.initial_state()
        state.tokens[0, 0, :8] = torch.arange(8)
        state.committed[0, 0], state.drafted[0, 0] = 7, 1
        # Column 7 has a carried draft: entry 2 of a ring of 5.
        state.draft_probs[0, 0, 2, 3] = 1.0
        band = schedule(state.committed, state.drafted, engine.layout, 1, config)
        windows = draft(state, engine.layout, config, band)
        first = windows.drafts[0, 0, 1:3].tolist()
        # Positions 8 and 9 are below positions 2 and 3.
        assert first == ([2, 3] if expected is None else [expected] * 2)
        queries = build_queries(state, engine.layout, engine.slots, band, windows)
        q = proposals(state, engine.layout, config, band, windows, queries).probs[0]
        assert q[0, 3] == 1 and q[1, first[0]] == 1 and q[1].sum() == 1
    config = configure("sjd", window=4, initial="uniform")
    q = proposals(state, engine.layout, config, band, windows, queries).probs[0]
    torch.testing.assert_close(q[2], torch.full((11,), 1 / 11))
    # The last position of a full window is left to the resampled token: it has no draft.
    assert (q[3] == 0).all()


def test_first_drafts_are_drawn_from_the_distribution_above(model):
    config = configure("sjd", window=12, initial="sample-above")
    engine = engine_of(model, config, ["cat"] * DRAWS, torch.arange(DRAWS))
    state = engine.initial_state()
    state.committed[:, 0], state.drafted[:, 0] = 7, 2
    # Column 8 has a carried draft, entry 8 of a ring of 13; column 14 is below it on the grid.
    above = torch.tensor([0.5, 0.3, 0.2, *[0.0] * 8])
    state.draft_probs[:, 0, 8] = above
    band = schedule(state.committed, state.drafted, engine.layout, 1, config)
    windows = draft(state, engine.layout, config, band)
    assert windows.carried.unique().tolist() == [2]
    queries = build_queries(state, engine.layout, engine.slots, band, windows)
    q = proposals(state, engine.layout, config, band, windows, queries).probs
    assert torch.equal(q[0, 7], above)
    # Nothing is drafted above column 15: its draft is uniform, and declared so.
    torch.testing.assert_close(q[0, 8], torch.full((11,), 1 / 11))
    for depth in (7, 8):
        counts = torch.bincount(windows.drafts[:, 0, depth], minlength=11).double()
        possible = q[0, depth] > 0
        assert counts[~possible].sum() == 0
        expected = q[0, depth, possible].double()
        assert chisquare(counts[possible], expected / expected.sum() * DRAWS).pvalue > 1e-3
