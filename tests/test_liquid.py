"""Liquid, against transformers' own Gemma and a loop that decodes as the official script does."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import AutoTokenizer, GemmaConfig, GemmaForCausalLM

from pjd.api import generate
from pjd.decoder.methods import PRESETS
from pjd.models import liquid
from pjd.models.catalogue import CATALOGUE
from pjd.models.chameleon import VQ
from pjd.models.chameleon_vq import ChameleonVQ
from tests.backbones import (
    BASE,
    CODES,
    chameleon_config,
    check_logits_after_text,
    exact_greedy,
)

SIDE = 4
NAMES = ["a", "red", "fox", "cat", "Generate", "?", liquid.BEGIN, "<pad>", "<eos>"]
NAMES += [liquid.IMAGE, liquid.UNCONDITIONAL]
IDS = {name: number for number, name in enumerate(NAMES)}
TEXT = len(NAMES)
PROMPTS = ["a red fox", "cat"]
GUIDANCE = 3.0


def prompt(text: str, conditional: bool) -> list[int]:
    words = [*text.split(), "Generate"] if conditional else [liquid.UNCONDITIONAL]
    return [IDS[name] for name in (liquid.BEGIN, *words, liquid.IMAGE)]


@pytest.fixture
def vq() -> ChameleonVQ:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return ChameleonVQ(chameleon_config().vq_config)


@pytest.fixture
def language() -> GemmaForCausalLM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # As in the original a head is wider than its part of the inputs: 4 * 12 is not 32.
        sizes = {"vocab_size": TEXT + CODES + 2, "pad_token_id": IDS["<pad>"], "head_dim": 12}
        made = GemmaForCausalLM(GemmaConfig(**{**BASE, **sizes})).eval()
        for name, parameter in made.named_parameters():
            if "norm" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    return made


def tiny(language: GemmaForCausalLM, vq: ChameleonVQ):
    return liquid.assemble("tiny", language, TEXT, prompt, vq, SIDE)


@torch.no_grad()
def official(language: GemmaForCausalLM) -> Tensor:
    """Greedy codes as the official script has them: both branches in one batch, padded left."""
    branches = [prompt(text, conditional) for conditional in (True, False) for text in PROMPTS]
    length = max(map(len, branches))
    pad = IDS["<pad>"]
    ids = torch.tensor([[pad] * (length - len(tokens)) + tokens for tokens in branches])
    seen = torch.tensor([[0] * (length - len(tokens)) + [1] * len(tokens) for tokens in branches])
    for _ in range(SIDE * SIDE):
        # As its generation prepares them: positions count what is seen.
        positions = (seen.cumsum(-1) - 1).masked_fill(seen == 0, 1)
        given = {"attention_mask": seen, "position_ids": positions, "use_cache": False}
        logits = language(input_ids=ids, **given).logits[:, -1]
        conditional, unconditional = logits.chunk(2)
        guided = unconditional + (conditional - unconditional) * GUIDANCE
        guided[:, :TEXT] = -torch.inf
        chosen = guided[:, : TEXT + CODES].argmax(-1)
        ids = torch.cat([ids, chosen.repeat(2)[:, None]], dim=1)
        seen = torch.cat([seen, torch.ones_like(seen[:, :1])], dim=1)
    return ids[: len(PROMPTS), length:] - TEXT


def test_greedy_decoding_equals_the_official_loop(language, vq):
    expected = official(language)
    assert len(expected.unique()) > 3 and not torch.equal(expected[0], expected[1])
    model = tiny(language, vq)
    for method, result in exact_greedy(model, PROMPTS, guidance=GUIDANCE, top_k=0, top_p=1.0):
        assert torch.equal(result.tokens, expected), method


def test_logits_equal_the_plain_forward(language, vq):
    model = tiny(language, vq)
    check_logits_after_text(model, language, prompt("a cat", True), TEXT)
    assert model.cache(1, 3).keys[0].shape[-1] == 12


def test_every_preset_runs(language, vq):
    model = tiny(language, vq)
    for method in PRESETS:
        result = generate(model, PROMPTS, method, guidance=2.0, top_k=5)
        assert result.tokens.max() < CODES and result.images[0].size == (16 * SIDE, 16 * SIDE)


@pytest.fixture
def folder(language, vq, tmp_path, monkeypatch):
    """A checkpoint as it is published, and Anole's part with the image decoder beside it."""
    monkeypatch.setattr(liquid, "SIDE", SIDE)
    monkeypatch.setattr(liquid, "VQ_CONFIG", chameleon_config())
    where = tmp_path / "liquid-7b"
    language.save_pretrained(where)
    config = json.loads((where / "config.json").read_text())
    # As transformers wrote it at the time.
    config |= {"rope_theta": config.pop("rope_parameters")["rope_theta"], "rope_scaling": None}
    config |= {"hidden_act": "gelu", "torch_dtype": "bfloat16"}
    del config["tie_word_embeddings"]
    (where / "config.json").write_text(json.dumps(config))
    words = Tokenizer(models.WordLevel({n: IDS[n] for n in NAMES[:6]}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens(NAMES[6:])
    begin = [(liquid.BEGIN, IDS[liquid.BEGIN])]
    words.post_processor = TemplateProcessing(single=f"{liquid.BEGIN} $A", special_tokens=begin)
    words.save(str(where / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": liquid.BEGIN}
    (where / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "anole-7b").mkdir()
    pictures = {VQ + name: tensor for name, tensor in vq.state_dict().items()}
    other = {"lm_head.weight": torch.zeros(1)}
    save_file({**pictures, **other}, tmp_path / "anole-7b" / "model.safetensors")
    return where


def read(folder, dtype=torch.float32):
    return liquid.load("liquid-7b", folder, folder.parent / "anole-7b", dtype=dtype)


def test_a_checkpoint_is_read(language, vq, folder):
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    model = read(folder)
    # What the official script makes of its texts, with the special token that begins each.
    official = AutoTokenizer.from_pretrained(folder)
    assert len(official) == TEXT
    written = ["red fox Generate an image based on this description.<boi>", "<unconditional><boi>"]
    for conditional, text in zip((True, False), written, strict=True):
        assert model.prompt("red fox", conditional) == official(text)["input_ids"]
    assert model.prompt("red fox", True)[:4] == prompt("red fox", True)[:4]
    assert model.prompt("red fox", False) == prompt("", False)
    assert model.tokens.tolist() == list(range(TEXT, TEXT + CODES))
    plain = liquid.assemble("plain", language, TEXT, model.prompt, vq, SIDE)
    options = {"temperature": 0, "context": 2, "top_k": 0}
    both = [generate(m, ["red fox"], "pjd", **options) for m in (model, plain)]
    assert torch.equal(both[0].tokens, both[1].tokens)
    assert both[0].images[0].tobytes() == both[1].images[0].tobytes()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings_are_scaled_as_by_transformers(folder, dtype):
    model = read(folder, dtype)
    ids = torch.arange(TEXT + CODES)
    expected = GemmaForCausalLM.from_pretrained(folder, dtype=dtype).get_input_embeddings()(ids)
    assert model.dtype == dtype
    # No value of the table is scaled twice, or by a number of another precision.
    assert torch.equal(model.backbone.get_input_embeddings()(ids), expected)
    assert torch.equal(model.embed(torch.arange(CODES)), expected[TEXT:])
    assert model.backbone.rotary_emb.inv_freq.dtype == torch.float32
    assert model.codebook.dtype == torch.float32
    assert generate(model, ["cat"], "pjd", top_k=5).tokens.shape == (1, SIDE * SIDE)


def test_what_does_not_fit_is_refused_by_name(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    save_file({**tensors, "extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"missing model\.norm\.weight; unexpected extra$"):
        read(folder)
    pictures = folder.parent / "anole-7b" / "model.safetensors"
    save_file({"lm_head.weight": torch.zeros(1)}, pictures)
    with pytest.raises(ValueError, match="anole-7b has no image decoder"):
        read(folder)
    words = json.loads((folder / "tokenizer.json").read_text())
    words["added_tokens"] = [one for one in words["added_tokens"] if "<un" not in one["content"]]
    (folder / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(ValueError, match=r"tokenizer\.json has no <unconditional>$"):
        read(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        read(folder)


def test_a_vocabulary_without_room_for_the_codes_is_refused(language, vq):
    with pytest.raises(ValueError, match=r"tiny: vocab_size = 24: must be at least 25, the codes"):
        liquid.assemble("tiny", language, 14, prompt, vq, SIDE)


class Boom:
    """What a malicious pickle runs when it is loaded."""

    def __reduce__(self):
        return exec, ("raise SystemExit('run')",)


def test_the_official_vqgan_is_read_and_a_malicious_one_refused(folder, vq):
    path = folder.parent / "vqgan.ckpt"
    unused = {"encoder.conv_in.weight": torch.zeros(1), "loss.logvar": torch.zeros(1)}
    torch.save({"state_dict": {**vq.state_dict(), **unused}}, path)
    model = liquid.load("liquid-7b", folder, path, dtype=torch.float32)
    codes = torch.arange(SIDE * SIDE)[None] % CODES
    assert torch.equal(model.decode(codes), read(folder).decode(codes))
    contents = [pickle.dumps(Boom(), protocol=2), path.read_bytes()[:900]]
    torch.save({"state_dict": Boom()}, path)
    for content in (*contents, path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"vqgan\.ckpt is damaged"):
            liquid.load("liquid-7b", folder, path)


def test_the_catalogue_has_its_sizes():
    checkpoint = CATALOGUE["liquid-7b"]
    assert (checkpoint.rows, checkpoint.columns, checkpoint.context) == (32, 32, 8)
    assert checkpoint.sampling == liquid.SAMPLING and checkpoint.takes_guidance
    vq = liquid.VQ_CONFIG.vq_config
    assert (vq.num_embeddings, vq.embed_dim, len(vq.channel_multiplier)) == (8_192, 256, 5)
