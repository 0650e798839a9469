import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model

from pjd.engine import Engine
from pjd.front import wavefront_steps
from pjd.generation import generate
from pjd.methods import configure
from pjd.metrics import log_likelihood

PROMPTS = ["cat", "red dog", "dog", "red cat dog", "cat cat"]
GREEDY = {"temperature": 0, "guidance": 2.0}


def reference_greedy(model, prompts: list[str], guidance: float) -> torch.Tensor:
    """Greedy decoding by full forwards without any cache: the definition."""
    codes = torch.zeros(len(prompts), 0, dtype=torch.long)
    while codes.shape[1] < model.grid.codes:
        padded = torch.cat([codes, torch.zeros(len(prompts), 1, dtype=torch.long)], dim=1)
        scores = []
        for code in range(model.vocabulary):
            padded[:, -1] = code
            nats, _ = log_likelihood(model, prompts, padded, guidance, 1.0)
            scores.append(nats[:, -1])
        codes = torch.cat([codes, torch.stack(scores, -1).argmax(-1)[:, None]], dim=1)
    return codes


def test_greedy_ar_equals_cache_free_decoding():
    model = tiny_model(grid=3, vocabulary=5)
    expected = reference_greedy(model, PROMPTS, 2.0)
    assert torch.equal(generate(model, PROMPTS, "ar", **GREEDY).tokens, expected)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("sjd", {"window": 2}),
        ("sjd", {"window": 5}),
        ("sjd", {}),
        ("pjd", {"context": 6}),
        ("pjd", {"context": 99, "window": 3}),
        ("pjd", {"context": 6, "rows": 1}),
        ("pjd-nomask", {"context": 6}),
    ],
)
@pytest.mark.parametrize("seed", [0, 7])
def test_exact_methods_equal_greedy_ar(method, options, seed):
    model = tiny_model(grid=6, vocabulary=11, seed=seed)
    expected = generate(model, PROMPTS, "ar", **GREEDY)
    result = generate(model, PROMPTS, method, **GREEDY, **options)
    assert torch.equal(result.tokens, expected.tokens)
    assert (expected.steps == 36).all()
    assert (result.steps <= 36).all()
    if options.get("window", 8) > 2:
        assert (result.steps < 36).any()


@pytest.mark.parametrize(
    ("method", "options"), [("ar", {}), ("sjd", {"window": 5}), ("pjd", {"context": 2})]
)
def test_same_seed_same_tokens_in_any_batch(model, method, options):
    together = generate(model, PROMPTS, method, seed=3, **options)
    alone = generate(model, PROMPTS, method, seed=3, batch_size=1, **options)
    shifted = generate(model, PROMPTS[2:], method, seed=5, **options)
    other = generate(model, PROMPTS, method, seed=100, **options)
    assert torch.equal(together.tokens, alone.tokens)
    assert torch.equal(together.tokens[2:], shifted.tokens)
    assert torch.equal(together.steps, alone.steps)
    assert not torch.equal(together.tokens, other.tokens)


def test_slots_in_wavefront_order_equal_a_full_forward(model):
    # With the whole row above as context, every committed slot's keys and values are those of
    # one teacher-forced forward over the final tokens.
    config = configure("pjd", context=6, window=4, guidance=2.0)
    engine = Engine(model, config, PROMPTS, torch.arange(len(PROMPTS)))
    decoded = engine.run()
    full = Engine(model, configure("ar", guidance=2.0), PROMPTS, torch.arange(len(PROMPTS)))
    prompt, length = full.prompt, full.prefix + model.grid.codes
    image = model.embed(decoded.tokens).repeat(2, 1, 1)
    x = torch.cat([prompt.embeddings, image], dim=1)
    place = torch.arange(length)
    shown = torch.nn.functional.pad(prompt.mask, (0, length - full.prefix), value=True)[:, None]
    mask = (shown & (place <= place[:, None])) | (place == place[:, None])
    cache = model.cache(2 * len(PROMPTS), length)
    slots = place.expand(2 * len(PROMPTS), -1)
    model.forward(x, slots, mask[:, None], cache.at(slots))
    # The very last code is never fed: nothing comes after it.
    for mine, theirs in ((engine.cache.keys, cache.keys), (engine.cache.values, cache.values)):
        torch.testing.assert_close(
            mine[:, :, :, : length - 1], theirs[:, :, :, : length - 1], atol=1e-4, rtol=1e-4
        )


@settings(max_examples=25, deadline=None)
@given(
    window=st.integers(1, 9),
    context=st.integers(1, 8),
    rows=st.none() | st.integers(1, 6),
    method=st.sampled_from(["pjd", "pjd-nomask"]),
    seed=st.integers(0, 1000),
)
def test_every_code_is_committed_once_whatever_the_options(window, context, rows, method, seed):
    model = tiny_model(grid=6, vocabulary=11)
    result = generate(
        model, PROMPTS[:2], method, window=window, context=context, rows=rows, seed=seed
    )
    trace = result.trace
    counts = trace.committed.long()
    assert (counts[-1] == 6).all()
    assert (counts.diff(dim=0) >= 0).all()
    # No row overtakes the one above, and none starts before that has its context.
    assert (counts[..., 1:] <= counts[..., :-1]).all()
    before = torch.cat([torch.zeros_like(counts[:1]), counts[:-1]])
    started = (counts[..., 1:] > 0) | (trace.drafted[..., 1:] > 0)
    assert (before[..., :-1][started] >= min(context, 6)).all()
    if rows is not None:
        assert ((counts > before) | (trace.drafted > 0)).sum(-1).max() <= rows
    assert (trace.drafted <= window - 1).all()
    assert (trace.accepted <= trace.drafted).all()
    assert (result.steps <= model.grid.codes).all()
    assert ((result.tokens >= 0) & (result.tokens < 11)).all()


def test_steps_of_the_wavefront_without_drafts(model):
    # One code a row and forward, every row sampling: exactly C + (R - 1) c.
    for context in (1, 2, 4, 6, 9):
        result = generate(
            model, PROMPTS, "pjd", window=1, context=context, resample="every-row", seed=1
        )
        assert (result.steps == wavefront_steps(6, 6, context)).all()


def test_lag_is_the_context_when_a_row_starts_one_a_step(model):
    result = generate(model, PROMPTS, "pjd", window=1, context=3, resample="every-row")
    expected = torch.minimum(torch.tensor(3), 6 - torch.arange(6))
    assert (result.trace.lag == expected).all()


def test_trace_adds_up(model):
    result = generate(model, PROMPTS, "pjd", context=2, seed=4)
    table = result.trace.table()
    assert (table.groupby("image").committed.sum() == 36).all()
    assert (table.groupby("image").size().to_numpy() == result.steps.numpy()).all()
    assert (table.accepted <= table.drafted).all()
    assert (table.fed >= 1).all()


def test_top_k_one_is_greedy(model):
    greedy = generate(model, PROMPTS, "ar", temperature=0)
    single = generate(model, PROMPTS, "sjd", top_k=1, seed=9)
    assert torch.equal(greedy.tokens, single.tokens)
