"""SimpleAR, against transformers' own Qwen2 and a loop that decodes as the official script does."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from pjd.api import generate
from pjd.decoder.methods import PRESETS
from pjd.models import simplear
from pjd.models.catalogue import CATALOGUE
from tests.backbones import BASE, check_logits_after_text, exact_greedy

SIDE, LEVELS, CODES = 4, (3, 2, 2), 12
NAMES = ["a", "red", "fox", "cat", "of", "An", "A", "image", "?", simplear.BEGIN, simplear.IMAGE]
IDS = {name: number for number, name in enumerate(NAMES)}
TEXT = len(NAMES)
PROMPTS = ["a red fox", "cat"]
GUIDANCE = 3.0


def prompt(text: str, conditional: bool) -> list[int]:
    words = text.split() if conditional else ["An", "image", "of", "?"]
    return [IDS[name] for name in (simplear.BEGIN, *words, simplear.IMAGE)]


class Cosmos(nn.Module):
    """An image decoder for one frame, in the layout and the precision of the official one."""

    def __init__(self) -> None:
        super().__init__()
        colours = torch.randn(CODES, 3, generator=torch.Generator().manual_seed(2))
        self.colours = nn.Parameter(colours.bfloat16())

    def forward(self, codes: Tensor) -> Tensor:
        """Map int64 [batch, frames, R, C] to [batch, 3, frames, 2 * R, 2 * C]."""
        images = self.colours[codes].permute(0, 4, 1, 2, 3)
        return images.repeat_interleave(2, 3).repeat_interleave(2, 4)


@pytest.fixture(params=[True, False], ids=["tied", "own-head"])
def tie(request) -> bool:
    return request.param


@pytest.fixture
def language(request) -> Qwen2ForCausalLM:
    # The command line's tests have no such parameter.
    tie = request.getfixturevalue("tie") if "tie" in request.fixturenames else True
    with torch.random.fork_rng():
        torch.manual_seed(0)
        # Rows after the last code, which no code may be taken for.
        sizes = {"vocab_size": TEXT + CODES + 3, "pad_token_id": None, "tie_word_embeddings": tie}
        rotary = {"rope_type": "default", "rope_theta": 1e6}
        made = Qwen2ForCausalLM(Qwen2Config(**{**BASE, **sizes, "rope_parameters": rotary})).eval()
        for name, parameter in made.named_parameters():
            if "norm" in name or name.endswith("bias"):
                nn.init.normal_(parameter, mean=float("norm" in name), std=0.3)
    return made


def tiny(language: Qwen2ForCausalLM):
    pixels = simplear.Pixels(Cosmos())
    return simplear.assemble("tiny", language, TEXT, prompt, pixels, SIDE, LEVELS)


@torch.no_grad()
def official(language: Qwen2ForCausalLM, text: str) -> Tensor:
    """Greedy codes as the official script has them, but that it may also draw tokens of text.

    Guidance is on the logarithms of probabilities there. They are the logits but for one number for
    all tokens of a position, and so is what guidance makes of them: the softmax is the same.
    """
    branches = [prompt(text, conditional) for conditional in (True, False)]
    codes: list[int] = []
    for _ in range(SIDE * SIDE):
        logits = [
            language(input_ids=torch.tensor([tokens + codes]), use_cache=False).logits[0, -1]
            for tokens in branches
        ]
        conditional, unconditional = (F.log_softmax(one, dim=-1) for one in logits)
        guided = GUIDANCE * (conditional - unconditional) + unconditional
        ours = logits[1] + GUIDANCE * (logits[0] - logits[1])
        torch.testing.assert_close(guided.softmax(-1), ours.softmax(-1))
        codes.append(TEXT + int(guided[TEXT : TEXT + CODES].argmax()))
    return torch.tensor([codes]) - TEXT


def test_greedy_decoding_equals_the_official_loop(language, tie):
    expected = torch.cat([official(language, text) for text in PROMPTS])
    assert len(expected.unique()) > 3 and not torch.equal(expected[0], expected[1])
    model = tiny(language)
    for method, result in exact_greedy(model, PROMPTS, guidance=GUIDANCE):
        assert torch.equal(result.tokens, expected), method


def test_logits_equal_the_plain_forward(language, tie):
    check_logits_after_text(tiny(language), language, prompt("a cat", True), TEXT)


def test_every_preset_runs(language):
    model = tiny(language)
    for method in PRESETS:
        result = generate(model, PROMPTS, method, guidance=2.0, top_k=5)
        assert result.tokens.max() < CODES and result.images[0].size == (2 * SIDE, 2 * SIDE)


def test_vectors_are_those_of_the_digits():
    vectors = simplear.code_vectors(simplear.LEVELS)
    assert vectors.shape == (64_000, 7)
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(64_000))
    for code in (0, 1, 8, 511, 512, 2_560, 31_415, 63_999):
        left, values = code, []
        # The official quantiser: (code // 8 ** digit ...) % levels, then about -1 to 1.
        for count in simplear.LEVELS:
            values.append((left % count - count // 2) / (count // 2))
            left //= count
        expected = F.normalize(torch.tensor([*values, 1.0]), dim=-1)
        torch.testing.assert_close(vectors[code], expected)


class Fixed(nn.Module):
    """An image decoder that gives the same pictures for all codes."""

    def __init__(self, pictures: Tensor) -> None:
        super().__init__()
        self.pictures = pictures

    def forward(self, codes: Tensor) -> Tensor:
        return self.pictures


def saved(pictures: Tensor) -> Tensor:
    """Bytes of [3, height, width] as torchvision's save_image makes them between -1 and 1."""
    pictures = pictures.clamp(-1, 1).sub(-1).div(2)
    return pictures.mul(255).add(0.5).clamp(0, 255).permute(1, 2, 0).to(torch.uint8)


def test_bytes_are_those_of_the_official_script_in_single_precision():
    levels = torch.linspace(-1.2, 1.2, 4_096)
    pictures = torch.stack([levels, levels.flip(0), levels.roll(7)]).view(1, 3, 1, 64, 64)
    ours = simplear.Pixels(Fixed(pictures))(torch.zeros(1, 4, 4, dtype=torch.long))
    assert torch.equal(ours[0], saved(pictures[0, :, 0]))
    # In the 16 bits of its decoder the official script's own arithmetic skips half of the bytes.
    coarse = saved(pictures[0, :, 0].bfloat16())
    assert not (coarse[(coarse > 128) & (coarse < 255)] % 2).any()
    ours = simplear.Pixels(Fixed(pictures.bfloat16()))(torch.zeros(1, 4, 4, dtype=torch.long))
    assert (ours[0].int() - coarse.int()).abs().max() == 1


@pytest.fixture
def folder(language, tmp_path, monkeypatch):
    """A checkpoint as it is published, and the image decoder beside it."""
    monkeypatch.setattr(simplear, "SIDE", SIDE)
    monkeypatch.setattr(simplear, "LEVELS", LEVELS)
    where = tmp_path / "simplear-0.5b"
    language.save_pretrained(where)
    config = json.loads((where / "config.json").read_text())
    # As transformers wrote it at the time, with what the training script added.
    config |= {"rope_theta": config.pop("rope_parameters")["rope_theta"], "mm_patch_merge": "flat"}
    config |= {"architectures": ["SimpARForCausalLM"], "torch_dtype": "bfloat16"}
    config |= {"use_sliding_window": False, "sliding_window": 32_768}
    (where / "config.json").write_text(json.dumps(config))
    words = Tokenizer(models.WordLevel({n: IDS[n] for n in NAMES[:-2]}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    # As in the checkpoint these are no words of the model, but added to it.
    words.add_special_tokens(NAMES[-2:])
    words.save(str(where / "tokenizer.json"))
    (tmp_path / "cosmos-dv8x16x16").mkdir()
    torch.jit.script(Cosmos()).save(str(tmp_path / "cosmos-dv8x16x16" / "decoder.jit"))
    return where


def read(folder, dtype=torch.float32):
    return simplear.load("simplear-0.5b", folder, folder.parent / "cosmos-dv8x16x16", dtype=dtype)


def test_a_checkpoint_is_read(language, folder, tie):
    assert ("lm_head.weight" in load_file(folder / "model.safetensors")) != tie
    model = read(folder)
    assert model.prompt("red fox", True) == prompt("A ? ? image of red fox", True)
    negative = model.prompt("red fox", False)
    assert negative == model.prompt("cat", False)
    assert negative[:4] == prompt("An image of", True)[:4] and negative[-1] == IDS[simplear.IMAGE]
    assert model.tokens.tolist() == list(range(TEXT, TEXT + CODES))
    plain = simplear.assemble(
        "plain", language, TEXT, model.prompt, simplear.Pixels(Cosmos()), SIDE, LEVELS
    )
    both = [generate(m, ["red fox"], "pjd", temperature=0, context=2) for m in (model, plain)]
    assert torch.equal(both[0].tokens, both[1].tokens)
    assert np.array_equal(np.array(both[0].images[0]), np.array(both[1].images[0]))
    half = read(folder, torch.bfloat16)
    assert half.dtype == torch.bfloat16 and half.codebook.dtype == torch.float32
    assert half.backbone.rotary_emb.inv_freq.dtype == torch.float32
    torch.testing.assert_close(
        half.backbone.rotary_emb.inv_freq, language.model.rotary_emb.inv_freq
    )
    assert generate(half, ["cat"], "pjd", top_k=5).tokens.shape == (1, SIDE * SIDE)


def test_a_head_that_a_tied_checkpoint_has_all_the_same_is_not_read(folder):
    path = folder / "model.safetensors"
    expected = read(folder).head.weight
    tensors = load_file(path)
    head = torch.zeros_like(tensors["model.embed_tokens.weight"])
    save_file({**tensors, "lm_head.weight": head}, path)
    assert torch.equal(read(folder).head.weight, expected)


def test_what_does_not_fit_is_refused_by_name(folder):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    save_file({**tensors, "extra": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"missing model\.norm\.weight; unexpected extra$"):
        read(folder)
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, path)
    absent = r"missing lm_head\.weight; missing model\.embed_tokens\.weight; missing model\.norm"
    with pytest.raises(ValueError, match=absent):
        read(folder)
    words = json.loads((folder / "tokenizer.json").read_text())
    words["added_tokens"] = words["added_tokens"][:1]
    (folder / "tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(ValueError, match=r"tokenizer\.json has no <\|soi\|>$"):
        read(folder)


def test_a_vocabulary_without_room_for_the_codes_is_refused(language):
    with pytest.raises(ValueError, match=r"tiny: vocab_size = 26: must be at least 27, the codes"):
        simplear.assemble("tiny", language, 15, prompt, simplear.Pixels(Cosmos()), SIDE, LEVELS)


class Boom:
    """What a malicious pickle runs when it is loaded."""

    def __reduce__(self):
        return exec, ("raise SystemExit('run')",)


class Saving(Cosmos):
    """Writes a file when it decodes."""

    def forward(self, codes: Tensor) -> Tensor:
        torch.save(codes, "written")
        return codes


class Mapping(Cosmos):
    """Makes a file, or changes one, when it decodes."""

    def forward(self, codes: Tensor) -> Tensor:
        return torch.from_file("written", shared=True, size=4, dtype=torch.float32).add_(1)


class Waking(nn.Module):
    """Does as it likes as soon as it is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.training = False

    @torch.jit.export
    def __getstate__(self) -> bool:
        return self.training

    @torch.jit.export
    def __setstate__(self, state: bool) -> None:
        print("awake")
        self.training = state

    def forward(self, codes: Tensor) -> Tensor:
        return codes


@pytest.mark.parametrize(
    ("evil", "word"), [(Saving, "save"), (Mapping, "from_file"), (Waking, "__setstate__")]
)
def test_an_image_decoder_that_does_more_is_refused_before_it_is_loaded(
    folder, evil, word, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "cosmos-dv8x16x16" / "decoder.jit"
    torch.jit.script(evil()).save(str(path))
    # Without the check it would have run.
    loaded = torch.jit.load(path)
    if word != "__setstate__":
        loaded(torch.zeros(1, 1, 2, 2, dtype=torch.long))
        assert (tmp_path / "written").exists()
        (tmp_path / "written").unlink()
    else:
        assert "awake" in capfd.readouterr().out
    with pytest.raises(ValueError, match=rf"decoder\.jit does more than to compute: .* {word}$"):
        read(folder)
    assert not (tmp_path / "written").exists() and not capfd.readouterr().out


def test_an_image_decoder_that_is_none_is_refused_by_name(folder, tmp_path):
    path = tmp_path / "cosmos-dv8x16x16" / "decoder.jit"
    script = path.read_bytes()
    torch.save({"x": Boom()}, path)
    archive = path.read_bytes()
    contents = (b"", script[:500], b"<html>", pickle.dumps(Boom(), protocol=2), archive)
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"decoder\.jit is "):
            read(folder)
    # A name twice: both programs are looked through.
    path.write_bytes(script)
    with zipfile.ZipFile(path, "a") as opened:
        opened.writestr("decoder/code/__torch__.py", "torch.save(x, 'written')")
    with pytest.raises(ValueError, match="its program has save"):
        read(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"decoder\.jit"):
        read(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        read(folder)


def test_the_catalogue_has_both_sizes():
    for size in ("0.5b", "1.5b"):
        checkpoint = CATALOGUE[f"simplear-{size}"]
        assert (checkpoint.rows, checkpoint.columns, checkpoint.context) == (64, 64, 16)
        assert checkpoint.sampling == simplear.SAMPLING and checkpoint.takes_guidance
