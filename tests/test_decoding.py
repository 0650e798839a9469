from functools import partial

import pytest
import torch
from enumeration import RowEnds, rectangle
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model

from pjd.api import generate
from pjd.decoder.acceptance import AcceptRule
from pjd.decoder.config import CHOICES
from pjd.decoder.drafts import draft, predecessor
from pjd.decoder.engine import Engine
from pjd.decoder.mask import causal
from pjd.decoder.methods import PRESETS, configure
from pjd.decoder.queries import build_queries
from pjd.decoder.schedule import schedule, wavefront_steps
from pjd.decoder.verify import proposals
from pjd.errors import ParameterError
from pjd.measure.fidelity import log_likelihood
from pjd.models.registry import compile_forward

PROMPTS = ["cat", "red dog", "dog", "red cat dog", "cat cat"]
GREEDY = {"temperature": 0, "guidance": 2.0}
BY_ROWS = [name for name, preset in PRESETS.items() if preset.by_rows]


def reference_greedy(model, prompts: list[str], guidance: float) -> torch.Tensor:
    """Greedy decoding by full forwards without any cache: the definition."""
    codes = torch.zeros(len(prompts), model.grid.n_codes, dtype=torch.long)
    for place in range(model.grid.n_codes):
        scores = []
        for code in range(model.vocabulary):
            codes[:, place] = code
            nats, _ = log_likelihood(model, prompts, codes, guidance, 1.0)
            scores.append(nats[:, place])
        codes[:, place] = torch.stack(scores, -1).argmax(-1)
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
        ("jacobi", {"window": 4}),
        ("mc-sjd", {}),
        ("mc-sjd", {"redraft": "gumbel"}),
        ("gsd", {"group_size": 1}),
        ("zipar", {"context": 6, "window": 4}),
        ("zipar-adaptive", {"context": 6, "window": 4}),
        ("pjd-plus", {"context": 6}),
        ("pjd-staircase", {"context": 6}),
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
    ("method", "options"),
    [
        ("ar", {}),
        ("sjd", {"window": 5}),
        ("pjd", {"context": 2}),
        ("pjd-plus", {"context": 2, "redraft": "gumbel"}),
        ("pjd-released", {"context": 1}),
        ("zipar-adaptive", {"context": 2}),
        ("gsd", {}),
    ],
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


def engine_of(model, config, prompts, seeds, static=None) -> Engine:
    return Engine(model, config, model.encode(prompts, config.guided), seeds, static)


def decoded(model, method: str, static: bool) -> tuple[torch.Tensor, set[int]]:
    """Codes of ten images, and the numbers of queries that the forwards had."""
    config = configure(method, seed=3, **({"context": 2} if method in BY_ROWS else {}))
    engine = engine_of(model, config, 2 * PROMPTS, torch.arange(10), static)
    fed, predict = set(), engine.predict

    def counted(state, band, queries):
        fed.add(queries.token.shape[1])
        return predict(state, band, queries)

    engine.predict = counted
    return engine.run().tokens, fed


@pytest.mark.parametrize("method", [*BY_ROWS, "ar", "sjd", "mc-sjd", "jacobi"])
def test_static_shapes_as_on_a_gpu_change_no_code(method):
    model = tiny_model(grid=8, vocabulary=9)
    (packed, _), (static, fed) = (decoded(model, method, static) for static in (False, True))
    assert torch.equal(packed, static)
    # Few shapes, for each of them is a graph to capture.
    assert len(fed) <= 4


@pytest.mark.parametrize("method", sorted(PRESETS))
def test_a_step_is_one_graph_and_changes_no_code(method):
    # No look of the host, no shape that depends on what was drawn.
    model = tiny_model(grid=6, vocabulary=11)
    config = configure(method, guidance=2.0, **({"context": 2} if method in BY_ROWS else {}))
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def steps(compiled: bool) -> torch.Tensor:
        engine = engine_of(model, config, PROMPTS[:2], torch.arange(2), static=True)
        engine.shapes.bound = min(4, engine.slots.n_lanes)
        state = engine.initial_state()
        engine.prefill()
        step = engine.step
        if compiled:
            step = torch.compile(step, fullgraph=True, dynamic=False, backend=backend)
        for _ in range(8):
            step(state)
        return state.tokens

    torch._dynamo.reset()
    with torch.inference_mode():
        assert torch.equal(steps(compiled=True), steps(compiled=False))
    # One more where in-place updates make an alias of what was not.
    assert 1 <= len(graphs) <= 2


def test_all_forwards_of_a_compiled_model_are_compiled(monkeypatch):
    model, called = tiny_model(grid=12, vocabulary=11), []
    eager = torch.compile

    def compile_cheaply(function, **options):
        return eager(function, dynamic=False, backend=lambda graph, _: partial(count, graph))

    def count(graph, *inputs):
        called.append(1)
        return graph.forward(*inputs)

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", compile_cheaply)
    compile_forward(model)
    forwards = 0
    for method, options in (("pjd", {"context": 2}), ("pjd-plus", {"context": 4}), ("sjd", {})):
        config = configure(method, **options)
        engine = engine_of(model, config, 4 * PROMPTS[:4], torch.arange(16), static=True)
        forwards += len(engine.run().trace.fed) + 1
    assert len(called) == forwards


@pytest.mark.slow
@pytest.mark.parametrize("static", [False, True])
def test_compiled_forwards_change_no_code(static):
    plain = tiny_model(grid=4)
    compiled = compile_forward(tiny_model(grid=4))
    assert torch.equal(decoded(plain, "pjd", static)[0], decoded(compiled, "pjd", static)[0])


@pytest.mark.parametrize("prompt", PROMPTS[:3])
@pytest.mark.parametrize(
    ("method", "options"),
    [("pjd", {"window": 4}), ("pjd-plus", {}), ("pjd-staircase", {}), ("sjd", {}), ("zipar", {})],
)
def test_slots_in_wavefront_order_equal_a_full_forward(model, prompt, method, options):
    # With the whole row above as context, every committed slot's keys and values are those of
    # one teacher-forced forward over the final tokens.
    if method != "sjd":
        options = {"context": 6, **options}
    config = configure(method, guidance=2.0, **options)
    engine = engine_of(model, config, [prompt], torch.arange(1))
    decoded = engine.run()
    length = engine.prompt.mask.shape[1] + model.grid.n_codes
    image = model.embed(decoded.tokens).repeat(2, 1, 1)
    x = torch.cat([engine.prompt.embeddings, image], dim=1)
    shown = torch.nn.functional.pad(engine.prompt.mask, (0, model.grid.n_codes), value=True)
    cache = model.cache(2, length)
    slots = torch.arange(length).expand(2, -1)
    model.forward(x, slots, causal(shown, length), cache.at(slots))
    # The very last code is never fed: nothing comes after it.
    for mine, theirs in ((engine.cache.keys, cache.keys), (engine.cache.values, cache.values)):
        kept = mine[:, :, :, engine.slots.first_prompt :]
        torch.testing.assert_close(kept[..., :-1, :], theirs[..., :-1, :], atol=1e-4, rtol=1e-4)


def recomputed(engine: Engine) -> tuple[torch.Tensor, dict[int, int]]:
    """Decode, then compute all that was ever fed again, in one forward with nothing overwritten.

    Returns:
        The largest difference between what the slots hold in the end and what was recomputed, and
        the number of the last token fed to each slot.
    """
    model, forward = engine.model, engine.model.forward
    fed, seen, newest = [], [], {}

    def recording(x, positions, mask, cache):
        queries = [place for place, slot in enumerate(cache.slots[0].tolist()) if slot]
        for place in queries:
            newest[int(cache.slots[0, place])] = len(fed)
            fed.append((x[:, place], positions[:, place].expand(len(x))))
        for place in queries:
            shown = mask[:, 0, place].expand(len(x), -1)
            seen.append(
                [[newest[slot] for slot in row.nonzero().flatten().tolist()] for row in shown]
            )
        return forward(x, positions, mask, cache)

    model.forward = recording
    engine.run()
    model.forward = forward
    branches, count = len(fed[0][0]), len(fed)
    mask = torch.zeros(branches, 1, count, count, dtype=torch.bool)
    for query, rows in enumerate(seen):
        for branch, keys in enumerate(rows):
            mask[branch, 0, query, keys] = True
    cache = model.cache(branches, count)
    x, positions = (torch.stack(parts, 1) for parts in zip(*fed, strict=True))
    forward(x, positions, mask, cache.at(torch.arange(count).expand(branches, -1)))
    slots, numbers = list(newest), list(newest.values())
    pairs = ((engine.cache.keys, cache.keys), (engine.cache.values, cache.values))
    differences = [(held[..., slots, :] - again[..., numbers, :]).abs() for held, again in pairs]
    return torch.stack(differences).max(), newest


@pytest.mark.parametrize("row_ends", [False, True])
@pytest.mark.parametrize("method", BY_ROWS)
def test_every_slot_holds_what_its_last_token_saw(method, row_ends):
    model = RowEnds(4, 4, 11, 0) if row_ends else tiny_model(grid=6, vocabulary=11)
    config = configure(method, guidance=2.0, context=2)
    engine = engine_of(model, config, ["red cat"], torch.tensor([3]))
    with torch.inference_mode():
        difference, newest = recomputed(engine)
    assert difference < 1e-4
    # Every place of the image but the last, or the row end that nothing comes after.
    image = range(engine.slots.first_image, engine.slots.first_image + model.grid.length)
    unfed = [slot for slot in image if slot not in newest]
    assert len(unfed) <= 2 and all(slot >= image[-2] for slot in unfed)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7), st.booleans()),
    window=st.integers(1, 9),
    context=st.integers(1, 8),
    rows=st.none() | st.integers(1, 6),
    method=st.sampled_from(sorted(PRESETS)),
    initial=st.sampled_from(CHOICES["initial"]),
    stand_in=st.sampled_from(CHOICES["stand_in"]),
    seed=st.integers(0, 1000),
)
def test_every_code_is_committed_once_whatever_the_options(
    shape, window, context, rows, method, initial, stand_in, seed
):
    count, columns, row_end = shape
    sizes = (count, columns, 11)
    model = RowEnds(*sizes, seed=0) if row_end else rectangle(*sizes)
    options = {"window": window, "initial": initial, "stand_in": stand_in}
    by_row = PRESETS[method].by_rows
    if by_row:
        rows = rows and min(rows, count)
        options |= {"context": context, "rows": rows}
    config = configure(method, seed=seed, **options)
    decoded = engine_of(model, config, PROMPTS[:2], torch.tensor([seed, seed + 1])).run()
    trace = decoded.trace
    counts = trace.committed.long()
    assert (counts[-1] == trace.columns).all()
    assert (counts.diff(dim=0) >= 0).all()
    assert ((decoded.tokens >= 0) & (decoded.tokens < 11)).all()
    assert decoded.tokens.shape == (2, count * columns)
    assert (trace.accepted <= trace.drafted).all()
    assert (trace.drafted <= window).all()
    assert (trace.steps <= count * (columns + row_end)).all()
    if not by_row:
        return
    # No row overtakes the one above, and none starts before that has its context.
    assert (counts[..., 1:] <= counts[..., :-1]).all()
    before = torch.cat([torch.zeros_like(counts[:1]), counts[:-1]])
    started = (counts[..., 1:] > 0) | (trace.drafted[..., 1:] > 0)
    assert (before[..., :-1][started] >= min(context, columns)).all()
    if rows is not None:
        assert ((counts > before) | (trace.drafted > 0)).sum(-1).max() <= rows
    elif config.resample == "every-row" and config.start == "context":
        assert (trace.steps <= wavefront_steps(count, columns, context)).all()
    if config.lag == "fixed" and columns > 1:
        gaps = trace.lag
        wanted = torch.minimum(torch.tensor(context), columns - torch.arange(columns))
        assert (gaps >= wanted).all()


@pytest.mark.parametrize("method", BY_ROWS)
@pytest.mark.parametrize("context", [1, 2, 4, 6, 9])
def test_rejecting_every_draft_takes_the_steps_of_the_wavefront(model, method, context):
    # One code a row and forward, where every row may draw anew: exactly C + (R - 1) c.
    never = AcceptRule(lambda inputs: inputs.uniforms > 2)
    options = {"context": context, "accept": never, "resample": "every-row", "start": "context"}
    result = generate(model, PROMPTS, method, **options)
    assert (result.steps == wavefront_steps(6, 6, context)).all()


@pytest.mark.parametrize("context", [1, 2, 4, 6, 9])
def test_zipar_takes_exactly_the_steps_of_the_wavefront(model, context):
    result = generate(model, PROMPTS, "zipar", context=context)
    assert (result.steps == wavefront_steps(6, 6, context)).all()


def test_adaptive_zipar_starts_rows_between_its_context_and_the_whole_row(model):
    result = generate(model, PROMPTS, "zipar-adaptive", context=2, seed=3)
    assert (result.steps >= wavefront_steps(6, 6, 2)).all() and (result.steps < 36).all()
    when = result.trace.commit_iteration
    above = torch.cat([torch.zeros_like(result.trace.committed[:1]), result.trace.committed])
    started = above[:, :, :-1].permute(1, 2, 0).gather(2, when[:, 1:, :1].long())
    # The first code needs a forward to be drawn and another to be tested.
    assert (started >= 3).all() and len(started.unique()) > 1


def test_the_stand_in_is_the_code_that_the_option_names(model):
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
    # Rows 0 and 1 complete, two codes of row 2, row 3 starts; only two codes of row 0, row 1
    # starts; row 0 complete: its last code whatever the option says.
    assert seen["newest"] == [13, 1, 5]
    assert seen["last-column"] == [11, 1, 5]
    assert seen["above"] == [12, 0, 5]


def test_initial_drafts_come_from_where_the_option_says(model):
    engine = engine_of(model, configure("sjd", window=4), ["cat"], torch.tensor([0]))
    for initial, expected in {"repeat-left": 7, "repeat-above": None, "sample-left": 3}.items():
        config = configure("sjd", window=4, initial=initial)
        state = engine.initial_state()
        state.tokens[0, 0, :8] = torch.arange(8)
        state.committed[0, 0], state.drafted[0, 0] = 7, 1
        # The draft at column 7, in a window of 4.
        state.draft_probs[0, 0, 3, 3] = 1.0
        band = schedule(state.committed, state.drafted, engine.layout, 1, config)
        windows = draft(state, engine.layout, config, band)
        fresh = windows.drafts[0, 0, 1:3].tolist()
        # Places 8 and 9 are under places 2 and 3.
        assert fresh == ([2, 3] if expected is None else [expected] * 2)
        queries = build_queries(state, engine.layout, engine.slots, band, windows)
        q = proposals(state, engine.layout, config, band, windows, queries).probs[0]
        assert q[0, 3] == 1 and q[1, fresh[0]] == 1 and q[1].sum() == 1
    config = configure("sjd", window=4, initial="uniform")
    q = proposals(state, engine.layout, config, band, windows, queries).probs[0]
    torch.testing.assert_close(q[2], torch.full((11,), 1 / 11))
    # The last place of a full window is drawn, not tested.
    assert (q[3] == 0).all()


def test_lag_is_the_context_when_a_row_starts_one_a_step(model):
    result = generate(model, PROMPTS, "pjd", window=1, context=3, resample="every-row")
    expected = torch.minimum(torch.tensor(3), 6 - torch.arange(6))
    assert (result.trace.lag == expected).all()


def test_what_limits_a_row_is_counted(model):
    # Nothing is rejected: rows below the top wait for those above, which wait for nobody.
    always = AcceptRule(lambda inputs: inputs.uniforms < 2)
    options = {"context": 2, "window": 3, "accept": always}
    table = generate(model, PROMPTS, "pjd-plus", **options).trace.table()
    assert (table.rejected == 0).all() and (table.blocked > 0).any()
    never = AcceptRule(lambda inputs: inputs.uniforms > 2)
    trace = generate(model, PROMPTS, "pjd-plus", **{**options, "accept": never}).trace
    table = trace.table()
    assert (table.rejected[table.drafted > 0] > 0).all() and (table.blocked == 0).all()
    assert (trace.depths.accepted == 0).all() and (trace.depths.tested.iloc[1:] == 0).all()


def test_variation_at_each_depth_is_a_distance(model):
    depths = generate(model, PROMPTS, "mc-sjd", window=6).trace.depths
    assert list(depths.depth) == list(range(5))
    assert depths.variation.between(0, 1).all()
    assert (depths.accepted <= depths.tested).all() and (depths.tested <= depths.drafts).all()
    # Random first drafts, declared as certain: all of them far from p.
    single = generate(model, PROMPTS, "pjd", context=6, window=2).trace.depths
    assert len(single) == 1 and single.variation.iloc[0] > 0.2


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


def test_seeds_of_ones_own_give_the_images_of_those_seeds(model):
    both = generate(model, PROMPTS[:2], "sjd", seeds=[5, 3])
    for image, seed in enumerate((5, 3)):
        alone = generate(model, PROMPTS[image : image + 1], "sjd", seed=seed)
        assert torch.equal(both.tokens[image], alone.tokens[0])
    with pytest.raises(ParameterError, match=r"seeds = .*must be 2"):
        generate(model, PROMPTS[:2], "sjd", seeds=[5])
    with pytest.raises(ParameterError, match="seed = -1"):
        generate(model, PROMPTS[:2], "sjd", seeds=[5, -1])
