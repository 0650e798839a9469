"""Lumina-mGPT 2.0, against transformers' Chameleon and a loop that follows the official script."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoTokenizer, ChameleonConfig, ChameleonForConditionalGeneration

from pjd.api import decode, generate
from pjd.decoder.grid import Grid
from pjd.decoder.mask import causal
from pjd.decoder.methods import PRESETS, configure
from pjd.measure.audit import audit
from pjd.models import lumina_mgpt_2 as lumina
from pjd.models.catalogue import CATALOGUE, INDEX
from pjd.models.movq import MoVQ
from tests.backbones import BASE, exact_greedy, logits_by_column
from tests.test_movq import CODES, CONFIG, tiny_movq

ROWS, COLUMNS = 8, 4
STRIDE = COLUMNS + 1
END = "<|endoftext|>"
SIZES = [f"<reserved{8800 + number:05d}>" for number in (1, 2)]
NAMES = ["a", "red", "fox", "cat", "Generate", "prompt", "?"]
NAMES += [END, lumina.SEPARATOR, lumina.IMAGE, lumina.ROW_END, *SIZES]
IDS = {name: number for number, name in enumerate(NAMES)}
FIRST = 15
PROMPTS = ["a red fox", "cat"]
GUIDANCE = 60.0


def prompt(text: str, conditional: bool) -> list[int]:
    words = [END, "Generate", *text.split(), lumina.SEPARATOR] if conditional else []
    return [IDS[name] for name in (*words, lumina.IMAGE, SIZES[1], SIZES[0])]


@pytest.fixture
def movq() -> MoVQ:
    return tiny_movq()


@pytest.fixture
def language() -> ChameleonForConditionalGeneration:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        # Neither the vocabulary of the codes nor a VQGAN is Chameleon's.
        sizes = {"vocab_size": FIRST + CODES + 3, "vocabulary_map": IDS, "pad_token_id": None}
        small = {"base_channels": 32, "num_res_blocks": 1, "num_embeddings": 3, "embed_dim": 4}
        config = ChameleonConfig(**{**BASE, **sizes, "vq_config": small})
        made = ChameleonForConditionalGeneration(config).eval()
        for name, parameter in made.named_parameters():
            if "_norm." in name:
                nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.3)
                # All heads share one normalisation, as when training does not split the model.
                parameter.data = parameter.data[:1].expand_as(parameter).clone()
    return made


def tiny(language: ChameleonForConditionalGeneration, movq: MoVQ, name: str = "tiny"):
    grid = Grid(ROWS, COLUMNS, row_end=IDS[lumina.ROW_END])
    return lumina.assemble(name, language, FIRST, grid, prompt, movq)


@torch.no_grad()
def official(
    language: ChameleonForConditionalGeneration, ids: list[int], guidance: float
) -> tuple[Tensor, list[float]]:
    """Greedy codes int64 [codes] after a prompt, and the scale of guidance before each token.

    As the official processors of logits have it, without a cache; they keep the scale of guidance
    from token to token.
    """
    ids, scales = [*ids], []
    begin = ids.index(IDS[lumina.IMAGE])
    height, width = (int(NAMES[token][-5:-1]) - 8800 for token in ids[begin + 1 : begin + 3])
    while len(ids) - begin - 3 < (4 * width + 1) * 4 * height:
        written = len(ids) - begin - 1
        guidance = max(4.0, guidance * (1 - written / (2 * height * 2 * width)))
        scales.append(guidance)
        if (written - 2 + 1) % (4 * width + 1) == 0:
            ids.append(IDS[lumina.ROW_END])
            continue
        conditional, unconditional = (
            language(input_ids=torch.tensor([tokens])).logits[0, -1]
            for tokens in (ids, ids[begin:])
        )
        logits = guidance * (conditional - unconditional) + unconditional
        ids.append(FIRST + int(logits[FIRST : FIRST + CODES].argmax()))
    codes = torch.tensor([token - FIRST for token in ids[begin + 3 :] if token >= FIRST])
    return codes, scales


def test_greedy_decoding_equals_the_official_loop(language, movq):
    expected, constant = (
        torch.stack([official(language, prompt(text, True), scale)[0] for text in PROMPTS])
        for scale in (GUIDANCE, 4.0)
    )
    assert len(expected.unique()) > 3 and not torch.equal(expected[0], expected[1])
    assert not torch.equal(expected, constant)
    model = tiny(language, movq)
    for method, result in exact_greedy(model, PROMPTS, guidance=GUIDANCE, top_k=0):
        assert torch.equal(result.tokens, expected), method
    # Below the least scale it is the least.
    for scale in (4.0, 2.0):
        result = generate(model, PROMPTS, "ar", temperature=0, guidance=scale, top_k=0)
        assert torch.equal(result.tokens, constant)


@pytest.mark.parametrize("guidance", [2.0, 4.0, 4.5, GUIDANCE, 1e6])
def test_guidance_falls_as_in_the_official_script(language, movq, guidance):
    model = tiny(language, movq)
    _, expected = official(language, prompt("cat", True), guidance)
    raster = torch.arange(ROWS * STRIDE)
    torch.testing.assert_close(model.guidance_at(guidance, raster), torch.tensor(expected))
    past = model.guidance_at(guidance, torch.tensor([[ROWS * STRIDE]]))
    assert past.tolist() == [[4.0]]


def test_guidance_of_a_whole_image():
    falling, scale = lumina.falling(Grid(96, 96, row_end=0)), 10.0
    for place in range(96 * 97):
        scale = max(4.0, scale * (1 - (place + 2) / (48 * 48)))
        assert max(4.0, 10 * falling[place].item()) == pytest.approx(scale, rel=1e-5)
    # It is at its least after 63 of 9,312 tokens.
    assert 10 * falling[63] < 4 < 10 * falling[62]


@torch.no_grad()
def test_logits_equal_the_plain_forward(language, movq):
    model = tiny(language, movq)
    codes = torch.randint(CODES, (ROWS, COLUMNS), generator=torch.Generator().manual_seed(1))
    image = F.pad(codes, (0, 1), value=CODES).view(1, -1)
    tokens = torch.tensor([prompt("a cat", True)])
    ids = torch.where(image == CODES, IDS[lumina.ROW_END], FIRST + image)
    everything = language(input_ids=torch.cat([tokens, ids], dim=1)).logits
    expected = everything[..., FIRST : FIRST + CODES]
    assert expected.abs().max() > 1
    x = torch.cat([model.encode(["a cat"], guided=False).embeddings, model.embed(image)], dim=1)
    length = x.shape[1]
    mask = causal(torch.ones(1, length).bool(), length)
    raster = model.forward(x, torch.arange(length)[None], mask)
    for logits in (raster, logits_by_column(model, x, mask, tokens.shape[1], STRIDE)):
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_every_preset_runs(language, movq):
    model = tiny(language, movq)
    for method in PRESETS:
        result = generate(model, PROMPTS, method, guidance=9.0, top_k=5)
        assert result.tokens.max() < CODES
        assert result.images[0].size == (8 * COLUMNS, 8 * ROWS)


def test_an_audit_sees_the_guidance_that_codes_were_drawn_with(language, movq):
    model, seeds = tiny(language, movq), torch.arange(len(PROMPTS))
    for method, redraft in (("jacobi", None), ("ar", "gumbel")):
        config = configure(method, guidance=GUIDANCE, **({"redraft": redraft} if redraft else {}))
        drawn = decode(model, PROMPTS, config)
        assert audit(model, PROMPTS, drawn.tokens, seeds, config).summary()["equal"] == 1
    other = replace(config, guidance=4.0)
    assert audit(model, PROMPTS, drawn.tokens, seeds, other).summary()["equal"] < 1


@pytest.fixture
def folder(language, movq, tmp_path, monkeypatch):
    """A checkpoint as it is published, and the image decoder beside it."""
    monkeypatch.setattr(lumina, "SIDE", 4)
    monkeypatch.setattr(lumina, "FIRST_CODE", FIRST)
    monkeypatch.setattr(lumina, "VQ_CONFIG", CONFIG)
    where = tmp_path / "lumina-mgpt-2-7b"
    language.config.save_pretrained(where)
    config = json.loads((where / "config.json").read_text())
    # As transformers wrote it at the time, with what only the official classes know.
    config |= {"rope_theta": config.pop("rope_parameters")["rope_theta"], "rope_scaling": None}
    config |= {"torch_dtype": "bfloat16", "mask_image_logits": False, "dropout": 0.05}
    config |= {"z_loss_weight": 1e-5}
    (where / "config.json").write_text(json.dumps(config))
    tensors = {name: value.clone() for name, value in language.state_dict().items()}
    tensors |= {name: value[:1].clone() for name, value in tensors.items() if "_norm." in name}
    shards = {"a.safetensors": {}, "b.safetensors": {}}
    for number, (name, value) in enumerate(tensors.items()):
        shards["ab"[number % 2] + ".safetensors"][name] = value
    for shard, content in shards.items():
        save_file(content, where / shard)
    places = {name: shard for shard, content in shards.items() for name in content}
    (where / INDEX).write_text(json.dumps({"weight_map": places}))
    words = Tokenizer(models.WordLevel({n: IDS[n] for n in NAMES[:7]}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_tokens([AddedToken(name, normalized=False) for name in NAMES[7:]])
    words.save(str(where / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None, "eos_token": END}
    (where / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "movqgan").mkdir()
    torch.save(movq.state_dict(), tmp_path / "movqgan" / "movqgan_270M.ckpt")
    return where


def read(folder, dtype=torch.float32):
    vq = folder.parent / "movqgan" / "movqgan_270M.ckpt"
    return lumina.load("lumina-mgpt-2-7b", folder, vq, dtype=dtype)


@torch.no_grad()
def test_a_checkpoint_is_read(language, movq, folder):
    model = read(folder)
    assert model.grid == Grid(4, 4, row_end=IDS[lumina.ROW_END])
    assert model.tokens[:-1].tolist() == list(range(FIRST, FIRST + CODES))
    # What the official script makes of a prompt: its tokenizer has no token that begins a text.
    words = AutoTokenizer.from_pretrained(folder)
    text = "Generate an image of 32x32 according to the following prompt:\na {red} fox"
    encoded = words.encode(text + lumina.SEPARATOR, add_special_tokens=False)
    size = [IDS[name] for name in (lumina.IMAGE, SIZES[0], SIZES[0])]
    assert model.prompt("a {red} fox", True) == [words.eos_token_id, *encoded, *size]
    assert model.prompt("a {red} fox", False) == size
    ids = torch.tensor([model.prompt("cat", True)])
    x, length = model.encode(["cat"], guided=False).embeddings, ids.shape[1]
    mask = causal(torch.ones(1, length).bool(), length)
    logits = model.forward(x, torch.arange(length)[None], mask)
    expected = language(input_ids=ids).logits[..., FIRST : FIRST + CODES]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    codes = torch.arange(16)[None]
    assert torch.equal(model.decode(codes), movq(codes.view(1, 4, 4)))
    half = read(folder, torch.bfloat16)
    assert half.dtype == torch.bfloat16 and half.codebook.dtype == torch.float32
    assert half.pixels.post_quant_conv.weight.dtype == torch.float32
    rotary = half.backbone.rotary_emb.inv_freq
    torch.testing.assert_close(rotary, language.model.rotary_emb.inv_freq)
    assert generate(half, ["cat"], "pjd", top_k=5, context=2).tokens.shape == (1, 16)


@pytest.mark.parametrize("word", ["red", END])
def test_a_prompts_token_that_means_padding_is_left_out_as_by_generate(folder, word):
    expected = [token for token in read(folder).prompt("a red fox", True) if token != IDS[word]]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "pad_token_id": IDS[word]}))
    assert read(folder).prompt("a red fox", True) == expected


def test_the_first_token_is_the_tokenizers_beginning_or_else_its_end(tmp_path):
    path = tmp_path / "tokenizer_config.json"
    named = {"content": "<b>", "lstrip": False}
    for settings, name in (({"bos_token": named}, "<b>"), ({"eos_token": "<e>"}, "<e>")):
        path.write_text(json.dumps({"eos_token": "<x>", **settings}))
        assert lumina.first_token(path) == name
    for settings in ({}, {"bos_token": None, "eos_token": 3}, {"eos_token": {"id": 3}}):
        path.write_text(json.dumps(settings))
        with pytest.raises(ValueError, match=r"tokenizer_config\.json has no bos_token and no eos"):
            lumina.first_token(path)


def test_what_does_not_fit_is_refused_by_name(folder, monkeypatch):
    path = folder / "b.safetensors"
    tensors = load_file(path)
    del tensors["lm_head.weight"]
    save_file({**tensors, "extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"missing lm_head\.weight; unexpected extra$"):
        read(folder)
    monkeypatch.setattr(lumina, "SIDE", 8)
    read_sizes = json.loads((folder / "tokenizer.json").read_text())
    added = [one for one in read_sizes["added_tokens"] if one["content"] != SIZES[1]]
    (folder / "tokenizer.json").write_text(json.dumps({**read_sizes, "added_tokens": added}))
    with pytest.raises(
        ValueError, match=r"tokenizer\.json has no <reserved08802>, <reserved08802>$"
    ):
        read(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocabulary_map": None}))
    with pytest.raises(ValueError, match=r"config\.json has no vocabulary_map$"):
        read(folder)
    for file in ("tokenizer_config.json", "tokenizer.json"):
        (folder / file).unlink()
        with pytest.raises(FileNotFoundError, match=file):
            read(folder)


def test_an_image_decoder_that_is_none_is_refused_by_name(folder):
    path = folder.parent / "movqgan" / "movqgan_270M.ckpt"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"movqgan_270M\.ckpt is damaged"):
        read(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"movqgan_270M\.ckpt"):
        read(folder)


def test_a_vocabulary_without_room_for_the_codes_is_refused(language, movq):
    grid = Grid(ROWS, COLUMNS, row_end=IDS[lumina.ROW_END])
    with pytest.raises(ValueError, match=r"tiny: vocab_size = 34: must be at least 35, the codes"):
        lumina.assemble("tiny", language, FIRST + 4, grid, prompt, movq)


def test_the_catalogue_has_its_sizes():
    checkpoint = CATALOGUE["lumina-mgpt-2-7b"]
    assert (checkpoint.rows, checkpoint.columns, checkpoint.context) == (96, 96, 24)
    assert checkpoint.sampling == lumina.SAMPLING and checkpoint.takes_guidance
    assert lumina.FIRST_CODE + lumina.VQ_CONFIG.num_embeddings == 171_384
    assert lumina.size_tokens(96, 128) == ("<reserved08824>", "<reserved08832>")
    assert lumina.request(96, 128).startswith("Generate an image of 1024x768 according")
