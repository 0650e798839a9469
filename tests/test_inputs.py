"""The inputs of one forward pass: the mask reaches the model."""

import pytest
import torch

from pjd.decoder.drafts import draft
from pjd.decoder.inputs import step_inputs
from pjd.decoder.methods import configure
from pjd.decoder.queries import build_queries
from pjd.decoder.schedule import schedule
from tests.decoding import engine_of


@pytest.mark.parametrize("mask", ["row-causal", "none", "released"])
def test_drafts_of_another_row_move_predictions_only_where_the_mask_shows_them(model, mask):
    config = configure("pjd", context=1, window=4, mask=mask, guidance=2.0)
    engine = engine_of(model, config, ["cat"], torch.tensor([1]))
    state = engine.initial_state()
    engine.prefill()
    # Three rows are in flight, and each has drafts.
    state.committed[0, :3] = torch.tensor([3, 2, 1])
    layout = engine.layout
    band = schedule(state.committed, state.drafted, layout, engine.slots.n_lanes, config)
    assert (band.n_drafts[0, :3] >= 1).all()
    predictions = []
    for other in (False, True):
        windows = draft(state, layout, config, band)
        if other:
            # The top row has other drafts; everything else is as it was.
            windows.drafts[:, 0] = (windows.drafts[:, 0] + 1) % model.vocabulary
        queries = build_queries(state, layout, engine.slots, band, windows)
        inputs = step_inputs(
            model, engine.prompt, state, layout, config, band, queries, engine.shapes
        )
        logits = engine.forward(inputs)
        position = engine.layout.position(queries.row, queries.column + 1)
        predictions.append(engine.target(logits, queries, position)[0])
    change = (predictions[0] - predictions[1]).abs().amax(-1)
    moved = [float(change[queries.lane == lane].max()) > 1e-6 for lane in range(3)]
    protected = {"row-causal": [1, 2], "none": [], "released": [1]}[mask]
    for lane in (1, 2):
        assert moved[lane] == (lane not in protected), (lane, moved)
