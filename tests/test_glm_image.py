"""GLM-Image, against transformers' own class, its positions and its own generation."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import GlmImageConfig, GlmImageForConditionalGeneration

from pjd.api import generate
from pjd.decoder.engine import Engine
from pjd.decoder.grid import Grid
from pjd.decoder.grids import followed_by, grids_of, seeds_of_grid
from pjd.decoder.mask import causal
from pjd.decoder.methods import PRESETS, configure
from pjd.errors import ParameterError
from pjd.measure.fidelity import teacher_forced
from pjd.models import glm_image
from pjd.models.catalogue import CATALOGUE
from pjd.pipeline.runs import check_machine
from tests.backbones import BASE, exact_greedy, logits_by_column

SIDE, PREVIEW, CODES, VISION = 6, 3, 20, 24
BEGIN, END = CODES, CODES + 1
WORDS = ["a", "red", "fox", "cat", "6", "3", "?"]
NAMES = [*WORDS, glm_image.GRID, glm_image.GRID_END]
IDS = {name: VISION + number for number, name in enumerate(NAMES)} | {glm_image.BEGIN: BEGIN}
PROMPTS = ["a red fox", "cat"]
GRIDS = torch.tensor([[1, SIDE, SIDE], [1, PREVIEW, PREVIEW]])
SMALL, LARGE = PREVIEW**2, SIDE**2


def prompt(text: str, conditional: bool = True) -> list[int]:
    grid, end = glm_image.GRID, glm_image.GRID_END
    names = [*text.split(), *(grid, "6", "6", end), *(grid, "3", "3", end), glm_image.BEGIN]
    return [IDS[name] for name in names]


@pytest.fixture
def language() -> GlmImageForConditionalGeneration:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # As in the official configuration half of a head's numbers turn, in three sections.
        rotary = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
        rotary["partial_rotary_factor"] = 0.5
        text = {
            **BASE,
            "hidden_size": 64,
            "vision_vocab_size": VISION,
            "attention_bias": True,
            "eos_token_id": END,
        }
        vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16}
        config = GlmImageConfig(
            text_config={**text, "rope_parameters": rotary},
            vision_config={**vision, "image_size": 32, "patch_size": 16},
            vq_config={"embed_dim": 8, "num_embeddings": CODES, "latent_channels": 16},
            image_start_token_id=BEGIN,
            image_end_token_id=END,
            image_token_id=46,
        )
        made = GlmImageForConditionalGeneration(config).eval()
        for name, parameter in made.model.language_model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return made


def tiny(language: GlmImageForConditionalGeneration) -> glm_image.GlmImage:
    return glm_image.assemble("tiny", language, prompt, SIDE, PREVIEW)


@torch.no_grad()
def official(language: GlmImageForConditionalGeneration, text: str) -> Tensor:
    """Greedy codes of both grids by transformers' own generate, int64 [SMALL + LARGE]."""
    tokens = torch.tensor([prompt(text)])
    sequence = language.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        image_grid_thw=GRIDS,
        images_per_sample=torch.tensor([2]),
        do_sample=False,
        max_new_tokens=SMALL + LARGE,
        suppress_tokens=list(range(CODES, VISION)),
    )
    return sequence[0, tokens.shape[1] :]


def test_greedy_decoding_equals_transformers_own_generate_in_both_grids(language):
    expected = torch.stack([official(language, text) for text in PROMPTS])
    small, large = expected.split([SMALL, LARGE], dim=1)
    assert len(large.unique()) > 3 and not torch.equal(large[0], large[1])
    model = tiny(language)
    for initial in ("random", "preview"):
        for method, result in exact_greedy(model, PROMPTS, initial=initial):
            assert torch.equal(result.previews[0], small), method
            assert torch.equal(result.tokens, large), method


def positions_of(
    language: GlmImageForConditionalGeneration, tokens: Tensor, grids: Tensor
) -> Tensor:
    """Transformers' own position ids of a prompt and both grids, int64 [3, 1, length]."""
    samples = torch.tensor([2])
    own, _ = language.model.get_rope_index(tokens, grids, samples, torch.ones_like(tokens))
    after = language.model._cached_decode_position_ids.permute(1, 0, 2)
    # The last one is that of the token which ends the sequence.
    assert after.shape[-1] == int(grids.prod(1).sum()) + 1
    return torch.cat([own, after[..., :-1]], dim=-1)


@torch.no_grad()
def test_logits_equal_the_plain_forward_with_transformers_own_positions(language):
    model = tiny(language)
    drawn = torch.Generator().manual_seed(1)
    small, large = (torch.randint(CODES, (1, n), generator=drawn) for n in (SMALL, LARGE))
    tokens = torch.tensor([prompt("a cat")])
    positions = positions_of(language, tokens, GRIDS)
    ids = torch.cat([tokens, small, large], dim=1)
    expected = language(input_ids=ids, position_ids=positions).logits[..., :CODES]
    assert expected.abs().max() > 1

    first = model.before.encode(["a cat"], guided=False)
    both = followed_by(model.before, first, small)
    whole = followed_by(model, both, large)
    assert torch.equal(whole.positions[0], positions[:, 0].T)
    length = whole.mask.shape[1]
    x, mask = whole.embeddings, causal(whole.mask, length)
    raster = model.forward(x, whole.positions, mask)
    torch.testing.assert_close(raster, expected, atol=1e-4, rtol=1e-4)
    forced = model.forward(*teacher_forced(model, both, large))
    torch.testing.assert_close(forced, expected[:, :-1], atol=1e-4, rtol=1e-4)

    class Placed:
        """The model, at the positions of the inputs with these numbers."""

        cache = staticmethod(model.cache)

        @staticmethod
        def forward(x, numbers, mask, cache):
            return model.forward(x, whole.positions[:, numbers[0]], mask, cache)

    columns = logits_by_column(Placed, x, mask, length - LARGE, SIDE)
    torch.testing.assert_close(columns, expected, atol=1e-4, rtol=1e-4)

    # Transformers makes three equal axes of one without a word; they give other logits.
    counted = torch.arange(length)[None]
    flat = language(input_ids=ids, position_ids=counted).logits[..., :CODES]
    first_code = tokens.shape[1]
    torch.testing.assert_close(flat[:, :first_code], expected[:, :first_code])
    assert (flat - expected)[:, first_code + 1 :].abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize(("rows", "columns"), [(4, 6), (6, 4)])
def test_positions_of_oblong_grids_are_transformers_own(language, rows, columns):
    model = tiny(language)
    model.grid, model.before.grid = Grid(rows, columns), Grid(rows // 2, columns // 2)
    tokens = torch.tensor([prompt("a cat")])
    grids = torch.tensor([[1, rows, columns], [1, rows // 2, columns // 2]])
    first = model.before.encode(["a cat"], guided=False)
    both = followed_by(model.before, first, torch.zeros(1, rows * columns // 4, dtype=torch.long))
    whole = followed_by(model, both, torch.zeros(1, rows * columns, dtype=torch.long))
    assert torch.equal(whole.positions[0], positions_of(language, tokens, grids)[:, 0].T)
    last = whole.positions[:, -1:]
    assert torch.equal(model.image_positions(last, torch.tensor([[-1]])), last)


def test_every_preset_runs_and_codes_can_be_read_from_its_pictures(language):
    model = tiny(language)
    for method in PRESETS:
        result = generate(model, PROMPTS, method, top_k=5, top_p=0.9)
        assert result.tokens.max() < CODES and result.previews[0].shape == (2, SMALL)
        pixels = np.stack([np.array(image) for image in result.images]).astype(int)
        assert pixels.shape == (2, SIDE, SIDE, 3)
        codes = 256 * pixels[..., 0] + pixels[..., 1]
        assert np.array_equal(codes.reshape(2, LARGE), result.tokens.numpy())
    codes = torch.tensor([[[0, 255], [256, 16_383]]])
    red, green, blue = glm_image.CodePicture()(codes).long().unbind(-1)
    assert torch.equal(256 * red + green, codes) and not blue.any()


def test_there_is_no_guidance(language):
    with pytest.raises(ParameterError, match=r"guidance = 2\.0: must be 1: tiny has no uncond"):
        generate(tiny(language), PROMPTS, "pjd", guidance=2.0)


def test_a_head_with_fewer_tokens_than_codes_is_refused(language):
    language.lm_head = nn.Linear(64, CODES - 1, bias=False)
    with pytest.raises(ValueError, match=r"tiny: vision_vocab_size = 19: must be at least 20"):
        tiny(language)


@pytest.fixture
def folder(language, tmp_path, monkeypatch):
    """A checkpoint in the layout that docs/checkpoints_glm_image.md asks for."""
    monkeypatch.setattr(glm_image, "SIDE", SIDE)
    monkeypatch.setattr(glm_image, "PREVIEW_SIDE", PREVIEW)
    where = tmp_path / "glm-image"
    language.save_pretrained(where, max_shard_size="120KB")
    assert (where / "model.safetensors.index.json").exists()
    known = {name: number for name, number in IDS.items() if name in WORDS}
    # The codes have names too, as in the official tokenizer.
    known |= {f"<|dit_token_{number}|>": number for number in range(CODES)}
    special = [glm_image.GRID, glm_image.GRID_END, glm_image.BEGIN]
    words = Tokenizer(models.WordLevel(known | {n: IDS[n] for n in special}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(special)
    words.save(str(where / "tokenizer.json"))
    return where


def read(folder, dtype=torch.float32):
    return glm_image.load("glm-image", folder, dtype=dtype)


def test_a_checkpoint_is_read(language, folder):
    model = read(folder)
    assert model.prompt("a red fox", True) == prompt("a red fox")
    assert model.before.grid.n_codes == SMALL and model.grid.n_codes == LARGE
    plain = tiny(language)
    both = [generate(m, PROMPTS, "pjd", temperature=0, context=2) for m in (model, plain)]
    assert torch.equal(both[0].tokens, both[1].tokens)
    vectors = language.model.vqmodel.quantize.embedding.weight
    torch.testing.assert_close(model.codebook, F.normalize(vectors, dim=-1))
    half = read(folder, torch.bfloat16)
    assert half.dtype == torch.bfloat16 and half.codebook.dtype == torch.float32
    own = language.model.language_model.rotary_emb
    assert torch.equal(half.backbone.rotary_emb.inv_freq, own.inv_freq)
    assert half.backbone is half.before.backbone
    assert generate(half, ["cat"], "pjd").tokens.shape == (1, LARGE)


def test_what_does_not_fit_is_refused_by_name(folder):
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    name = "model.language_model.norm.weight"
    shard = folder / places[name]
    whole = load_file(shard)
    save_file({k: v for k, v in whole.items() if k != name} | {"extra": torch.zeros(1)}, shard)
    with pytest.raises(ValueError, match=rf"missing {name}; unexpected extra$"):
        read(folder)
    save_file(whole, shard)
    words = json.loads((folder / "tokenizer.json").read_text())
    del words["model"]["vocab"][glm_image.GRID_END]
    others = [t for t in words["added_tokens"] if t["content"] != glm_image.GRID_END]
    (folder / "tokenizer.json").write_text(json.dumps(words | {"added_tokens": others}))
    with pytest.raises(ValueError, match=r"tokenizer\.json has no <eop>$"):
        read(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        read(folder)


def test_a_missing_shard_and_another_begin_token_are_named(folder):
    shard = next(folder.glob("*.safetensors"))
    content = shard.read_bytes()
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=shard.name):
        read(folder)
    shard.write_bytes(content)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"image_start_token_id": 7}))
    with pytest.raises(ValueError, match=r"<\|dit_token_16384\|> is 20, not the image_start_token"):
        read(folder)


def test_the_catalogue_has_it(language):
    checkpoint = CATALOGUE["glm-image"]
    assert (checkpoint.rows, checkpoint.columns, checkpoint.context) == (32, 32, 8)
    assert checkpoint.sampling == glm_image.SAMPLING and not checkpoint.takes_guidance
    assert {name for name, one in CATALOGUE.items() if one.grids > 1} == {"glm-image"}
    assert len(grids_of(tiny(language))) == checkpoint.grids


def test_a_run_is_refused_before_the_model_is_loaded(folder):
    with pytest.raises(ParameterError, match=r"glm-image': must be a model of one grid: a run"):
        check_machine(str(folder), 1, "cpu", None)


def test_both_grids_are_decoded_with_the_sizes_of_a_gpu(language):
    model = tiny(language)
    config = configure("pjd", context=2, temperature=0.9, top_p=0.75)
    expected = generate(model, PROMPTS, "pjd", context=2)
    prompt = model.before.encode(PROMPTS, guided=False)
    seeds = torch.arange(2)
    small = Engine(model.before, config, prompt, seeds, static=True).run().tokens
    assert torch.equal(small, expected.previews[0])
    after = followed_by(model.before, prompt, small)
    large = Engine(model, config, after, seeds_of_grid(seeds, 1), static=True).run().tokens
    assert torch.equal(large, expected.tokens)
