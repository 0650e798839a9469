"""Emu3-Gen, against transformers' own class and its generate with the structure of an image."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Emu3Config, Emu3ForConditionalGeneration, Emu3ImageProcessor

import pjd
from pjd.api import generate
from pjd.decoder.mask import causal
from pjd.decoder.methods import PRESETS
from pjd.models import emu3
from tests.backbones import BASE, exact_greedy, logits_by_column

ROWS, COLUMNS, CODES = 3, 4, 20
NAMES = [emu3.BEGIN, emu3.IMAGE, emu3.START, emu3.ROW_END, *emu3.IMAGE_END, "<|extra_204|>"]
NAMES += ["<image>", "a", "red", "fox", "cat", "3", "4", "*", "0", "9", "?"]
# Codes in another order than tokens.
NAMES += [f"<|visual token {code:06d}|>" for code in reversed(range(CODES))]
IDS = {name: number for number, name in enumerate(NAMES)}
PAD = len(NAMES)
PROMPTS = ["a red fox", "cat"]


def prompt(text: str, conditional: bool) -> list[int]:
    words = text.split() if conditional else ["a"]
    size = [emu3.IMAGE, "3", "*", "4", emu3.START]
    return [IDS[name] for name in (emu3.BEGIN, *words, *size)]


def tiny() -> Emu3ForConditionalGeneration:
    """A random model."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        eos = {"eos_token_id": IDS["<|extra_204|>"], "bos_token_id": IDS[emu3.BEGIN]}
        config = Emu3Config(
            text_config={**BASE, "pad_token_id": PAD, **eos},
            vq_config={
                "codebook_size": CODES,
                "base_channels": 32,
                "channel_multiplier": [1, 1],
                "num_res_blocks": 1,
                "attn_resolutions": [1],
                "hidden_size": 32,
            },
            vocabulary_map=IDS,
        )
        return Emu3ForConditionalGeneration(config).eval()


@pytest.fixture
def language() -> Emu3ForConditionalGeneration:
    return tiny()


def own_generation(language: Emu3ForConditionalGeneration, text: str) -> torch.Tensor:
    """Tokens by transformers' generate, held to the structure of an image as its docs have it."""
    ids = torch.tensor([prompt(text, True)])
    ends = [IDS[name] for name in emu3.IMAGE_END] + [IDS["<|extra_204|>"]]
    codes = [token for name, token in IDS.items() if name.startswith("<|visual")]

    def allowed(_: int, tokens: torch.Tensor) -> list[int]:
        place = len(tokens) - ids.shape[1]
        if place >= ROWS * (COLUMNS + 1):
            return [ends[place - ROWS * (COLUMNS + 1)]]
        return [IDS[emu3.ROW_END]] if (place + 1) % (COLUMNS + 1) == 0 else codes

    return language.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=ROWS * (COLUMNS + 1) + 3,
        prefix_allowed_tokens_fn=allowed,
        negative_prompt_ids=torch.tensor([prompt(text, False)]),
        guidance_scale=3.0,
        do_sample=False,
    )


def codes_of(language: Emu3ForConditionalGeneration, tokens: torch.Tensor) -> torch.Tensor:
    """Image codes of a whole sequence."""
    image = tokens[:, -3 - ROWS * (COLUMNS + 1) : -3].view(-1, ROWS, COLUMNS + 1)
    return language.vocabulary_mapping.convert_bpe2img(image).flatten(1).long()


def test_greedy_decoding_equals_its_own_generate(language):
    own = [own_generation(language, text) for text in PROMPTS]
    expected = torch.cat([codes_of(language, tokens) for tokens in own])
    assert len(expected.unique()) > 3 and not torch.equal(expected[0], expected[1])
    model = emu3.assemble("tiny", language, prompt, ROWS, COLUMNS)
    for method, result in exact_greedy(model, PROMPTS, guidance=3.0, top_k=0):
        assert torch.equal(result.tokens, expected), method
    image = language.decode_image_tokens(image_tokens=own[0][:, -18:], height=ROWS, width=COLUMNS)
    wanted = ((image[0].permute(1, 2, 0) + 1) / 2 * 255).clamp(0, 255).to(torch.uint8)
    assert torch.equal(model.decode(expected[:1])[0], wanted)


@torch.no_grad()
def test_logits_equal_the_plain_forward(language):
    model = emu3.assemble("tiny", language, prompt, ROWS, COLUMNS)
    codes = torch.randint(CODES, (ROWS, COLUMNS), generator=torch.Generator().manual_seed(1))
    rows = torch.nn.functional.pad(codes, (0, 1), value=model.vocabulary)
    tokens = torch.cat([torch.tensor(prompt("cat", True)), model.tokens[rows.flatten()]])[None]
    expected = language(input_ids=tokens).logits[..., model.tokens[: model.vocabulary]]
    encoded = model.encode(["cat"], guided=False)
    x = torch.cat([encoded.embeddings, model.embed(rows.flatten()[None])], dim=1)
    length, prefix = x.shape[1], encoded.mask.shape[1]
    assert expected.abs().max() > 1
    mask = causal(torch.ones(1, length).bool(), length)
    raster = model.forward(x, torch.arange(length)[None], mask)
    for logits in (raster, logits_by_column(model, x, mask, prefix, COLUMNS + 1)):
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_every_preset_runs(language):
    model = emu3.assemble("tiny", language, prompt, ROWS, COLUMNS)
    for method in PRESETS:
        result = generate(model, PROMPTS, method, guidance=2.0, top_k=5)
        assert result.tokens.max() < CODES and result.images[0].size == (2 * COLUMNS, 2 * ROWS)


def test_the_door_of_transformers(language):
    # Ours is sdpa for the time of a decoding.
    language.set_attn_implementation("eager")
    for text in PROMPTS:
        ids = torch.tensor([prompt(text, True)])
        expected = own_generation(language, text)
        out = language.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            custom_generate=pjd.decoding("sjd", window=4),
            negative_prompt_ids=torch.tensor([prompt(text, False)]),
            guidance_scale=3.0,
            do_sample=False,
        )
        assert torch.equal(out, expected)
        assert language.model.text_model.config._attn_implementation == "eager"
    with pytest.raises(pjd.ParameterError, match=r"must all end with <\|image start\|>"):
        language.generate(ids[:, :-1], custom_generate=pjd.decoding(), do_sample=False)


@pytest.fixture
def folder(language, tmp_path, monkeypatch):
    """A checkpoint as it is published: with the older names of tensors."""
    language.save_pretrained(tmp_path)
    names = list(load_file(tmp_path / "model.safetensors"))
    assert any(name.startswith("text_model.model.") for name in names)
    settings = {"image_mean": [0.4] * 3, "image_std": [0.3] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    words = Tokenizer(models.WordLevel(IDS, unk_token="?"))
    words.add_special_tokens([name for name in NAMES if name.startswith("<")])
    digits = pre_tokenizers.Digits(individual_digits=True)
    words.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), digits])
    words.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_a_checkpoint_is_read(language, folder, monkeypatch):
    monkeypatch.setattr(emu3, "SIDE", 4)
    model = emu3.load("emu3-gen", folder, dtype=torch.float32)
    tokens = model.prompt("a red fox", True)
    assert tokens[:4] == prompt("a red fox", True)[:4]
    size = [emu3.IMAGE, "4", "*", "4", emu3.START]
    for branch in (True, False):
        assert model.prompt("a red fox", branch)[-5:] == [IDS[name] for name in size]
    assert model.prompt("a red fox", False)[1] == IDS["?"]
    plain = emu3.assemble("plain", language, model.prompt, 4, 4, [0.4] * 3, [0.3] * 3)
    options = {"temperature": 0, "context": 2, "top_k": 0}
    both = [generate(m, ["a red fox"], "pjd", **options) for m in (model, plain)]
    assert torch.equal(both[0].tokens, both[1].tokens)
    assert both[0].images[0].tobytes() == both[1].images[0].tobytes()
    half = emu3.load("emu3-gen", folder)
    assert half.dtype == torch.bfloat16 and half.codebook.dtype == torch.float32
    assert generate(half, ["cat"], "pjd", top_k=5).tokens.shape == (1, 16)


class SimplePixels(emu3.Pixels):
    """An image decoder that gives the same pictures for all codes."""

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return self.vq


@torch.no_grad()
@pytest.mark.parametrize("side", [3, 6])
def test_the_first_frame_alone_is_that_of_the_whole_video(language, side):
    vq = language.model.vqmodel
    codes = torch.randint(len(vq.quantize.embedding.weight), (2, side, 5))
    assert vq.config.temporal_downsample_factor > 1
    assert torch.equal(emu3.Pixels(vq, [0.5] * 3, [0.5] * 3).decode(codes), vq.decode(codes))


@pytest.mark.parametrize(
    "settings",
    [
        {"image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        {"image_mean": [0.4, 0.5, 0.3], "image_std": [0.3, 0.2, 0.6]},
    ],
)
def test_bytes_are_those_of_its_image_processor(settings):
    torch.manual_seed(0)
    pictures = 1.5 * torch.randn(1, 3, 64, 64)
    processor = Emu3ImageProcessor(**settings)
    expected = processor.postprocess(list(pictures), return_tensors="np")["pixel_values"]
    pixels = SimplePixels(pictures, *settings.values())
    ours = pixels(torch.zeros(1, 4, 4, dtype=torch.long))
    assert np.array_equal(ours[0].permute(2, 0, 1).numpy(), np.stack(list(expected)))


@pytest.mark.parametrize(("rows", "columns"), [(0, 4), (4, 0), (-1, 4), (2.0, 4)])
def test_a_size_without_rows_or_columns_is_refused(language, rows, columns):
    with pytest.raises(
        pjd.ParameterError, match=r"(rows|columns) = (0|-1|2\.0): must be an integer"
    ):
        emu3.assemble("tiny", language, prompt, rows, columns)


@pytest.mark.parametrize("value", [None, [0.5], ["a", "b", "c"], 0.5])
def test_a_mean_that_is_no_three_numbers_is_refused(folder, value):
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({"image_mean": value, "image_std": [0.5] * 3}))
    with pytest.raises(
        ValueError, match=r"preprocessor_config\.json: image_mean = .*three numbers"
    ):
        emu3.load("emu3-gen", folder)


def test_tensors_that_do_not_fit_are_refused_by_name(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["text_model.model.norm.weight"]
    tensors["text_model.lm_head.weight"] = torch.zeros(3, 2)
    save_file({**tensors, "vqmodel.extra": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError) as error:
        emu3.load("emu3-gen", folder)
    assert str(error.value).endswith(
        "does not fit Emu3ForConditionalGeneration: missing model.text_model.norm.weight; "
        "unexpected model.vqmodel.extra; lm_head.weight is [3, 2], not [48, 32]"
    )


def test_what_is_missing_is_said(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["vocabulary_map"][emu3.ROW_END]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"vocabulary_map has no <\|extra_200\|>"):
        emu3.load("emu3-gen", folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"preprocessor_config\.json"):
        emu3.load("emu3-gen", folder)
