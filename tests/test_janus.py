"""Janus-Pro, against transformers' own class and its own image generation."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationMixin, JanusConfig, JanusForConditionalGeneration
from transformers.models.janus.configuration_janus import (
    JanusVisionConfig,
    JanusVQVAEConfig,
)

import pjd
from pjd.api import generate
from pjd.decoder.mask import causal
from pjd.decoder.methods import PRESETS
from pjd.models import janus
from pjd.models.catalogue import CATALOGUE
from tests.backbones import BASE, exact_greedy, logits_by_column

SIDE, CODES = 4, 64
BEGIN, IMAGE, PAD = 40, 41, 42
WORDS = {"a": 3, "red": 4, "fox": 5, "cat": 6}


def prompt(text: str, conditional: bool) -> list[int]:
    tokens = [BEGIN, *(WORDS[word] for word in text.split()), IMAGE]
    return tokens if conditional else janus.unconditional(tokens, PAD)


def tiny() -> JanusForConditionalGeneration:
    """A random model."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vq = JanusVQVAEConfig(
            embed_dim=8,
            num_embeddings=CODES,
            latent_channels=32,
            num_patches=SIDE,
            base_channels=32,
            channel_multiplier=[1, 1],
            num_res_blocks=1,
            projection_dim=32,
            image_token_embed_dim=32,
        )
        vision = JanusVisionConfig(
            hidden_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            patch_size=4,
            projection_dim=32,
            num_image_tokens=SIDE * SIDE,
        )
        config = JanusConfig(
            text_config={**BASE, "model_type": "llama"},
            vision_config=vision.to_dict(),
            vq_config=vq.to_dict(),
            image_token_id=43,
        )
        model = JanusForConditionalGeneration(config).eval()
        for part in ("generation_head", "generation_aligner", "generation_embeddings"):
            for parameter in getattr(model.model, part).parameters():
                torch.nn.init.normal_(parameter, std=1.5 * parameter.shape[-1] ** -0.5)
    settings = model.generation_config
    settings.bos_token_id, settings.pad_token_id = BEGIN, PAD
    settings.generation_kwargs = {"boi_token_id": IMAGE}
    return model


@pytest.fixture
def language() -> JanusForConditionalGeneration:
    return tiny()


PROMPTS = ["a red fox", "a red cat"]
UNGUIDED = {"temperature": 0, "guidance": 1.0}


def own_generation(language: JanusForConditionalGeneration, guidance: float) -> torch.Tensor:
    """Codes by transformers' own greedy image generation."""
    ids = torch.tensor([prompt(text, True) for text in PROMPTS])
    return language.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_mode="image",
        do_sample=False,
        guidance_scale=guidance,
        use_cache=True,
    )


def test_greedy_decoding_equals_its_own_generate(language):
    expected = own_generation(language, 3.0)
    assert len(expected.unique()) > 3 and not torch.equal(expected[0], expected[1])
    model = janus.assemble("tiny", language, prompt)
    for method, result in exact_greedy(model, PROMPTS, guidance=3.0):
        assert torch.equal(result.tokens, expected), method
    pictures = language.decode_image_tokens(expected)
    # The arithmetic of the official script: an assignment to bytes cuts fractions off.
    official = np.clip((pictures[1].float().numpy() + 1) / 2 * 255, 0, 255).astype(np.uint8)
    assert np.array_equal(np.array(result.images[1]), official)


@torch.no_grad()
def test_logits_equal_the_plain_forward(language):
    model = janus.assemble("tiny", language, prompt)
    codes = torch.randint(CODES, (1, SIDE * SIDE), generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([prompt("a cat", True)])
    x = torch.cat(
        [
            language.get_input_embeddings()(tokens),
            language.prepare_embeddings_for_image_generation(codes),
        ],
        dim=1,
    )
    hidden = language.model.language_model(inputs_embeds=x, use_cache=False).last_hidden_state
    expected = language.model.generation_head(hidden)
    assert expected.abs().max() > 1
    length = x.shape[1]
    inputs = torch.cat([model.encode(["a cat"], guided=False).embeddings, model.embed(codes)], 1)
    torch.testing.assert_close(inputs, x)
    mask = causal(torch.ones(1, length).bool(), length)
    raster = model.forward(inputs, torch.arange(length)[None], mask)
    for logits in (raster, logits_by_column(model, inputs, mask, tokens.shape[1], SIDE)):
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_every_preset_runs(language):
    model = janus.assemble("tiny", language, prompt)
    for method in PRESETS:
        result = generate(model, PROMPTS, method, guidance=2.0, top_k=5)
        assert result.tokens.max() < CODES and result.images[0].size == (8, 8)


@pytest.mark.parametrize("asked", ["decoding", "checkpoint", "nothing"])
def test_the_door_of_transformers(language, asked):
    # Its generate withholds the caller's guidance_scale: no guidance must not come of that.
    guidance = {"decoding": 3.0, "checkpoint": 2.0, "nothing": 5.0}[asked]
    options = {"guidance": guidance} if asked == "decoding" else {}
    language.generation_config.guidance_scale = guidance if asked == "checkpoint" else None
    expected = own_generation(language, guidance)
    model = janus.assemble("tiny", deepcopy(language), prompt)
    assert not torch.equal(generate(model, PROMPTS, "ar", **UNGUIDED).tokens, expected)
    ids = torch.tensor([prompt(text, True) for text in PROMPTS])
    given = {"do_sample": False, "attention_mask": torch.ones_like(ids)}
    # Ours is sdpa for the time of a decoding.
    language.model.language_model.set_attn_implementation("eager")
    for method, more in {"ar": {}, "pjd": {"context": SIDE}}.items():
        door = pjd.decoding(method, **more, **options)
        out = language.generate(ids, custom_generate=door, **given)
        assert torch.equal(out[:, ids.shape[1] :], expected)
        assert language.model.language_model.config._attn_implementation == "eager"
        assert language.model.generation_head.proj_out.weight.requires_grad
    with pytest.raises(pjd.ParameterError, match="must end with 41"):
        language.generate(ids[:, :-1], custom_generate=door, do_sample=False)


def test_the_method_that_it_overrides_takes_guidance(language):
    ids = torch.tensor([prompt(text, True) for text in PROMPTS])
    given = {"do_sample": False, "attention_mask": torch.ones_like(ids)}
    # Janus' own generation of images cannot be without guidance.
    unguided = generate(janus.assemble("tiny", language, prompt), PROMPTS, "ar", **UNGUIDED).tokens
    for guidance, expected in ((3.0, own_generation(language, 3.0)), (1.0, unguided)):
        given["guidance_scale"] = guidance
        out = GenerationMixin.generate(language, ids, custom_generate=pjd.decoding("ar"), **given)
        assert torch.equal(out[:, ids.shape[1] :], expected)


@pytest.fixture
def folder(language, tmp_path):
    """A checkpoint in the form of transformers."""
    language.save_pretrained(tmp_path)
    words = Tokenizer(models.WordLevel({**WORDS, "?": 7}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_a_checkpoint_is_read(language, folder):
    model = janus.load("janus-pro-1b", folder, dtype=torch.float32)
    # The conversation's marks are unknown words to this tokenizer.
    tokens = model.prompt("a red fox", True)
    assert tokens[0] == BEGIN and tokens[-1] == IMAGE and set(tokens) >= {3, 4, 5}
    assert model.prompt(" a red fox\n", True) == tokens
    assert model.prompt("a red fox", False) == [BEGIN, *[PAD] * (len(tokens) - 2), IMAGE]
    plain = janus.assemble("plain", language, model.prompt)
    both = [generate(m, ["a red fox"], "pjd", temperature=0, context=2) for m in (model, plain)]
    assert torch.equal(both[0].tokens, both[1].tokens)
    assert both[0].images[0].tobytes() == both[1].images[0].tobytes()
    half = janus.load("janus-pro-1b", folder)
    assert half.dtype == torch.bfloat16 and half.codebook.dtype == torch.float32
    assert half.backbone.rotary_emb.inv_freq.dtype == torch.float32
    assert generate(half, ["a red fox"], "pjd").tokens.shape == (1, SIDE * SIDE)


def test_tensors_that_do_not_fit_are_refused_by_name(language, folder):
    tensors = {name: value.contiguous() for name, value in language.state_dict().items()}
    del tensors["lm_head.weight"], tensors["model.generation_head.proj_out.bias"]
    tensors["model.generation_embeddings.weight"] = torch.zeros(3, 8)
    save_file({**tensors, "model.extra": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError) as error:
        janus.load("janus-pro-1b", folder)
    assert str(error.value).endswith(
        "does not fit JanusForConditionalGeneration: missing model.generation_head.proj_out.bias; "
        "unexpected model.extra; model.generation_embeddings.weight is [3, 8], not [64, 8]"
    )


def test_what_is_missing_is_said(folder):
    path = folder / "generation_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "generation_kwargs": {}}))
    with pytest.raises(ValueError, match=r"generation_config\.json has no boi_token_id"):
        janus.load("janus-pro-1b", folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"generation_config\.json"):
        janus.load("janus-pro-1b", folder)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"pad_token_id": None}, "pad_token_id = None: must be the number of a token"),
        ({"bos_token_id": "<s>"}, "bos_token_id = '<s>': must be the number of a token"),
        ({"pad_token_id": -1}, "pad_token_id = -1: must be the number of a token"),
        ({"generation_kwargs": None}, "has no boi_token_id"),
        ({"generation_kwargs": {"boi_token_id": True}}, "boi_token_id = True: must be"),
        ({"generation_kwargs": {"boi_token_id": [1]}}, r"boi_token_id = \[1\]: must be"),
    ],
)
def test_tokens_that_are_none_are_refused_by_name(folder, changed, said):
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(ValueError, match=rf"janus-pro-1b: .*generation_config\.json.* ?{said}"):
        janus.load("janus-pro-1b", folder)


def test_the_door_of_transformers_names_a_missing_padding_token(language):
    ids = torch.tensor([prompt("a cat", True)])
    language.generation_config.pad_token_id = None
    with pytest.raises(ValueError, match=r"generation_config: pad_token_id = None"):
        janus.wrap(language, ids.tolist(), None)
    assert janus.wrap(language, ids.tolist(), [[BEGIN, IMAGE]]).unconditional == [[BEGIN, IMAGE]]


def test_the_catalogue_has_both_sizes():
    for name in ("janus-pro-1b", "janus-pro-7b"):
        assert (CATALOGUE[name].rows, CATALOGUE[name].columns) == (24, 24)
