"""Decoders that claim a distribution have it: 20,000 decodes against an exact enumeration."""

import pytest
import torch

from pjd.api import generate
from pjd.decoder.acceptance import ACCEPT_RULES, AcceptRule, lenient, ratio
from pjd.decoder.engine import Engine
from pjd.decoder.methods import configure
from tests.enumeration import RowEnds, decode, exact, p_value, rectangle
from tests.tiny import tiny_model

COUNT = 20_000
WHOLE = {"context": 99}

# Decoders whose target is the autoregressive model itself.
LOSSLESS = [
    ("ar", {}),
    ("ar", {"redraft": "gumbel"}),
    ("ar", {"top_k": 2, "guidance": 2.0}),
    ("jacobi", {"window": 3}),
    ("jacobi", {"window": 3, "redraft": "fresh"}),
    ("sjd", {"window": 2}),
    ("sjd", {"window": 4, "guidance": 2.0}),
    ("sjd", {"window": 3, "initial": "repeat-left"}),
    ("sjd", {"window": 3, "initial": "repeat-above"}),
    ("sjd", {"window": 3, "initial": "uniform"}),
    ("sjd", {"window": 5, "initial": "sample-above"}),
    ("mc-sjd", {"window": 6, "initial": "sample-above"}),
    ("sjd", {"window": 4, "top_k": 2}),
    ("sjd", {"window": 2, "accept": "block"}),
    ("sjd", {"window": 4, "accept": "block", "guidance": 2.0}),
    ("sjd", {"window": 6, "accept": "block", "initial": "uniform"}),
    ("mc-sjd", {}),
    ("mc-sjd", {"window": 3, "redraft": "gumbel"}),
    ("mc-sjd", {"window": 6, "accept": lenient(1.0)}),
    ("gsd", {"group_size": 1}),
    ("zipar", WHOLE),
    ("zipar-adaptive", WHOLE),
    ("pjd", WHOLE),
    ("pjd", {**WHOLE, "window": 2}),
    ("pjd-plus", {**WHOLE, "guidance": 2.0}),
    ("pjd-plus", {**WHOLE, "redraft": "gumbel", "initial": "uniform"}),
    ("pjd-plus", {**WHOLE, "initial": "sample-above"}),
    ("pjd-staircase", WHOLE),
]


def check(model, method: str, options: dict, context: int | None = None, batch: int = 2_500):
    config = configure(method, **options)
    return p_value(decode(model, config, COUNT, batch), exact(model, config, context))


@pytest.mark.parametrize(("method", "options"), LOSSLESS)
def test_lossless_decoders_draw_from_the_model(method, options):
    assert check(rectangle(2, 3, vocabulary=3), method, options) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("rows", "columns", "vocabulary"), [(2, 2, 4), (3, 2, 3)])
@pytest.mark.parametrize(
    ("method", "options", "batch"),
    [
        ("sjd", {"window": 3}, 500),
        ("mc-sjd", {}, 5_000),
        ("pjd", WHOLE, 1_000),
        ("pjd-plus", {**WHOLE, "rows": 2}, 2_500),
    ],
)
def test_lossless_on_other_grids_and_models(
    method, options, batch, rows, columns, vocabulary, seed
):
    model = rectangle(rows, columns, vocabulary, seed)
    assert check(model, method, options, batch=batch) > 1e-3


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("ar", {}),
        ("sjd", {"window": 3}),
        ("mc-sjd", {}),
        ("mc-sjd", {"initial": "sample-above"}),
        ("pjd", WHOLE),
        ("pjd-plus", WHOLE),
    ],
)
def test_lossless_with_forced_row_ends(method, options):
    assert check(RowEnds(2, 2, vocabulary=3, seed=1), method, options) > 1e-3


@pytest.mark.parametrize("context", [1, 2])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("pjd-staircase", {"guidance": 2.0}),
        ("pjd-staircase", {"window": 2, "stand_in": "above"}),
        ("pjd-staircase", {"redraft": "gumbel", "stand_in": "newest"}),
        ("pjd-staircase", {"accept": "match", "redraft": "gumbel"}),
        ("pjd-staircase", {"draft_limit": "row-above", "rows": 2}),
        # One code a row and forward keeps the distance by itself.
        ("zipar", {}),
    ],
)
def test_the_staircase_draws_from_its_own_model(method, options, context):
    model = rectangle(3, 3, vocabulary=2)
    assert check(model, method, {"context": context, **options}, context) > 1e-3


def test_the_staircase_with_forced_row_ends():
    model = RowEnds(2, 2, vocabulary=3, seed=1)
    assert check(model, "pjd-staircase", {"context": 1}, 1) > 1e-3


@pytest.mark.parametrize(
    ("method", "options", "seed"),
    [
        ("pjd-released", WHOLE, 0),
        # Small in some models, where few tokens lose half of their probability.
        (
            "sjd",
            {"window": 6, "redraft": "threshold", "initial": "uniform", "guidance": 2.0},
            1,
        ),
        # A residual that forgets to subtract q.
        ("sjd", {"window": 4, "accept": AcceptRule(ratio, correction="sampled")}, 0),
        # Which drafts a block accepts depends on later ones: those that stay are no samples.
        ("mc-sjd", {"window": 6, "accept": ACCEPT_RULES["block"], "guidance": 2.0}, 0),
        ("mc-sjd", {"window": 6, "accept": "lenient"}, 0),
        ("pjd", {"context": 1}, 0),
        ("pjd-plus", {"context": 1}, 0),
    ],
)
def test_the_test_has_teeth(method, options, seed):
    assert check(rectangle(2, 3, vocabulary=3, seed=seed), method, options) < 1e-6


PROMPTS = ["cat", "red dog", "dog", "red cat dog", "cat cat"]


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"top_k": 3}])
@pytest.mark.parametrize("window", [2, 5, 36])
def test_jacobi_equals_ar_with_the_same_noise(model, options, window):
    options = {"guidance": 2.0, "redraft": "gumbel", **options}
    expected = generate(model, PROMPTS, "ar", **options)
    result = generate(model, PROMPTS, "jacobi", window=window, **options)
    assert torch.equal(result.tokens, expected.tokens)
    assert (result.steps <= 36).all() and (result.steps < 36).any()


@pytest.mark.parametrize("context", [1, 2, 4])
def test_staircase_tokens_depend_on_seed_and_context_alone(model, context):
    options = {
        "context": context,
        "accept": "match",
        "redraft": "gumbel",
        "stand_in": "newest",
        "guidance": 2.0,
    }
    # One code a row and forward: the slow, sequential evaluation.
    slow = generate(model, PROMPTS, "zipar", lag="fixed", **options)
    for schedule in (
        {"window": 3},
        {"window": 8, "batch_size": 1},
        {"window": 8, "rows": 2},
        {"window": 5, "draft_limit": "row-above", "initial": "repeat-left"},
    ):
        result = generate(model, PROMPTS, "pjd-staircase", **options, **schedule)
        assert torch.equal(result.tokens, slow.tokens), schedule


def test_group_of_one_is_sjd():
    model = tiny_model(grid=6, vocabulary=11)
    alone = generate(model, PROMPTS, "gsd", group_size=1)
    assert torch.equal(alone.tokens, generate(model, PROMPTS, "sjd").tokens)
    # Codes close enough to share their probability are accepted more often.
    model.tokenizer.codebook.weight[:] = model.tokenizer.codebook.weight[0]
    grouped = generate(model, PROMPTS, "gsd", group_size=11)
    assert grouped.steps.sum() < alone.steps.sum()


@pytest.mark.parametrize("method", ["pjd-plus", "pjd-staircase"])
def test_drafts_are_what_they_are_declared_to_be(model, method):
    # A code outside the two likeliest has q = 0: drafts and distributions must stay together, in
    # the iteration after a row is finished too.
    config = configure(method, context=2, top_k=2, guidance=2.0)
    prompt = model.encode(PROMPTS, config.guided)
    engine = Engine(model, config, prompt, torch.arange(len(PROMPTS)))
    state, trace = engine.initial_state(), engine.empty_trace()
    lane = torch.arange(engine.slots.n_lanes)
    depth = torch.arange(config.window)
    engine.prefill()
    while (state.committed[:, :-1] < engine.layout.columns).any():
        engine.step(state, trace)
        top = (state.committed[:, :-1] == 6).sum(1, keepdim=True)
        row = (top + lane).clamp(max=6)
        column = state.committed.gather(1, row)[..., None] + depth
        drafts = state.tokens[state.batch_index[..., None], row[..., None], column]
        live = depth < state.drafted.gather(1, row)[..., None]
        live &= (row < 6)[..., None]
        ring_lane = row[..., None] % engine.slots.n_lanes
        q = state.draft_probs[state.batch_index[..., None], ring_lane, column % (config.window + 1)]
        assert (q.gather(-1, drafts[..., None]).squeeze(-1)[live] > 0).all()
        torch.testing.assert_close(q.sum(-1)[live], torch.ones(int(live.sum())), atol=1e-4, rtol=0)
