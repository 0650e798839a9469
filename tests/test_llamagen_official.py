"""Official LlamaGen checkpoints, against a plain implementation of the architecture."""

import pickle
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel
from typer.testing import CliRunner

from pjd.api import generate
from pjd.cli import app
from pjd.decoder.engine import Engine
from pjd.decoder.mask import causal
from pjd.decoder.methods import PRESETS, configure
from pjd.errors import ParameterError
from pjd.models import llamagen_official as official
from pjd.models.catalogue import CATALOGUE
from pjd.models.llamagen import LlamaGen
from pjd.models.llamagen_vq import LlamaGenVQ
from pjd.models.registry import load
from tests.backbones import exact_greedy, logits_by_column

DIM, LAYERS, HEADS, GRID, CODES = 16, 2, 2, 4, 13
FORWARD = 256  # of the smallest width that the original rounds up to


class Tiny(official.Format):
    """A tiny model with few codes."""

    @property
    def config(self):
        full = super().config
        return type(full)(**{**vars(full), "vocabulary": CODES})


def weights(captioned: bool) -> dict[str, Tensor]:
    """Random tensors by their official names."""
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 1.5 * shape[-1] ** -0.5

    tensors = {"tok_embeddings.weight": random(CODES, DIM) * 4, "output.weight": random(CODES, DIM)}
    tensors["norm.weight"] = 1 + 0.1 * random(DIM)
    if captioned:
        tensors["cls_embedding.cap_proj.fc1.weight"] = random(DIM, official.FEATURES)
        tensors["cls_embedding.cap_proj.fc2.weight"] = random(DIM, DIM)
        tensors["cls_embedding.uncond_embedding"] = random(official.CAPTION, official.FEATURES)
    else:
        tensors["cls_embedding.embedding_table.weight"] = random(1001, DIM) * 4
    for layer in range(LAYERS):
        for name, shape in (
            ("attention.wqkv", (3 * DIM, DIM)),
            ("attention.wo", (DIM, DIM)),
            ("feed_forward.w1", (FORWARD, DIM)),
            ("feed_forward.w3", (FORWARD, DIM)),
            ("feed_forward.w2", (DIM, FORWARD)),
        ):
            tensors[f"layers.{layer}.{name}.weight"] = random(*shape)
        for name in ("attention_norm", "ffn_norm"):
            tensors[f"layers.{layer}.{name}.weight"] = 1 + 0.1 * random(DIM)
    return tensors


def plain_logits(tensors: dict[str, Tensor], prefix: Tensor, shown: Tensor, codes: list[int]):
    """Logits [prefix + codes, CODES] of one sequence: no cache, complex rotations, no batch."""
    x = torch.cat([prefix, tensors["tok_embeddings.weight"][torch.tensor(codes).long()]])
    length, before, size = len(x), len(prefix), DIM // HEADS
    frequencies = 1 / 10_000 ** (torch.arange(0, size // 2, 2)[: size // 4] / (size // 2))
    turns = torch.zeros(length, size // 2, dtype=torch.complex64)
    for number in range(length - before):
        row, column = divmod(number, GRID)
        angles = torch.cat([row * frequencies, column * frequencies])
        turns[before + number] = torch.polar(torch.ones_like(angles), angles)

    def normed(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * tensors[name]

    def turned(x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turns).flatten(-2)

    keys = torch.cat([shown, torch.ones(length - before, dtype=torch.bool)])
    mask = (torch.ones(length, length).tril().bool() & keys) | torch.eye(length).bool()
    for layer in range(LAYERS):
        name = f"layers.{layer}"
        inner = normed(x, f"{name}.attention_norm.weight")
        parts = (inner @ tensors[f"{name}.attention.wqkv.weight"].T).split(DIM, dim=-1)
        q, k, v = (part.unflatten(-1, (HEADS, size)).transpose(0, 1) for part in parts)
        scores = turned(q) @ turned(k).transpose(1, 2) / size**0.5
        out = scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v
        x = x + out.transpose(0, 1).flatten(1) @ tensors[f"{name}.attention.wo.weight"].T
        inner = normed(x, f"{name}.ffn_norm.weight")
        gate = F.silu(inner @ tensors[f"{name}.feed_forward.w1.weight"].T)
        up = inner @ tensors[f"{name}.feed_forward.w3.weight"].T
        x = x + (gate * up) @ tensors[f"{name}.feed_forward.w2.weight"].T
    return normed(x, "norm.weight") @ tensors["output.weight"].T


def features(captions: list[str]) -> tuple[Tensor, Tensor]:
    """Features that depend on the caption, of as many positions as it has letters."""
    mask = torch.zeros(len(captions), official.CAPTION, dtype=torch.bool)
    values = torch.zeros(len(captions), official.CAPTION, official.FEATURES)
    for row, caption in enumerate(captions):
        generator = torch.Generator().manual_seed(len(caption))
        mask[row, : len(caption)] = True
        values[row, : len(caption)] = 2 * torch.randn(
            len(caption), official.FEATURES, generator=generator
        )
    return official.align(values, mask)


def prefixes(tensors: dict[str, Tensor], prompt: str, captioned: bool) -> list[tuple]:
    """Prefix embeddings and mask of the conditional and the unconditional branch."""
    if not captioned:
        table = tensors["cls_embedding.embedding_table.weight"]
        shown = torch.ones(1, dtype=torch.bool)
        return [(table[int(prompt)][None], shown), (table[1000][None], shown)]
    values, mask = features([prompt])
    first, second = (tensors[f"cls_embedding.cap_proj.fc{n}.weight"] for n in (1, 2))
    both = values[0], tensors["cls_embedding.uncond_embedding"]
    return [(F.gelu(x @ first.T, approximate="tanh") @ second.T, mask[0]) for x in both]


@pytest.fixture(params=[False, True], ids=["classes", "captions"])
def case(request):
    """A model, its tensors, whether it takes captions, and prompts for it."""
    captioned = request.param
    tensors = weights(captioned)
    config = Tiny(DIM, LAYERS, HEADS, GRID, captioned).config
    transformer = official.load_transformer(dict(tensors), config, captioned, "tiny")
    vq = LlamaGenVQ(4, codes=CODES, base=32, latent=32, blocks=1)
    encoder = features if captioned else None
    model = official.OfficialLlamaGen("tiny", transformer, vq, {}, encoder)
    return model, tensors, captioned, ["a red fox", "cat"] if captioned else ["7", "999"]


@torch.no_grad()
def test_greedy_ar_equals_a_plain_loop(case):
    model, tensors, captioned, prompts = case
    expected = []
    for prompt in prompts:
        branches = prefixes(tensors, prompt, captioned)
        codes: list[int] = []
        while len(codes) < GRID * GRID:
            cond, uncond = (plain_logits(tensors, *branch, codes)[-1] for branch in branches)
            codes.append(int((uncond + 3 * (cond - uncond)).argmax()))
        expected.append(codes)
    expected = torch.tensor(expected)
    assert len(expected.unique()) > 3 and not torch.equal(expected[0], expected[1])
    for method, result in exact_greedy(model, prompts, guidance=3):
        assert torch.equal(result.tokens, expected), method


@torch.no_grad()
def test_all_logits_equal_a_plain_forward_in_raster_order_and_by_columns(case):
    model, tensors, captioned, prompts = case
    codes = torch.randint(CODES, (GRID * GRID,), generator=torch.Generator().manual_seed(2))
    for number, branch in enumerate(prefixes(tensors, prompts[0], captioned)):
        expected = plain_logits(tensors, *branch, codes.tolist())
        encoded = model.encode(prompts[:1], guided=True)
        x = torch.cat([encoded.embeddings[number], model.embed(codes)])[None]
        prefix, length = len(branch[0]), x.shape[1]
        shown = F.pad(encoded.mask[number], (0, len(codes)), value=True)
        mask = causal(shown[None], length)
        raster = model.forward(x, torch.arange(length)[None], mask)
        assert expected[shown].abs().max() > 1
        for logits in (raster, logits_by_column(model, x, mask, prefix, GRID)):
            torch.testing.assert_close(logits[0, shown], expected[shown], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_logits_in_wavefront_order_equal_a_plain_forward(case):
    # With the whole row above as context, every row is written in a wavefront of drafts, and each
    # distribution that is kept is that of the full forward.
    model, tensors, captioned, prompts = case
    config = configure("pjd", context=GRID, guidance=2.0)
    engine = Engine(model, config, model.encode(prompts[:1], True), torch.tensor([1]))
    codes = engine.run().tokens[0]
    for number, branch in enumerate(prefixes(tensors, prompts[0], captioned)):
        expected = plain_logits(tensors, *branch, codes.tolist())
        first, length = engine.slots.first_prompt, len(expected) - 1
        x = torch.cat([branch[0], model.embed(codes)])[-1][None, None]
        # The last code was never fed: what it sees is all that the engine wrote.
        mask = torch.zeros(1, 1, 1, engine.slots.total, dtype=torch.bool)
        mask[..., first : first + length] = F.pad(branch[1], (0, GRID * GRID - 1), value=True)
        mask[..., first + length] = True
        cache = engine.cache.select(torch.tensor([number]))
        logits = model.forward(x, torch.tensor([[length]]), mask, cache.at(torch.tensor([[-1]])))
        torch.testing.assert_close(logits[0, 0], expected[-1], atol=1e-4, rtol=1e-4)


def test_every_preset_runs(case):
    model, _, _, prompts = case
    for method in PRESETS:
        result = generate(model, prompts, method, guidance=2.0, top_k=5)
        assert result.tokens.max() < CODES and result.images[0].size == (GRID * 8, GRID * 8)


@pytest.mark.parametrize("prompt", ["1000", "-1", "cat", "1.5"])
def test_a_class_outside_imagenet_is_refused(prompt):
    config = Tiny(DIM, LAYERS, HEADS, GRID).config
    transformer = official.load_transformer(weights(False), config, False, "tiny")
    vq = LlamaGenVQ(4, codes=CODES, base=32, latent=32, blocks=1)
    model = official.OfficialLlamaGen("tiny", transformer, vq, {})
    with pytest.raises(ParameterError, match=r"number of an ImageNet class, 0 to 999"):
        model.encode([prompt], guided=True)


def reference_decoder(tensors: dict[str, Tensor], ids: Tensor, levels: int, blocks: int) -> Tensor:
    """Pixels in about [-1, 1], written out by the official names."""

    def conv(x: Tensor, name: str, padding: int = 1) -> Tensor:
        return F.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], padding=padding)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.group_norm(x, 32, tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps=1e-6)

    def residual(x: Tensor, name: str) -> Tensor:
        h = conv(F.silu(norm(x, f"{name}.norm1")), f"{name}.conv1")
        h = conv(F.silu(norm(h, f"{name}.norm2")), f"{name}.conv2")
        shortcut = f"{name}.nin_shortcut"
        return (conv(x, shortcut, 0) if f"{shortcut}.weight" in tensors else x) + h

    def attention(x: Tensor, name: str) -> Tensor:
        h = norm(x, f"{name}.norm")
        q, k, v = (conv(h, f"{name}.{part}", 0).flatten(2) for part in "qkv")
        weight = (q.transpose(1, 2) @ k * x.shape[1] ** -0.5).softmax(-1)
        return x + conv((v @ weight.transpose(1, 2)).view_as(x), f"{name}.proj_out", 0)

    vectors = F.normalize(tensors["quantize.embedding.weight"], dim=-1)[ids].permute(0, 3, 1, 2)
    x = conv(conv(vectors, "post_quant_conv", 0), "decoder.conv_in")
    x = attention(residual(x, "decoder.mid.0"), "decoder.mid.1")
    x = residual(x, "decoder.mid.2")
    for level in range(levels):
        name = f"decoder.conv_blocks.{level}"
        for block in range(blocks):
            x = residual(x, f"{name}.res.{block}")
            if level == 0:
                x = attention(x, f"{name}.attn.{block}")
        if level < levels - 1:
            x = conv(F.interpolate(x, scale_factor=2, mode="nearest"), f"{name}.upsample.conv")
    return conv(F.silu(norm(x, "decoder.norm_out")), "decoder.conv_out")


@pytest.mark.parametrize("levels", [4, 5])
@torch.no_grad()
def test_the_image_decoder_equals_one_written_out(levels):
    torch.manual_seed(3)
    vq = LlamaGenVQ(levels, codes=CODES, base=32, latent=32, blocks=2)
    ids = torch.randint(CODES, (2, 3, 2))
    expected = reference_decoder(dict(vq.state_dict()), ids, levels, 2)
    assert expected.shape[2:] == (3 * vq.reduction, 2 * vq.reduction)
    ours = vq.decoder(vq.post_quant_conv(vq.codebook[ids].permute(0, 3, 1, 2)))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A checkpoint of tiny sizes, in the official form."""
    monkeypatch.setitem(official.FORMATS, "llamagen-c2i-b-256", Tiny(DIM, LAYERS, HEADS, GRID))
    monkeypatch.setattr(official, "LlamaGenVQ", tiny_vq)
    where = tmp_path / "llamagen-c2i-b-256"
    where.mkdir()
    tensors = {**weights(False), "freqs_cis": torch.zeros(1 + GRID * GRID, DIM // HEADS // 2, 2)}
    content = {"model": tensors, "steps": 3, "args": Namespace(cfg=1.0)}
    torch.save(content, where / "c2i_B_256.pt")
    extra = {"encoder.conv_in.bias": torch.zeros(1), "quantize.codebook_used": torch.zeros(9)}
    torch.save({"model": {**tiny_vq(5).state_dict(), **extra}}, where / "vq_ds16_c2i.pt")
    return where


def tiny_vq(levels: int) -> LlamaGenVQ:
    return LlamaGenVQ(levels, codes=CODES, base=32, latent=32, blocks=1)


def test_an_official_file_is_read(folder, monkeypatch):
    model = official.load("llamagen-c2i-b-256", folder, dtype=torch.float32)
    for name, value in weights(False).items():
        assert torch.equal(model.transformer.state_dict()[name], value)
    assert model.transformer.rotary.device.type == "cpu"
    assert generate(model, ["3"], "pjd", context=2, **model.sampling | {"top_k": 5}).steps < 16
    # By name, with the image decoder in the folder that the catalogue says.
    (folder.parent / "llamagen-vq").mkdir()
    (folder / "vq_ds16_c2i.pt").rename(folder.parent / "llamagen-vq" / "vq_ds16_c2i.pt")
    monkeypatch.setattr("pjd.models.registry.WEIGHTS", folder.parent)
    assert load("llamagen-c2i-b-256").dtype == torch.bfloat16


def test_a_converted_file_is_read_alike(folder):
    before = official.load("llamagen-c2i-b-256", folder)
    for name in ("c2i_B_256", "vq_ds16_c2i"):
        source, target = folder / f"{name}.pt", folder / f"{name}.safetensors"
        done = CliRunner().invoke(app, ["convert", str(source), str(target)])
        assert done.exit_code == 0 and "GiB" in done.output
    # The torch files may stay: what was converted is read in their place.
    both = official.load("llamagen-c2i-b-256", folder)
    assert torch.equal(both.codebook, before.codebook)
    for name in ("c2i_B_256", "vq_ds16_c2i"):
        (folder / f"{name}.pt").unlink()
    after = official.load("llamagen-c2i-b-256", folder)
    for part in ("transformer", "pixels"):
        states = [getattr(model, part).state_dict() for model in (before, after)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    again = CliRunner().invoke(app, ["convert", str(target), str(target)])
    assert isinstance(again.exception, ParameterError) and "must be a new file" in str(
        again.exception
    )


def test_tensors_that_do_not_fit_are_refused_by_name(folder):
    tensors = weights(False)
    del tensors["norm.weight"]
    tensors["layers.0.attention.wo.weight"] = torch.zeros(2, 2)
    torch.save(tensors | {"extra": torch.zeros(1)}, folder / "c2i_B_256.pt")
    with pytest.raises(ValueError) as error:
        official.load("llamagen-c2i-b-256", folder)
    assert str(error.value).endswith(
        "does not fit LlamaGen: missing norm.weight; unexpected extra; "
        "layers.0.attention.wo.weight is [2, 2], not [16, 16]"
    )


def test_an_image_decoder_that_does_not_fit_is_refused_by_name(folder):
    pictures = dict(tiny_vq(5).state_dict())
    del pictures["decoder.conv_out.bias"]
    pictures["quantize.embedding.weight"] = torch.zeros(12, 8)
    torch.save({"model": pictures}, folder / "vq_ds16_c2i.pt")
    with pytest.raises(ValueError) as error:
        official.load("llamagen-c2i-b-256", folder)
    assert str(error.value).endswith(
        "does not fit LlamaGenVQ: missing decoder.conv_out.bias; "
        "quantize.embedding.weight is [12, 8], not [13, 8]"
    )
    kept = {name: t for name, t in pictures.items() if not name.startswith("decoder.conv_blocks")}
    torch.save({"model": kept}, folder / "vq_ds16_c2i.pt")
    with pytest.raises(ValueError, match=r"c2i\.pt has 0 decoder\.conv_blocks, not 4 or 5"):
        official.load("llamagen-c2i-b-256", folder)
    torch.save({"model": tiny_vq(4).state_dict()}, folder / "vq_ds16_c2i.pt")
    with pytest.raises(ValueError, match=r"c2i\.pt has 8 pixels per side of a code, .* has 16"):
        official.load("llamagen-c2i-b-256", folder)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("c2i_B_384.pt", "is of llamagen-c2i-b-384"),
        ("c2i_XXL_384.pt", "is of llamagen-c2i-xxl-384"),
        ("t2i_XL_stage1_256.pt", "is of llamagen-t2i-xl-256"),
        ("t2i_XL_stage2_512.pt", "is of llamagen-t2i-xl-512"),
    ],
)
def test_weights_of_another_model_are_told_by_their_name(folder, file, said):
    (folder / "c2i_B_256.pt").rename(folder / file)
    with pytest.raises(ValueError, match=rf"model llamagen-c2i-b-256: .*{file} {said}"):
        official.load("llamagen-c2i-b-256", folder)


def test_an_image_decoder_of_other_models_is_told_by_its_name(folder):
    (folder / "vq_ds16_c2i.pt").rename(folder / "vq_ds16_t2i.pt")
    with pytest.raises(ValueError, match=r"vq_ds16_t2i\.pt is of models whose names have t2i"):
        official.load("llamagen-c2i-b-256", folder)


@pytest.mark.parametrize("grid", [24, 32, 3])
def test_weights_of_another_grid_are_told_by_their_rotary_table(folder, grid):
    size = DIM // HEADS // 2
    table = torch.zeros(1 + grid * grid, size, 2)
    torch.save({"model": {**weights(False), "freqs_cis": table}}, folder / "c2i_B_256.pt")
    said = rf"freqs_cis is \[{1 + grid * grid}, {size}, 2\], not \[17, {size}, 2\] of a grid of 4x4"
    with pytest.raises(ValueError, match=said):
        official.load("llamagen-c2i-b-256", folder)


def test_names_and_sizes_of_all_official_models_agree():
    assert {name for name in CATALOGUE if name.startswith("llamagen")} == set(official.FORMATS)
    for name, written in official.FORMATS.items():
        assert CATALOGUE[name].rows == written.grid == int(name.rpartition("-")[2]) // 16
        assert written.captioned == ("t2i" in name) and written.dim % written.heads == 0
    # Parameters as the official source counts them.
    for name, millions in {"llamagen-c2i-xxl-384": 1410, "llamagen-c2i-3b-384": 3096}.items():
        config = official.FORMATS[name].config
        with torch.device("meta"):
            transformer = LlamaGen(config)
            transformer.cls_embedding = official.ClassEmbedder(config.dim)
        assert sum(p.numel() for p in transformer.parameters()) // 10**6 == millions


def test_a_pickle_that_holds_more_than_tensors_is_refused(folder):
    class Boom:
        def __reduce__(self):
            return (print, ("this must not run",))

    (folder / "c2i_B_256.pt").write_bytes(pickle.dumps({"model": Boom()}, protocol=2))
    with pytest.raises(ValueError, match=r"c2i_B_256\.pt is damaged, or holds more than tensors"):
        official.load("llamagen-c2i-b-256", folder)


def test_what_is_missing_is_said(folder):
    with pytest.raises(FileNotFoundError, match=r"no file .*vq_ds8\.pt"):
        official.load("llamagen-c2i-b-256", folder, vq=folder / "vq_ds8.pt")
    (folder / "c2i_B_256.pt").rename(folder / "t2i_XL_stage1_256.pt")
    (folder / "vq_ds16_c2i.pt").rename(folder / "vq_ds16_t2i.pt")
    with pytest.raises(FileNotFoundError, match=r"flan-t5-xl"):
        official.load("llamagen-t2i-xl-256", folder)
    (folder / "t2i_XL_stage1_256.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold one file of weights; found none"):
        official.load("llamagen-c2i-b-256", folder)


def save_t5(folder: Path, width: int) -> T5EncoderModel:
    """Write a tiny text encoder that knows two words, and its tokenizer."""
    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, "red": 3, "fox": 4}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    sizes = {"d_model": width, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    encoder = T5EncoderModel(T5Config(vocab_size=5, **sizes)).eval()
    encoder.save_pretrained(folder)
    return encoder


def test_captions_stand_at_the_right_end(tmp_path):
    encoder = save_t5(tmp_path, 8)
    values, mask = official.t5(tmp_path, "cpu", torch.float32)([" Red FOX ", "fox"])
    assert mask.sum(1).tolist() == [2, 1] and mask[:, -1].all()
    with torch.no_grad():
        alone = encoder(torch.tensor([[3, 4]])).last_hidden_state[0]
    torch.testing.assert_close(values[0, -2:], alone, atol=1e-5, rtol=1e-4)
    assert not values[0, :-2].any()


def test_a_text_encoder_that_does_not_fit_is_refused_by_name(tmp_path):
    save_t5(tmp_path, 8)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["encoder.final_layer_norm.weight"]
    tensors["encoder.block.0.layer.1.DenseReluDense.wo.weight"] = torch.zeros(8, 3)
    # The whole of flan-t5-xl has a decoder too, which is no part of it.
    tensors["decoder.final_layer_norm.weight"] = torch.zeros(8)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ValueError) as error:
        official.t5(tmp_path, "cpu", torch.float32)
    assert str(error.value).endswith(
        "does not fit T5EncoderModel: missing encoder.final_layer_norm.weight; "
        "encoder.block.0.layer.1.DenseReluDense.wo.weight is [8, 3], not [8, 8]"
    )


def test_a_model_of_captions_is_read_with_its_text_encoder(tmp_path, folder, monkeypatch):
    name = "llamagen-t2i-xl-256"
    monkeypatch.setitem(official.FORMATS, name, Tiny(DIM, LAYERS, HEADS, GRID, captioned=True))
    encoder = save_t5(tmp_path / "text", official.FEATURES)
    where = tmp_path / name
    where.mkdir()
    tensors = weights(captioned=True)
    torch.save({"module": tensors}, where / "t2i_XL_stage1_256.pt")
    vq = (folder / "vq_ds16_c2i.pt").rename(folder / "vq_ds16_t2i.pt")
    parts = {"vq": vq, "text": tmp_path / "text"}
    model = official.load(name, where, **parts, dtype=torch.float32)
    with torch.no_grad():
        values = encoder(torch.tensor([[3, 4]])).last_hidden_state[0]
    first, second = (tensors[f"cls_embedding.cap_proj.fc{n}.weight"] for n in (1, 2))
    encoded = model.encode(["Red fox"], guided=False)
    assert encoded.mask.sum() == 2
    expected = F.gelu(values @ first.T, approximate="tanh") @ second.T
    torch.testing.assert_close(encoded.embeddings[0, -2:], expected, atol=1e-4, rtol=1e-4)
    result = generate(model, ["Red fox"], "pjd", context=2, **model.sampling | {"top_k": 5})
    assert result.images[0].size == (GRID * 16, GRID * 16)


def test_the_catalogue_knows_every_format():
    named = {name for name, entry in CATALOGUE.items() if entry.family == "llamagen_official"}
    assert named == set(official.FORMATS)
    for name in named:
        assert CATALOGUE[name].rows == CATALOGUE[name].columns == official.FORMATS[name].grid
