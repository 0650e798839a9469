"""Several grids in one sequence, on a Llama of transformers: a preview, and the image after it."""

import pytest
import torch
from torch import Tensor, nn

from pjd.api import decode, generate
from pjd.decoder.compiled import compile_model
from pjd.decoder.engine import Engine
from pjd.decoder.grid import Grid
from pjd.decoder.grids import grids_of, seeds_of_grid, tokens_of
from pjd.decoder.methods import PRESETS, configure
from pjd.decoder.noise import streams
from pjd.errors import ParameterError
from pjd.measure.attention import attention_map
from pjd.measure.audit import audit
from pjd.measure.board import boards
from pjd.models.transformers_decoder import DecoderModel, code_head
from pjd.pipeline.processes import decode_on_cores
from pjd.pipeline.runs import save
from tests.backbones import Tiles, exact_greedy, plain_logits, sequence, tiny_llama

PROMPTS = ["cat", "red dog of an cat"]
SMALL, LARGE = 2 * 3, 4 * 5
TOKENS = {False: SMALL + LARGE, True: SMALL + 2 + LARGE + 4}


def two_grids(row_end: bool) -> tuple[DecoderModel, nn.Module]:
    """The model of a large grid, and the plain transformers model that it stands on."""
    model, language = tiny_llama(row_end)
    codes = model.tokens[: model.vocabulary]
    model.before = DecoderModel(
        name="preview",
        backbone=language.model,
        grid=Grid(2, 3, row_end=model.grid.row_end),
        tokens=codes,
        head=code_head(language.lm_head, codes),
        prompt=model.prompt,
        pixels=Tiles(),
        codebook=model.codebook,
        sampling={},
    )
    return model, language


@pytest.fixture(params=[False, True], ids=["plain", "row-ends"])
def row_end(request) -> bool:
    return request.param


@pytest.fixture
def model(row_end) -> DecoderModel:
    return two_grids(row_end)[0]


def greedy(model: DecoderModel, language: nn.Module, text: str, guidance: float) -> list[Tensor]:
    """Codes of both grids by full forwards of plain transformers."""
    prompts = [model.prompt(text, branch) for branch in (True, False)]
    grids = []
    for one in (model.before, model):
        codes = torch.zeros(0, dtype=torch.long)
        for _ in range(one.grid.n_codes):
            rows = [sequence(one, prompt, codes) for prompt in prompts]
            conditional, unconditional = (plain_logits(one, language, row)[-1] for row in rows)
            logits = unconditional + guidance * (conditional - unconditional)
            codes = torch.cat([codes, logits.argmax()[None]])
        prompts = [sequence(one, prompt, codes)[0].tolist() for prompt in prompts]
        grids.append(codes)
    return grids


def test_greedy_decoding_equals_plain_transformers_in_both_grids(row_end):
    model, language = two_grids(row_end)
    expected = [greedy(model, language, text, 2.0) for text in PROMPTS]
    small, large = (torch.stack(grid) for grid in zip(*expected, strict=True))
    assert len(large.unique()) > 3
    for method, result in exact_greedy(model, PROMPTS, guidance=2.0):
        assert torch.equal(result.previews[0], small), method
        assert torch.equal(result.tokens, large), method


def test_every_preset_decodes_both_and_the_preview_is_that_of_its_own_model(model):
    for method in PRESETS:
        options = {"seed": 3, "guidance": 1.5, "top_k": 5}
        both = generate(model, PROMPTS, method, **options)
        alone = generate(model.before, PROMPTS, method, **options)
        assert torch.equal(both.previews[0], alone.tokens) and alone.previews == ()
        assert both.tokens.shape == (2, LARGE) and both.images[0].size == (5, 4)
        assert torch.equal(both.steps, alone.steps + both.trace.steps)


def test_an_image_does_not_depend_on_the_others_of_its_batch(model):
    together = generate(model, PROMPTS, "pjd", context=2, guidance=2.0)
    for number, prompt in enumerate(PROMPTS):
        alone = generate(model, [prompt], "pjd", context=2, guidance=2.0, seeds=[number])
        assert torch.equal(alone.tokens[0], together.tokens[number])
        assert torch.equal(alone.previews[0][0], together.previews[0][number])


def test_steps_of_ar_are_the_tokens_of_all_grids_and_progress_counts_them(model, row_end):
    told: list[tuple[float, int, float]] = []
    result = generate(model, PROMPTS, "ar", progress=lambda *now: told.append(now))
    assert [one.name for one in grids_of(model)] == ["preview", "tiny-llama"]
    assert tokens_of(model) == TOKENS[row_end] and set(result.steps.tolist()) == {TOKENS[row_end]}
    images, steps, pace = zip(*told, strict=True)
    assert sum(images) == pytest.approx(len(PROMPTS))
    assert list(steps) == sorted(steps) and steps[-1] == TOKENS[row_end]
    assert set(pace) == {1.0}


def test_a_board_shows_the_last_grid(model):
    result = generate(model, PROMPTS, "pjd", context=2, guidance=2.0)
    for image in range(len(PROMPTS)):
        board = boards(result, image, model.grid)
        assert board.shape == (int(result.trace.steps[image]), 4, 5) and (board[-1] > 0).all()
    assert (result.trace.steps < result.steps).all()


def test_grids_have_random_numbers_of_their_own():
    seeds = torch.tensor([0, 1, 2, 3, 2**32, 2**60 - 1, 2**60, 2**61, 2**62])
    assert torch.equal(seeds_of_grid(seeds, 0), seeds)
    of_grids = [seeds_of_grid(seeds, number) for number in range(4)]
    for grid in of_grids:
        # As checked for seeds that are given: hashing takes no negative number.
        assert len(grid.unique()) == len(seeds) and (grid >= 0).all()
    small = [grid[seeds < 2**60] for grid in of_grids]
    assert len(torch.cat(small).unique()) == 4 * len(small[0])
    first, second = (streams(grid) for grid in of_grids[:2])
    assert not (first == second).any()


def test_each_grid_is_drawn_with_its_own_seeds(model, monkeypatch):
    made: list[Engine] = []

    class Kept(Engine):
        def __init__(self, *parts, **options):
            super().__init__(*parts, **options)
            made.append(self)

    monkeypatch.setattr("pjd.api.Engine", Kept)
    generate(model, PROMPTS, "ar", seed=5)
    # An error names the image's seed, whichever grid fails.
    assert [engine.seeds.tolist() for engine in made] == [[5, 6], [5, 6]]
    apart = [engine.initial_state().streams for engine in made]
    assert not torch.equal(*apart)
    assert torch.equal(made[1].initial_state().streams, streams(torch.tensor([[5], [6]]) ^ 2**60))
    # The later grid has the prompt, the preview and itself in its cache.
    first, second = made
    assert second.slots.total - first.slots.total == model.grid.length + second.slots.n_lanes - (
        first.slots.n_lanes
    )


@pytest.mark.parametrize("cores", [1, 2])
def test_processes_hand_on_previews_and_steps(model, cores):
    config = configure("sjd", seed=7, guidance=2.0)
    alone = decode(model, PROMPTS, config)
    shared = decode_on_cores(model, PROMPTS, config, 1, cores)
    assert torch.equal(shared.tokens, alone.tokens) and torch.equal(shared.steps, alone.steps)
    assert torch.equal(shared.previews[0], alone.previews[0]) and len(shared.previews) == 1


def test_options_fit_the_largest_grid(model):
    with pytest.raises(ParameterError, match="rows = 5: must be an integer from 1 to 4"):
        generate(model, PROMPTS, "pjd", rows=5)
    # The preview has only two rows, and at most eight tokens.
    assert generate(model, PROMPTS, "pjd", rows=3, window=20, context=4).tokens.shape[1] == LARGE
    with pytest.raises(ParameterError, match="window = 65"):
        generate(model, PROMPTS, "pjd", window=65)


def test_measures_that_know_one_grid_refuse(model, monkeypatch):
    result = generate(model, PROMPTS, "jacobi")
    monkeypatch.setattr(model, "encode", lambda *_: pytest.fail("something was computed"))
    one = r"model = 'tiny-llama': must be a model of one grid: "
    with pytest.raises(ParameterError, match=one + "the audit"):
        audit(model, PROMPTS, result.tokens, torch.arange(2), result.config)
    with pytest.raises(ParameterError, match=one + "the map of attention"):
        attention_map(model, PROMPTS, result.tokens)
    with pytest.raises(ParameterError, match=one + "a saved run"):
        save("run", None, result, None, model)


def test_all_grids_of_a_compiled_model_are_marked(model):
    compile_model(model)
    assert model.compiled and model.before.compiled
