"""Models on a transformers decoder give what plain transformers gives, in any order of decoding."""

import pytest
import torch
from torch import nn
from transformers import MistralConfig, MistralModel

from pjd.api import generate
from pjd.decoder.engine import Engine
from pjd.decoder.grid import Grid
from pjd.decoder.mask import causal
from pjd.decoder.methods import PRESETS, configure
from pjd.models.transformers_decoder import DecoderCache, DecoderModel, code_head
from tests.backbones import MODELS, Tiles, greedy, plain_logits, sequence, staircase, tiny_llama

PROMPTS = ["cat", "red dog of an cat", "red red"]
GREEDY = {"temperature": 0, "guidance": 2.0}


@pytest.fixture(scope="module", params=sorted(MODELS))
def pair(request):
    """A model and the plain transformers model that it stands on."""
    return MODELS[request.param]()


def random_codes(model: DecoderModel, images: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randint(model.vocabulary, (images, model.grid.n_codes), generator=generator)


def prompts_in_order(model: DecoderModel) -> list[list[int]]:
    """Tokens of the prompts, conditional ones first, as the engine stacks them."""
    return [model.prompt(text, branch) for branch in (True, False) for text in PROMPTS]


@torch.no_grad()
def test_logits_equal_the_plain_forward(pair):
    model, language = pair
    codes = random_codes(model, 1)[0]
    encoded = model.encode(PROMPTS, guided=True)
    prefix, length = encoded.mask.shape[1], encoded.mask.shape[1] + model.grid.length
    # The model's own ids of the image: codes, and the id behind them for the end of a row.
    rows = codes.view(model.grid.rows, model.grid.columns)
    if model.grid.row_end is not None:
        rows = nn.functional.pad(rows, (0, 1), value=model.vocabulary)
    image = model.embed(rows.flatten()[None]).expand(len(encoded.mask), -1, -1)
    x = torch.cat([encoded.embeddings, image], dim=1)
    after = encoded.positions[:, -1:] + 1 + torch.arange(model.grid.length)
    positions = torch.cat([encoded.positions, after], dim=1)
    mask = causal(nn.functional.pad(encoded.mask, (0, model.grid.length), value=True), length)
    cache = model.cache(len(x), length).at(torch.arange(length).expand(len(x), -1))
    alone = model.forward(x, positions, mask)
    cached = model.forward(x, positions, mask, cache)
    for row, tokens in enumerate(prompts_in_order(model)):
        expected = plain_logits(model, language, sequence(model, tokens, codes))
        assert expected.abs().max() > 1
        for ours in (alone, cached):
            kept = ours[row, prefix - len(tokens) :]
            torch.testing.assert_close(kept, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "context"), [("pjd-staircase", 2), ("pjd-staircase", 99), ("pjd", 99), ("sjd", 99)]
)
@torch.no_grad()
def test_slots_filled_by_the_engine_equal_the_plain_forward(pair, method, context):
    # Below the full context several rows are written at once: every committed slot is then what
    # one plain forward gives under the staircase's mask.
    model, language = pair
    options = {} if method == "sjd" else {"context": context}
    config = configure(method, guidance=2.0, window=3, **options)
    # One image: the engine lets go of finished ones, and of their slots.
    for text in PROMPTS[:2]:
        engine = Engine(model, config, model.encode([text], True), torch.tensor([5]))
        decoded = engine.run()
        assert (decoded.trace.steps < model.grid.length).all()
        for branch in (True, False):
            tokens = model.prompt(text, branch)
            ids = sequence(model, tokens, decoded.tokens[0])
            mask = staircase(model, len(tokens), context)
            plain = language.model(input_ids=ids, attention_mask=mask, use_cache=True)
            # The last code, and what comes after it, predict nothing and are never fed.
            end = len(tokens) + model.grid.length - model.grid.stride + model.grid.columns - 1
            first, sequence_number = engine.slots.first_image - len(tokens), 0 if branch else 1
            for layer, slots in enumerate(plain.past_key_values.layers):
                for ours, theirs in (
                    (engine.cache.keys, slots.keys),
                    (engine.cache.values, slots.values),
                ):
                    kept = ours[layer, sequence_number, :, first : first + end]
                    torch.testing.assert_close(kept, theirs[0, :, :end], atol=1e-4, rtol=1e-4)


def test_greedy_decoding_equals_a_loop_without_a_cache(pair):
    model, language = pair
    expected = greedy(model, language, PROMPTS, 2.0)
    assert len(expected.unique()) > 3 and not torch.equal(expected[0], expected[1])
    ar = generate(model, PROMPTS, "ar", **GREEDY)
    assert torch.equal(ar.tokens, expected)
    columns = model.grid.columns
    exact = {
        "sjd": {"window": 5},
        "jacobi": {},
        "mc-sjd": {},
        "pjd": {"context": columns},
        "pjd-plus": {"context": 99},
        "pjd-staircase": {"context": columns},
    }
    for method, options in exact.items():
        result = generate(model, PROMPTS, method, **GREEDY, **options)
        assert torch.equal(result.tokens, expected), method
        assert (result.steps <= ar.steps).all()


@pytest.mark.parametrize("method", sorted(PRESETS))
def test_every_method_runs(pair, method):
    model, _ = pair
    result = generate(model, PROMPTS, method, seed=3, guidance=1.5)
    assert result.tokens.shape == (3, model.grid.n_codes)
    assert ((result.tokens >= 0) & (result.tokens < model.vocabulary)).all()
    assert (result.steps <= model.grid.length).all()
    width, height = result.images[0].size
    assert width / height == model.grid.columns / model.grid.rows


@pytest.mark.parametrize("method", ["ar", "pjd"])
def test_an_image_does_not_depend_on_the_prompts_beside_it(pair, method):
    model, _ = pair
    together = generate(model, PROMPTS, method, seed=3, guidance=2.0)
    alone = generate(model, PROMPTS, method, seed=3, guidance=2.0, batch_size=1)
    assert torch.equal(together.tokens, alone.tokens)


def test_the_cache_has_the_backbones_key_value_heads():
    model, language = tiny_llama(row_end=False)
    assert model.cache(3, 7).keys.shape == (2, 3, 2, 7, 8)
    assert model.cache(1, 1).keys.dtype == language.dtype


def test_a_slot_cache_has_no_length():
    model, _ = tiny_llama(row_end=False)
    cache = DecoderCache([model.cache(1, 4).at(torch.arange(1)[None]).layer(0)])
    with pytest.raises(NotImplementedError, match="position_ids"):
        # Without positions and mask the backbone would ask the cache where it stands.
        model.backbone(inputs_embeds=torch.zeros(1, 1, 32), past_key_values=cache)


def test_the_head_of_the_codes_keeps_its_bias():
    head = nn.Linear(4, 9)
    tokens, x = torch.tensor([7, 2, 5]), torch.randn(3, 4)
    torch.testing.assert_close(code_head(head, tokens)(x), head(x)[:, tokens])


def test_an_embedding_of_its_own_serves_the_image_and_not_the_prompt():
    model, language = tiny_llama(row_end=True)
    own = nn.Embedding(48, 32)
    other = DecoderModel(
        "own",
        language.model,
        model.grid,
        model.tokens[:-1],
        model.head,
        model.prompt,
        Tiles(),
        model.codebook,
        {},
        own,
    )
    tokens = torch.tensor([[0, other.vocabulary]])
    assert torch.equal(
        other.embed(tokens), own(torch.stack([model.tokens[0], model.tokens[-1]])[None])
    )
    ours, theirs = (each.encode(PROMPTS, False).embeddings for each in (other, model))
    assert torch.equal(ours, theirs)


def test_attention_that_would_be_silently_wrong_is_refused():
    model, language = tiny_llama(row_end=False)
    parts = (model.grid, model.tokens, model.head, model.prompt, Tiles(), model.codebook, {})
    language.set_attn_implementation("eager")
    # A model that is wrapped gets what it needs; one that is changed later is refused.
    assert generate(DecoderModel("x", language.model, *parts), ["cat"], "ar").steps.tolist() == [20]
    language.set_attn_implementation("eager")
    with pytest.raises(ValueError, match="attention is eager, must be sdpa"):
        generate(model, ["cat"], "ar")
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 48}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    mistral = MistralModel(MistralConfig(**small, **heads, sliding_window=4))
    with pytest.raises(ValueError, match="sliding_window is 4"):
        DecoderModel("x", mistral, *parts)


def test_grids_of_any_shape():
    model, _ = tiny_llama(row_end=True)
    model.grid = Grid(2, 7, row_end=44)
    result = generate(model, ["cat"], "pjd", context=2)
    assert result.images[0].size == (7, 2)
