"""The loop: exact methods are greedy AR without noise, and every token is committed once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pjd.api import generate
from pjd.decoder.acceptance import AcceptRule
from pjd.decoder.config import CHOICES
from pjd.decoder.methods import PRESETS, configure
from pjd.decoder.schedule import wavefront_steps
from pjd.errors import LogitsError
from pjd.measure.fidelity import log_likelihood
from pjd.models.emoji import EmojiModel
from tests.decoding import ALWAYS, BY_ROWS, GREEDY, NEVER, PROMPTS, engine_of
from tests.enumeration import RowEnds, rectangle
from tests.scripted import Scripted, boards, film
from tests.tiny import tiny_model

# The boards of one image after every step, from left to right. Capitals are committed tokens,
# small letters are drafts for the next step, "." is empty. The model predicts the right letter at
# every position, so a draft that was predicted is right, and a first draft (a random letter) is
# wrong.


def test_ar_commits_one_token_per_step():
    assert film(boards(Scripted("ABC", "DEF"), configure("ar"))) == [
        "A..  AB.  ABC  ABC  ABC  ABC",
        "...  ...  ...  D..  DE.  DEF",
    ]


def test_sjd_resamples_at_the_first_rejection_and_redrafts_behind_it():
    # Step 1: the first draft is rejected, A is resampled, and b and c are redrafted. Step 2: both
    # are accepted, and D is resampled behind them. No draft is left, so step 3 is like step 1.
    assert film(boards(Scripted("ABCD", "EFGH"), configure("sjd", window=3))) == [
        "Abc.  ABCD  ABCD  ABCD",
        "....  ....  Efg.  EFGH",
    ]


def test_zipar_commits_one_token_per_active_row():
    # Row 1 starts in the step after row 0 has c = 2 tokens: 4 + (3 - 1) * 2 steps.
    assert film(boards(Scripted("ABCD", "EFGH", "IJKL"), configure("zipar", context=2))) == [
        "A...  AB..  ABC.  ABCD  ABCD  ABCD  ABCD  ABCD",
        "....  ....  E...  EF..  EFG.  EFGH  EFGH  EFGH",
        "....  ....  ....  ....  I...  IJ..  IJK.  IJKL",
    ]


def test_adaptive_zipar_drafts_the_first_token_of_a_row_and_tests_it_in_the_next_step():
    config = configure("zipar-adaptive", context=2)
    assert film(boards(Scripted("ABCD", "EFGH", "IJKL"), config)) == [
        "A...  AB..  ABC.  ABCD  ABCD  ABCD  ABCD  ABCD  ABCD  ABCD",
        "....  ....  e...  E...  EF..  EFG.  EFGH  EFGH  EFGH  EFGH",
        "....  ....  ....  ....  ....  i...  I...  IJ..  IJK.  IJKL",
    ]


def test_pjd_is_sjd_in_every_active_row_but_only_the_top_row_resamples():
    # Step 2: row 1 starts, because row 0 had c = 1 token. Its first draft is rejected, and it may
    # not resample: it commits nothing, and redrafts g and h. Step 3: both are accepted, but I is
    # drafted and not committed. Row 1 resamples from step 4 on, when it is the top active row: L
    # in step 5.
    script = Scripted("ABCDEF", "GHIJKL", "MNOPQR")
    assert film(boards(script, configure("pjd", context=1, window=3))) == [
        "Abc...  ABCD..  ABCDEf  ABCDEF  ABCDEF  ABCDEF  ABCDEF",
        "......  gh....  GHi...  GHIjk.  GHIJKL  GHIJKL  GHIJKL",
        "......  ......  ......  mno...  MNO...  MNOPqr  MNOPQR",
    ]


def test_pjd_plus_resamples_in_every_row():
    script = Scripted("ABCDEF", "GHIJKL", "MNOPQR")
    assert film(boards(script, configure("pjd-plus", context=1, window=3))) == [
        "Abc...  ABCD..  ABCDEf  ABCDEF  ABCDEF  ABCDEF",
        "......  Ghi...  GHIJ..  GHIJKl  GHIJKL  GHIJKL",
        "......  ......  Mno...  MNOP..  MNOPQr  MNOPQR",
    ]


def test_a_first_draft_that_repeats_its_neighbour_is_right_where_the_image_is_flat():
    script = Scripted("AAAAA", "AABBB")
    assert film(boards(script, configure("sjd", window=3))) == [
        "Aaa..  AAAA.  AAAAA  AAAAA  AAAAA  AAAAA",
        ".....  .....  aa...  AAB..  AABBb  AABBB",
    ]
    # Step 3 now accepts both first drafts, for they repeat A. Step 4 rejects such a draft.
    assert film(boards(script, configure("sjd", window=3, initial="repeat-left"))) == [
        "Aaa..  AAAA.  AAAAA  AAAAA  AAAAA",
        ".....  .....  AA...  AABbb  AABBB",
    ]


# The loop commits whatever the rule accepts. Q, J, G, D and N are random letters: first drafts.
SOMETIMES = AcceptRule(lambda inputs: inputs.depth < 1)
"""Accepts the first draft of a window and no other."""


@pytest.mark.parametrize(
    ("method", "window", "rule", "expected"),
    [
        # Each step commits W tokens: W - 1 drafts, and one resampled token.
        pytest.param("sjd", 4, ALWAYS, ["QJOD  QJOD", "....  GDNH"], id="sjd-always"),
        # Each step commits two tokens: a draft, and one resampled token.
        pytest.param(
            "sjd",
            4,
            SOMETIMES,
            [
                "QBcd  QBCD  QBCD  QBCD",
                "....  ef..  EFgh  EFGH",
            ],
            id="sjd-sometimes",
        ),
        # Each step commits the resampled token alone: as many steps as AR.
        pytest.param(
            "sjd",
            4,
            NEVER,
            [
                "Abcd  ABcd  ABCd  ABCD  ABCD  ABCD  ABCD  ABCD",
                "....  e...  ef..  efg.  Efgh  EFgh  EFGh  EFGH",
            ],
            id="sjd-never",
        ),
        # Row 1 starts one step after row 0, and commits W drafts: it may not resample yet.
        pytest.param(
            "pjd",
            3,
            ALWAYS,
            [
                "QJC.  QJCD  QJCD",
                "....  GDN.  GDNH",
            ],
            id="pjd-always",
        ),
        pytest.param(
            "pjd",
            3,
            SOMETIMES,
            [
                "QBc.  QBCD  QBCD  QBCD",
                "....  Gfg.  GFGh  GFGH",
            ],
            id="pjd-sometimes",
        ),
        # Row 1 commits nothing until it is the top active row: as many steps as AR.
        pytest.param(
            "pjd",
            3,
            NEVER,
            [
                "Abc.  ABcd  ABCd  ABCD  ABCD  ABCD  ABCD  ABCD",
                "....  ....  efg.  efg.  Efg.  EFgh  EFGh  EFGH",
            ],
            id="pjd-never",
        ),
        # Every active row resamples: C + (R - 1) c steps, as ZipAR.
        pytest.param(
            "pjd-plus",
            4,
            NEVER,
            [
                "Abcd  ABcd  ABCd  ABCD  ABCD  ABCD",
                "....  ....  Efgh  EFgh  EFGh  EFGH",
            ],
            id="pjd-plus-never",
        ),
    ],
)
def test_steps_follow_from_what_the_rule_accepts(method, window, rule, expected):
    options = {"context": 2} if method in BY_ROWS else {}
    config = configure(method, window=window, accept=rule, **options)
    assert film(boards(Scripted("ABCD", "EFGH"), config)) == expected


def reference_greedy(model, prompts: list[str], guidance: float) -> torch.Tensor:
    """Greedy decoding by full forward passes without any cache: the definition."""
    codes = torch.zeros(len(prompts), model.grid.n_codes, dtype=torch.long)
    for position in range(model.grid.n_codes):
        scores = []
        for code in range(model.vocabulary):
            codes[:, position] = code
            nats, _ = log_likelihood(model, prompts, codes, guidance, 1.0)
            scores.append(nats[:, position])
        codes[:, position] = torch.stack(scores, -1).argmax(-1)
    return codes


def test_guidance_that_falls_with_the_position_is_what_the_model_says():
    model = tiny_model(grid=3, vocabulary=5)
    constant = generate(model, PROMPTS, "ar", **GREEDY).tokens
    model.guidance_at = lambda guidance, raster: (guidance + 6 - 2.0 * raster).clamp(min=0)
    expected = reference_greedy(model, PROMPTS, 2.0)
    assert not torch.equal(expected, constant)
    for method in ("ar", "sjd", "mc-sjd"):
        assert torch.equal(generate(model, PROMPTS, method, **GREEDY).tokens, expected)
    rows = generate(model, PROMPTS, "pjd", context=3, **GREEDY).tokens
    assert torch.equal(rows, expected)


class Axes(EmojiModel):
    """The same model; a position id has an axis more, which says the same with a minus."""

    def encode(self, prompts, guided):
        prompt = super().encode(prompts, guided)
        return prompt._replace(positions=torch.stack([prompt.positions, -prompt.positions], -1))

    def image_positions(self, last, raster):
        first = last[..., 0] + 1 + raster
        return torch.stack([first, -first], dim=-1)

    def forward(self, x, positions, mask, cache=None):
        assert torch.equal(positions[..., 1], -positions[..., 0])
        return super().forward(x, positions[..., 0], mask, cache)


def test_position_ids_may_have_several_axes():
    model = tiny_model(grid=4, vocabulary=9)
    expected = {m: generate(model, PROMPTS, m, guidance=2.0) for m in PRESETS}
    nats = log_likelihood(model, PROMPTS, expected["ar"].tokens, 2.0, 1.0)[0]
    model.__class__ = Axes
    for method, result in expected.items():
        again = generate(model, PROMPTS, method, guidance=2.0)
        assert torch.equal(again.tokens, result.tokens), method
    again, _ = log_likelihood(model, PROMPTS, expected["ar"].tokens, 2.0, 1.0)
    assert torch.equal(again, nats)


def test_greedy_ar_equals_decoding_without_a_cache():
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
        ("pjd-plus", {"context": 6, "start": "adaptive", "window": 4}),
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
def test_the_same_seed_gives_the_same_tokens_in_any_batch(model, method, options):
    together = generate(model, PROMPTS, method, seed=3, **options)
    alone = generate(model, PROMPTS, method, seed=3, batch_size=1, **options)
    shifted = generate(model, PROMPTS[2:], method, seed=5, **options)
    other = generate(model, PROMPTS, method, seed=100, **options)
    assert torch.equal(together.tokens, alone.tokens)
    assert torch.equal(together.tokens[2:], shifted.tokens)
    assert torch.equal(together.steps, alone.steps)
    assert not torch.equal(together.tokens, other.tokens)


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
def test_every_token_is_committed_once_whatever_the_options(
    shape, window, context, rows, method, initial, stand_in, seed
):
    count, columns, row_end = shape
    sizes = (count, columns, 11)
    model = RowEnds(*sizes, seed=0) if row_end else rectangle(*sizes)
    window = 1 if PRESETS[method].one_at_a_time else window
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
    # No row overtakes the row above, and none starts before that one has c tokens.
    assert (counts[..., 1:] <= counts[..., :-1]).all()
    before = torch.cat([torch.zeros_like(counts[:1]), counts[:-1]])
    started = (counts[..., 1:] > 0) | (trace.drafted[..., 1:] > 0)
    assert (before[..., :-1][started] >= min(context, columns)).all()
    if rows is not None:
        assert ((counts > before) | (trace.drafted > 0)).sum(-1).max() <= rows
    elif config.resample == "every-row" and config.start == "context":
        assert (trace.steps <= wavefront_steps(count, columns, context)).all()
    if config.lag == "fixed" and columns > 1:
        wanted = torch.minimum(torch.tensor(context), columns - torch.arange(columns))
        assert (trace.lag >= wanted).all()


NO_NUMBERS = [float("nan"), float("inf"), float("-inf")]


@pytest.mark.parametrize("method", PRESETS)
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_logits_that_are_no_numbers_stop_every_method_at_the_first_step(method, value):
    model = Scripted("ABCD", "EFGH")
    # After the prompt. Minus infinity excludes a token, but here all of them.
    model.logits[0] = value
    with pytest.raises(LogitsError, match="the image with seed 7, step 1: the model's logits"):
        engine_of(model, configure(method), ["any"], torch.tensor([7])).run()


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("position", [1, 4, 7])
def test_logits_that_are_no_numbers_later_name_the_step(position, value):
    model = Scripted("ABCD", "EFGH")
    model.logits[position] = value
    engine = engine_of(model, configure("ar"), ["any"], torch.tensor([7]))
    with pytest.raises(LogitsError, match=f"step {position + 1}: .*a damaged checkpoint"):
        engine.run()
    # One entry that is NaN or plus infinity is enough.
    model.logits[position, :-1] = -100.0
    engine = engine_of(model, configure("ar"), ["any"], torch.tensor([7]))
    if value == float("-inf"):
        engine.run()
    else:
        with pytest.raises(LogitsError, match=f"step {position + 1}"):
            engine.run()


def test_the_likely_cause_depends_on_the_arithmetic():
    model = Scripted("AB")
    model.logits[1, 3], model.dtype = float("inf"), torch.float16
    with pytest.raises(LogitsError, match="float16 overflows in some models: try bfloat16"):
        engine_of(model, configure("ar"), ["any"], torch.tensor([0])).run()


def test_a_temperature_that_carries_logits_out_of_range_stops_too():
    model = Scripted("AB")
    model.logits *= 1e34
    engine_of(model, configure("ar"), ["any"], torch.tensor([0])).run()
    for temperature in (1e-6, 1e-3):
        config = configure("ar", temperature=temperature)
        with pytest.raises(LogitsError, match="step 1"):
            engine_of(model, config, ["any"], torch.tensor([0])).run()


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("method", ["ar", "sjd", "pjd", "pjd-plus"])
def test_tokens_that_a_model_excludes_are_no_fault(method, guidance):
    script = ("ABCD", "EFGH")
    model = Scripted(*script)
    config = configure(method, guidance=guidance)
    expected = film(boards(model, config))
    model.logits[model.logits < 0] = float("-inf")
    assert film(boards(model, config)) == expected


@pytest.mark.parametrize("damaged", [0, 2])
def test_the_damaged_image_of_a_batch_is_named(damaged):
    model = tiny_model(grid=4, vocabulary=7)
    with torch.no_grad():
        model.word_vectors.weight[model.words.index["dog"]] = float("nan")
    prompts = ["cat", "red", "red cat"]
    prompts[damaged] = "dog"
    with pytest.raises(LogitsError, match=f"the image with seed {10 + damaged}, step 1"):
        engine_of(model, configure("pjd"), prompts, torch.arange(10, 13)).run()
