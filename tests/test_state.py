"""What a decoder knows between two iterations."""

import torch

from pjd.decoder.methods import configure
from tests.decoding import PROMPTS, engine_of


def test_drafts_move_to_the_front_of_the_window_when_tokens_are_committed(model):
    # After every step: a row's drafts follow its committed tokens, and a draft has a distribution.
    config = configure("pjd", context=2, window=4)
    engine = engine_of(model, config, PROMPTS, torch.arange(len(PROMPTS)))
    state = engine.initial_state()
    trace = engine.empty_trace()
    engine.prefill()
    assert (state.committed_total == 0).all()
    for iteration in range(1, 6):
        before = state.committed.clone()
        engine.step(state, trace)
        assert (state.iteration == iteration).all()
        assert (state.committed >= before).all() and (state.drafted <= config.window).all()
        for row in range(state.n_rows):
            for depth in range(config.window):
                has_draft = depth < state.drafted[:, row]
                column = state.committed[:, row : row + 1] + depth
                q = state.draft_probs[state.ring_index(torch.full_like(column, row), column)]
                token = state.tokens[state.batch_index, row, column]
                chance = q.gather(-1, token[..., None])[:, 0, 0]
                assert (chance[has_draft] > 0).all()


def test_a_selected_image_goes_on_as_it_was(model):
    config = configure("pjd", context=2)
    engine = engine_of(model, config, PROMPTS, torch.arange(len(PROMPTS)))
    state = engine.initial_state()
    fewer = state.select(torch.tensor([3, 1]))
    assert fewer.images.tolist() == [3, 1]
    # Indices into the smaller tensors, not into the batch.
    assert fewer.batch_index.tolist() == [[0], [1]]
    assert torch.equal(fewer.streams, state.streams[[3, 1]])
