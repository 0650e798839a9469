"""The queries of one forward pass: windows lane by lane, then the flush."""

import torch

from pjd.decoder.drafts import draft
from pjd.decoder.methods import configure
from pjd.decoder.queries import build_queries, per_query
from pjd.decoder.schedule import schedule
from tests.decoding import engine_of
from tests.scripted import Scripted


def test_windows_stand_side_by_side_and_the_flush_is_last():
    model = Scripted("ABCD", "EFGH", "IJKL")
    config = configure("pjd", context=2, window=3)
    engine = engine_of(model, config, ["any"], torch.tensor([0]))
    state, slots = engine.initial_state(), engine.slots
    # Row 0 is complete since the last iteration, row 1 has two tokens, row 2 starts.
    state.committed[0, :3] = torch.tensor([4, 2, 0])
    state.tokens[0, :3, :4] = torch.arange(12).view(3, 4)
    band = schedule(state.committed, state.drafted, engine.layout, slots.n_lanes, config)
    band = engine.shapes.trim(band)
    windows = draft(state, engine.layout, config, band)
    queries = build_queries(state, engine.layout, slots, band, windows)
    assert queries.flush.item()
    fed = queries.gather(queries.valid.nonzero()[:, 1][None])
    # Row 1 is fed its last token (F, 5) and one draft; row 2 the stand-in (F again) and two
    # drafts; the flush is D, the last token of row 0.
    assert fed.row.tolist() == [[1, 1, 2, 2, 2, 0]]
    assert fed.column.tolist() == [[1, 2, -1, 0, 1, 3]]
    assert fed.depth.tolist() == [[0, 1, 0, 1, 2, 0]]
    assert fed.lane.tolist() == [[0, 0, 1, 1, 1, 2]]
    token = fed.token[0].tolist()
    assert (token[0], token[2], token[5]) == (5, 5, 3)
    # A query's draft is the token that the next query of its lane feeds.
    assert fed.draft[0, 0] == token[1] and fed.draft[0, 2:4].tolist() == token[3:5]
    # The stand-in writes a slot of its lane's own; the other tokens write their positions.
    image = slots.first_image
    assert fed.slot[0].tolist() == [
        *(image + position for position in (5, 6)),
        slots.first_stand_in + 1,
        *(image + position for position in (8, 9, 3)),
    ]
    blanks = ~queries.valid
    assert (queries.slot[blanks] == slots.blank).all() and (queries.lane[blanks] == 2).all()


def test_each_query_has_its_lanes_value_and_blanks_have_none():
    lane = torch.tensor([[1, 0, 2]])
    assert per_query(torch.tensor([[5, 7]]), lane).tolist() == [[7, 5, 0]]
