"""Lumina-mGPT and Anole: prompts, ids, checkpoints and pixels."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import ChameleonForConditionalGeneration
from transformers.models.chameleon.modeling_chameleon import (
    ChameleonVQVAEEncoderAttnBlock,
    ChameleonVQVAEEncoderResnetBlock,
)

import pjd
from pjd.api import generate
from pjd.decoder.methods import configure
from pjd.models import chameleon
from pjd.models.chameleon import FORMATS, VQ, expand_norms, image_tokens, lumina
from pjd.models.chameleon_vq import ChameleonVQ
from pjd.models.checkpoint import INDEX
from tests.backbones import (
    ANOLE,
    CODES,
    LUMINA,
    Writer,
    chameleon_config,
    greedy,
    save_checkpoint,
    tiny_chameleon,
)


def names(language, tokens: list[int]) -> list[str]:
    """Tokens by their names."""
    known = {token: name for name, token in language.config.vocabulary_map.items()}
    return [known[token] for token in tokens]


def test_lumina_writes_the_size_height_first_and_the_ends_of_rows():
    model, language = tiny_chameleon(LUMINA)
    size = ["<racm3:break>", "<reserved08802>", "<reserved08803>"]
    written = names(language, model.prompt("red cat", True))
    assert written == ["<s>", "an", "of", "red", "cat", "<reserved08706>", *size]
    assert names(language, model.prompt("red cat", False)) == size
    assert (model.grid.rows, model.grid.columns) == (4, 6)
    assert names(language, [model.grid.row_end]) == ["<reserved08799>"]


def test_anole_has_no_size_and_no_ends_of_rows():
    model, language = tiny_chameleon(ANOLE)
    written = names(language, model.prompt("red cat", True))
    assert written == ["<s>", "an", "of", "red", "cat", "<reserved08706>", "<racm3:break>"]
    assert names(language, model.prompt("red cat", False)) == ["<s>", "<racm3:break>"]
    assert model.grid.row_end is None


def test_prompts_end_together_and_each_counts_from_0():
    model, _ = tiny_chameleon(LUMINA)
    prompt = model.encode(["cat", "red cat dog"], guided=True)
    # <s>, "an of", the words, the separator and three for the image; the last three alone.
    lengths = [8, 10, 3, 3]
    assert prompt.mask.sum(1).tolist() == lengths
    assert prompt.mask[:, -1].all()
    for row, length in enumerate(lengths):
        assert prompt.positions[row, -length:].tolist() == list(range(length))
    assert len(model.encode(["cat"], guided=False).mask) == 1


def test_the_checkpoints_grids_and_defaults():
    expected = {"512": (32, 33), "768": (48, 49), "1024": (64, 65)}
    for side, (rows, stride) in expected.items():
        written = FORMATS[f"lumina-mgpt-7b-{side}"]
        assert written.height // 16 == rows and written.width // 16 + 1 == stride
        assert written.instruction.startswith(f"Generate an image of {side}x{side} according")
    # The ids in the original vocabulary are four more than the numbers in the names.
    assert lumina(512, 768).start[-2:] == ("<reserved08824>", "<reserved08816>")
    for written in FORMATS.values():
        assert configure("pjd", **written.sampling).guidance == 3.0
        assert written.instruction.format(prompt="a {b}").endswith("a {b}")


def test_image_codes_are_read_from_the_names():
    config = chameleon_config()
    language = ChameleonForConditionalGeneration(config)
    tokens = image_tokens(language, CODES)
    assert tokens.tolist() != sorted(tokens.tolist())
    for code, name in enumerate(names(language, tokens.tolist())):
        digits = [str("ABCDEFGHIJ".index(letter)) for letter in name.removeprefix("IMGIMG")[:-1]]
        assert int("".join(digits)) == code
    with pytest.raises(ValueError, match=r"11 image tokens, the VQGAN 12 codes"):
        image_tokens(language, 12)


@pytest.mark.parametrize("written", [LUMINA, ANOLE], ids=["lumina", "anole"])
def test_greedy_ar_equals_generate_held_to_the_structure_of_an_image(written):
    model, language = tiny_chameleon(written)
    own = Writer(language.config).eval()
    own.load_state_dict(language.state_dict())
    codes, stride = model.tokens[: model.vocabulary].tolist(), model.grid.stride
    images = []
    for text in ("cat", "red dog"):
        ids = torch.tensor([model.prompt(text, True)])

        def allowed(_: int, tokens: torch.Tensor, before: int = ids.shape[1]) -> list[int]:
            column = (len(tokens) - before) % stride
            return [model.grid.row_end] if column == model.grid.columns else codes

        out = own.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=model.grid.length,
            prefix_allowed_tokens_fn=allowed,
            negative_prompt_ids=torch.tensor([model.prompt(text, False)]),
            guidance_scale=3.0,
            do_sample=False,
            pad_token_id=47,
        )
        images.append(out[0, ids.shape[1] :].unflatten(0, (model.grid.rows, stride)))
    expected = torch.stack(images)[..., : model.grid.columns].flatten(1)
    assert len(expected.unique()) > 3 and not torch.equal(expected[0], expected[1])
    result = generate(model, ["cat", "red dog"], "ar", temperature=0, guidance=3.0)
    assert torch.equal(model.tokens[result.tokens], expected)


def test_the_other_order_of_norms_gives_plain_logits_too():
    model, language = tiny_chameleon(LUMINA, swin=True)
    expected = greedy(model, language, ["red dog"], 2.0)
    result = generate(model, ["red dog"], "pjd", temperature=0, guidance=2.0, context=6)
    assert torch.equal(result.tokens, expected)


@pytest.mark.parametrize(
    ("width", "height", "said"),
    [
        (500, 512, "width = 500: must be a multiple of 32, such as 480"),
        (512, 33, "height = 33: must be a multiple of 32, such as 32"),
        (512, 0, "height = 0: must be an integer from 32 to 6368"),
        (6400, 512, "width = 6400: must be an integer from 32 to 6368"),
        (512.0, 512, "width = 512.0: must be an integer"),
    ],
)
def test_sizes_that_no_token_says_are_refused(width, height, said):
    with pytest.raises(pjd.ParameterError, match=said):
        lumina(width, height)


def test_sizes_up_to_the_last_token_are_taken():
    assert lumina(32, 6368).start[-2:] == ("<reserved08999>", "<reserved08801>")


@pytest.mark.parametrize(("width", "height"), [(72, 64), (80, 24), (0, 64)])
def test_sizes_must_be_of_whole_codes(width, height):
    with pytest.raises(pjd.ParameterError, match=r"must be a multiple of 16, the pixels per side"):
        tiny_chameleon(replace(ANOLE, width=width, height=height))


def test_a_prompt_with_a_size_that_is_none_is_refused():
    _, language = tiny_chameleon(LUMINA)
    vocabulary = language.config.vocabulary_map
    vocabulary["<reserved08800>"] = vocabulary["<reserved08816>"]
    del vocabulary["<reserved08816>"]
    prompt = [vocabulary[name] for name in ("<racm3:break>", "<reserved08800>", "<reserved08801>")]
    with pytest.raises(pjd.ParameterError, match="height = 0: must be an integer from 32 to 6368"):
        chameleon.wrap(language, [prompt], None)


def test_pixels_are_sixteen_a_code():
    model, _ = tiny_chameleon(LUMINA)
    result = generate(model, ["cat", "dog"], "pjd", seed=1)
    assert [image.size for image in result.images] == [(96, 64)] * 2
    one = model.pixels(result.tokens[1:].view(1, 4, 6))
    assert torch.equal(model.decode(result.tokens)[1:], one)


@torch.no_grad()
def reference_pixels(vq: ChameleonVQ, codes: torch.Tensor, config) -> torch.Tensor:
    """Pixels by the blocks that transformers has for the encoder, and the names of the weights."""
    state = vq.state_dict()

    def part(block: nn.Module, name: str) -> nn.Module:
        own = {k.removeprefix(name): v for k, v in state.items() if k.startswith(name)}
        block.load_state_dict(own)
        return block

    def conv(x: torch.Tensor, name: str) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        padding = weight.shape[-1] // 2
        return nn.functional.conv2d(x, weight, state[f"{name}.bias"], padding=padding)

    def residual(x: torch.Tensor, name: str) -> torch.Tensor:
        out, inside = state[f"{name}.conv1.weight"].shape[:2]
        block = ChameleonVQVAEEncoderResnetBlock(config, inside, out).eval()
        return part(block, f"{name}.")(x)

    x = state["quantize.embedding.weight"][codes].permute(0, 3, 1, 2)
    x = conv(conv(x, "post_quant_conv"), "decoder.conv_in")
    x = residual(x, "decoder.mid.block_1")
    x = part(ChameleonVQVAEEncoderAttnBlock(x.shape[1]), "decoder.mid.attn_1.")(x)
    x = residual(x, "decoder.mid.block_2")
    for level in (4, 3, 2, 1, 0):
        for block in (0, 1):
            x = residual(x, f"decoder.up.{level}.block.{block}")
        if level:
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            x = conv(x, f"decoder.up.{level}.upsample.conv")
    mean, bias = state["decoder.norm_out.weight"], state["decoder.norm_out.bias"]
    x = nn.functional.group_norm(x, 32, mean, bias, eps=1e-6)
    return conv(x * x.sigmoid(), "decoder.conv_out")


def test_pixels_equal_those_of_the_blocks_of_transformers():
    config = chameleon_config().vq_config
    torch.manual_seed(3)
    vq = ChameleonVQ(config)
    codes = torch.randint(CODES, (2, 3, 5))
    expected = reference_pixels(vq, codes, config)
    with torch.no_grad():
        vectors = vq.quantize.embedding(codes).permute(0, 3, 1, 2)
        pixels = vq.decoder(vq.post_quant_conv(vectors))
    torch.testing.assert_close(pixels, expected, atol=1e-4, rtol=1e-4)
    # The arithmetic of Chameleon's own image tokenizer, which cuts fractions off.
    official = (pixels.clamp(-1.0, 1.0) + 1.0) / 2.0
    official = (official.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
    assert np.array_equal(vq(codes).numpy(), official)
    wanted = ((expected.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1)
    assert (vq(codes).float() - wanted).abs().max() <= 1


def test_the_original_sizes_give_the_original_names():
    with torch.device("meta"):
        vq = ChameleonVQ(ChameleonForConditionalGeneration.config_class().vq_config)
    shapes = {name: list(tensor.shape) for name, tensor in vq.state_dict().items()}
    assert shapes["quantize.embedding.weight"] == [8192, 256]
    assert shapes["post_quant_conv.weight"] == [256, 256, 1, 1]
    assert shapes["decoder.conv_in.weight"] == [512, 256, 3, 3]
    assert shapes["decoder.mid.attn_1.proj_out.weight"] == [512, 512, 1, 1]
    # Channels go down where a level begins, from 512 to 256, and from 256 to 128.
    shortcuts = {name for name in shapes if name.endswith("nin_shortcut.weight")}
    assert shortcuts == {f"decoder.up.{level}.block.0.nin_shortcut.weight" for level in (3, 1)}
    assert {name.split(".")[2] for name in shapes if "upsample" in name} == {"1", "2", "3", "4"}
    assert "decoder.up.0.block.2.conv2.bias" in shapes and vq.reduction == 16


# --- checkpoints ---


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A checkpoint of Lumina-mGPT's form: norms that heads share, and no image decoder within.

    Gives the folder, the transformer's tensors and the image decoder's.
    """
    monkeypatch.setitem(FORMATS, "tiny", LUMINA)
    model, language = tiny_chameleon(LUMINA)
    tensors, pictures = save_checkpoint(tmp_path / "tiny", model, language)
    return tmp_path / "tiny", tensors, pictures


def load(folder, vq="vqgan.ckpt", dtype=torch.float32):
    return chameleon.load("tiny", folder, vq and folder / vq, dtype=dtype)


def test_a_checkpoint_decodes_as_plain_transformers_with_shared_norms(saved):
    folder, tensors, pictures = saved
    model = load(folder)
    plain = ChameleonForConditionalGeneration(chameleon_config()).eval()
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if not name.startswith(VQ):
                parameter.copy_(tensors[name].expand(parameter.shape))
    # What the tokenizer adds of its own is left out; unknown words are known as such.
    assert model.prompt("cat", True)[:3] == [plain.config.vocabulary_map["<s>"], 40, 3]
    expected = greedy(model, plain, ["cat", "red dog"], 2.0)
    result = generate(model, ["cat", "red dog"], "pjd", temperature=0, guidance=2.0, context=6)
    assert torch.equal(result.tokens, expected)
    for name, value in pictures.items():
        assert torch.equal(model.pixels.state_dict()[name], value)


def test_norms_are_repeated_for_the_heads_of_a_part():
    config = chameleon_config()
    shared = torch.tensor([[1.0], [2.0]])
    names = [f"model.layers.0.self_attn.{part}_norm.weight" for part in "qk"]
    expanded = expand_norms({**dict.fromkeys(names, shared), "model.norm.weight": shared}, config)
    assert expanded[names[0]].flatten().tolist() == [1, 1, 2, 2]
    assert expanded[names[1]].flatten().tolist() == [1, 2]
    assert expanded["model.norm.weight"].shape == (2, 1)
    # Three parts of four heads: left as they are, for the check of shapes to refuse.
    three = expand_norms({names[0]: torch.ones(3, 1)}, config)
    assert three[names[0]].shape == (3, 1)


def test_positions_stay_in_single_precision(saved):
    model = load(saved[0], dtype=torch.bfloat16)
    assert model.head.weight.dtype == model.cache(1, 1).keys.dtype == torch.bfloat16
    rotary = model.backbone.rotary_emb
    plain = ChameleonForConditionalGeneration(chameleon_config()).model.rotary_emb
    assert torch.equal(rotary.inv_freq, plain.inv_freq) and rotary.inv_freq.dtype == torch.float32
    assert model.codebook.dtype == torch.float32
    assert generate(model, ["cat"], "pjd").tokens.shape == (1, 24)


@pytest.mark.parametrize("sharded", [False, True])
def test_the_image_decoder_may_be_within_the_checkpoint(saved, sharded):
    folder, tensors, pictures = saved
    within = {VQ + name: value for name, value in pictures.items()}
    within[f"{VQ}encoder.conv_in.weight"] = torch.zeros(1)
    if sharded:
        shards = {"a.safetensors": tensors, "b.safetensors": within}
        for shard, part in shards.items():
            save_file(part, folder / shard)
        index = {name: shard for shard, part in shards.items() for name in part}
        (folder / INDEX).write_text(json.dumps({"weight_map": index}))
        (folder / "model.safetensors").unlink()
    else:
        save_file({**tensors, **within}, folder / "model.safetensors")
    # Its own, another's, and a shard of another's.
    for vq in (None, "", "b.safetensors" if sharded else "model.safetensors"):
        model = load(folder, vq)
        for name, value in pictures.items():
            assert torch.equal(model.pixels.state_dict()[name], value)


def test_tensors_that_do_not_fit_are_refused_by_name(saved):
    folder, tensors, _ = saved
    del tensors["model.norm.weight"]
    tensors["model.layers.1.self_attn.k_norm.bias"] = torch.zeros(3, 8)
    tensors["model.layers.0.mlp.up_proj.weight"] = torch.zeros(5)
    save_file({**tensors, "model.extra": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError) as error:
        load(folder)
    message = str(error.value)
    assert message.endswith(
        "does not fit ChameleonForConditionalGeneration: missing model.norm.weight; "
        "unexpected model.extra; model.layers.0.mlp.up_proj.weight is [5], not [48, 32]; "
        "model.layers.1.self_attn.k_norm.bias is [3, 8], not [2, 8]"
    )


def test_an_image_decoder_that_does_not_fit_is_refused_by_name(saved):
    folder, _, pictures = saved
    del pictures["decoder.conv_out.bias"]
    pictures["decoder.up.0.attn.0.q.bias"] = torch.zeros(2)
    pictures["quantize.embedding.weight"] = torch.zeros(12, 8)
    torch.save({"state_dict": pictures}, folder / "vqgan.ckpt")
    with pytest.raises(ValueError) as error:
        load(folder)
    assert str(error.value).endswith(
        "does not fit ChameleonVQ: missing decoder.conv_out.bias; unexpected "
        "decoder.up.0.attn.0.q.bias; quantize.embedding.weight is [12, 8], not [11, 8]"
    )


def test_a_pickle_that_holds_more_than_tensors_is_refused(saved):
    class Boom:
        def __reduce__(self):
            return (print, ("this must not run",))

    path = saved[0] / "vqgan.ckpt"
    for content in (pickle.dumps(Boom(), protocol=2), path.read_bytes()[:500], b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"vqgan\.ckpt is (damaged|empty)"):
            load(saved[0])


def test_damaged_weights_are_refused(saved):
    path = saved[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        load(saved[0])


def test_what_is_missing_is_said(saved):
    folder, tensors, _ = saved
    with pytest.raises(ValueError, match=r"no image decoder: say where it is, as vq"):
        load(folder, vq=None)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.ckpt"):
        load(folder, "nowhere.ckpt")
    with pytest.raises(ValueError, match=r"must be one of lumina-mgpt-7b-512"):
        chameleon.load("lumina", folder)
    shards = dict.fromkeys(tensors, "gone.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors"):
        load(folder)
    (folder / INDEX).unlink()
    config = json.loads((folder / "config.json").read_text())
    del config["vocabulary_map"]["<reserved08799>"], config["vocabulary_map"]["<s>"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"has no <reserved08799>, <s>"):
        load(folder)
    (folder / "config.json").write_text(json.dumps({**config, "vocabulary_map": None}))
    with pytest.raises(ValueError, match=r"config\.json has no vocabulary_map"):
        load(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{folder.name}.tokenizer\.json"):
        load(folder)


def test_the_tokenizer_of_768_serves_those_that_come_without(saved):
    folder = saved[0]
    beside = folder.parent / "lumina-mgpt-7b-768"
    beside.mkdir()
    (folder / "tokenizer.json").rename(beside / "tokenizer.json")
    assert load(folder).prompt("cat", True)[1:5] == [40, 3, 40, 4]


def test_a_converted_checkpoint_goes_through_the_door_of_transformers(saved):
    folder, target = saved[0], saved[0].parent / "converted"
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        ChameleonForConditionalGeneration.from_pretrained(folder)
    chameleon.convert(folder, target, folder / "vqgan.ckpt")
    language, report = ChameleonForConditionalGeneration.from_pretrained(
        target, output_loading_info=True
    )
    assert not any(report.values())
    model = load(folder)
    # Group acceptance compares the vectors of the codes. The negative prompt is Lumina-mGPT's.
    for method, prompts in (("pjd-plus", ["cat", "dog"]), ("gsd", ["red fox cat"])):
        ids = torch.tensor([model.prompt(text, True) for text in prompts])
        out = language.generate(
            ids,
            custom_generate=pjd.decoding(method, seed=4),
            pad_token_id=47,
            do_sample=True,
            top_k=5,
            guidance_scale=2.0,
        )
        expected = generate(model, prompts, method, seed=4, guidance=2.0, top_k=5)
        image = out[:, ids.shape[1] :].unflatten(1, (model.grid.rows, -1))
        assert (image[..., -1] == model.grid.row_end).all()
        assert torch.equal(image[..., :-1].flatten(1), model.tokens[expected.tokens])
    # Pixels as the documentation has them.
    vq = chameleon.load_vq(folder / "vqgan.ckpt", language.config)
    codes = image[..., :-1].cpu().clone().apply_(language.model.vocabulary_mapping.bpe2img.get)
    assert torch.equal(vq(codes), model.decode(expected.tokens))


def test_what_cannot_be_converted_is_refused_by_name(saved):
    folder, target = saved[0], saved[0].parent / "converted"
    with pytest.raises(pjd.ParameterError, match=r"target = .*: must be a new folder"):
        chameleon.convert(folder, folder)
    with pytest.raises(ValueError, match="no image decoder: say where it is, as vq"):
        chameleon.convert(folder, target)
    held = torch.load(folder / "vqgan.ckpt", weights_only=True)
    del held["state_dict"]["quant_conv.bias"]
    torch.save(held, folder / "vqgan.ckpt")
    with pytest.raises(ValueError, match=r"missing model\.vqmodel\.quant_conv\.bias$"):
        chameleon.convert(folder, target, folder / "vqgan.ckpt")
    assert not target.exists()


def test_fields_and_spellings_of_older_configurations_are_read(saved):
    # Lumina-mGPT's own training code writes fields that transformers does not know.
    path = saved[0] / "config.json"
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    older = {"mask_image_logits": False, "dropout": 0.05, "z_loss_weight": 1e-5}
    older |= {"rope_theta": 10000.0, "rope_scaling": None, "torch_dtype": "bfloat16"}
    path.write_text(json.dumps({**config, **older}))
    assert load(saved[0]).backbone.config.rope_parameters["rope_theta"] == 10000.0
