"""Tiny random models on real transformers decoders, and plain references without our cache."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from pjd.api import Result, generate
from pjd.decoder.grid import Grid
from pjd.decoder.mask import causal
from pjd.decoder.model import ImageModel
from pjd.models.chameleon import VQ, Format, anole, assemble, lumina
from pjd.models.chameleon_vq import UNUSED, ChameleonVQ
from pjd.models.transformers_decoder import DecoderModel, code_head

WORDS = ["cat", "dog", "red", "an", "of"]
SPECIAL = ["<s>", "<racm3:break>", "<reserved08706>", "<reserved08799>"]
SIZES = [f"<reserved{8800 + number:05d}>" for number in (1, 2, 3, 16)]
CODES = 11
BASE = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 47,
    # Wide enough for distributions that are neither flat nor one-hot.
    "initializer_range": 0.25,
}


def words(text: str) -> list[int]:
    """Tokens of the words that are known."""
    return [WORDS.index(word) for word in text.split() if word in WORDS]


class Tiles(nn.Module):
    """Pixels of codes: one grey pixel each."""

    def forward(self, codes: Tensor) -> Tensor:
        """Map int64 [batch, R, C] to uint8 [batch, R, C, 3]."""
        return (20 * codes).to(torch.uint8)[..., None].expand(-1, -1, -1, 3)


def tiny_llama(row_end: bool) -> tuple[DecoderModel, LlamaForCausalLM]:
    """A Llama with grouped keys whose image codes are scattered over its vocabulary."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        language = LlamaForCausalLM(LlamaConfig(**BASE)).eval()
        tokens = 10 + torch.randperm(30)[:CODES]
        codes = nn.functional.normalize(torch.randn(CODES, 3), dim=-1)

    def prompt(text: str, conditional: bool) -> list[int]:
        return [45, *(words(text) if conditional else []), 46]

    model = DecoderModel(
        name="tiny-llama",
        backbone=language.model,
        grid=Grid(4, 5, row_end=44 if row_end else None),
        tokens=tokens,
        head=code_head(language.lm_head, tokens),
        prompt=prompt,
        pixels=Tiles(),
        codebook=codes,
        sampling={},
    )
    return model, language


def chameleon_config(**changed: object) -> ChameleonConfig:
    """Sizes of a tiny Chameleon; its ids are not the original's."""
    order = torch.randperm(CODES, generator=torch.Generator().manual_seed(1)).tolist()
    # Digits are written as letters, and a Z ends the name.
    letters = ["".join("ABCDEFGHIJ"[int(digit)] for digit in str(code)) for code in order]
    names = [*WORDS, *SPECIAL, *SIZES, "<image>", *(f"IMGIMG{letter}Z" for letter in letters)]
    vq = {
        "num_embeddings": CODES,
        "embed_dim": 8,
        "latent_channels": 8,
        "base_channels": 32,
        "channel_multiplier": [1, 1, 1, 2, 2],
        "num_res_blocks": 1,
    }
    settings = {**BASE, "vq_config": vq, "vocabulary_map": {n: i for i, n in enumerate(names)}}
    return ChameleonConfig(**{**settings, **changed})


def tiny_chameleon(
    written: Format, swin: bool = False
) -> tuple[DecoderModel, ChameleonForConditionalGeneration]:
    """A Chameleon with grouped keys and query norms that differ from head to head."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        language = ChameleonForConditionalGeneration(chameleon_config(swin_norm=swin)).eval()
        for name, parameter in language.named_parameters():
            if "_norm." in name:
                nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.3)
        vq = ChameleonVQ(language.config.vq_config)
    return assemble("tiny-chameleon", language, vq, words, written), language


def tokenizer() -> Tokenizer:
    """A word a token; adds a token of its own unless told not to, as the original does."""
    known = {word: number for number, word in enumerate(WORDS)}
    built = Tokenizer(WordLevel({**known, "?": 40}, unk_token="?"))
    built.pre_tokenizer = Whitespace()
    built.post_processor = TemplateProcessing(single="? $A", special_tokens=[("?", 40)])
    return built


def save_checkpoint(
    folder: Path, model: DecoderModel, language: ChameleonForConditionalGeneration
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Write a Chameleon as Lumina-mGPT's checkpoints are: shared norms, image decoder apart.

    Returns:
        The transformer's tensors, and the image decoder's.
    """
    tensors = {name: t for name, t in language.state_dict().items() if not name.startswith(VQ)}
    norms = [name for name in tensors if "q_norm" in name or "k_norm" in name]
    tensors |= {name: tensors[name][:1].clone() for name in norms}
    assert len(norms) == 8
    folder.mkdir(parents=True, exist_ok=True)
    language.config.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors")
    tokenizer().save(str(folder / "tokenizer.json"))
    pictures = model.pixels.state_dict()
    # What reads images, and what trained it.
    known = language.model.vqmodel.state_dict().items()
    unused = {name: tensor for name, tensor in known if name.startswith(UNUSED)}
    unused["loss.weight"] = torch.zeros(1)
    torch.save({"state_dict": {**pictures, **unused}}, folder / "vqgan.ckpt")
    return tensors, pictures


class Writer(ChameleonForConditionalGeneration):
    """A Chameleon whose ``generate`` may write images: the original forbids their tokens."""

    def forward(
        self, input_ids: Tensor, logits_to_keep: int = 0, **inputs: object
    ) -> CausalLMOutputWithPast:
        """Logits of the whole vocabulary."""
        out = self.model(input_ids=input_ids, **inputs)
        logits = self.lm_head(out.last_hidden_state[:, -logits_to_keep:])
        return CausalLMOutputWithPast(logits=logits, past_key_values=out.past_key_values)


def sequence(model: DecoderModel, prompt: list[int], codes: Tensor) -> Tensor:
    """Tokens int64 [1, length] of a prompt and of as many codes as there are, row ends included."""
    tokens = list(prompt)
    for number, code in enumerate(codes.tolist()):
        tokens.append(int(model.tokens[code]))
        if model.grid.row_end is not None and (number + 1) % model.grid.columns == 0:
            tokens.append(model.grid.row_end)
    return torch.tensor([tokens])


@torch.no_grad()
def plain_logits(model: DecoderModel, language: PreTrainedModel, tokens: Tensor) -> Tensor:
    """Logits [length, codes] of plain transformers, restricted to image codes."""
    hidden = language.model(input_ids=tokens, use_cache=False).last_hidden_state[0]
    return language.lm_head(hidden)[:, model.tokens[: model.vocabulary]]


@torch.no_grad()
def logits_by_column(
    model: ImageModel, x: Tensor, mask: Tensor, prefix: int, stride: int
) -> Tensor:
    """Logits [1, length, codes] of inputs [1, length, dim] through the slots of a cache.

    The mask bool [1, 1, length, length] is that of the raster order.
    The image is fed by columns instead of rows, ``stride`` inputs a row, a few at a time. Once
    more than there are layers, each pass through all: in the last one, all that an input sees was
    written in full sight of what is before it.
    """
    length = x.shape[1]
    by_column = prefix + torch.arange(length - prefix).view(-1, stride).T.flatten()
    order = torch.cat([torch.arange(prefix), by_column])
    cache = model.cache(1, length)
    for _ in range(len(cache.keys) + 1):
        parts = [
            model.forward(x[:, place], place[None], mask[..., place, :], cache.at(place[None]))
            for place in order.split(4)
        ]
    return torch.cat(parts, dim=1)[:, order.argsort()]


@torch.no_grad()
def check_logits_after_text(
    model: DecoderModel, language: PreTrainedModel, tokens: list[int], text: int
) -> None:
    """Logits of a random image equal those of transformers' plain forward, in both orders.

    Args:
        model: that codes' tokens follow those of text in.
        language: its transformer.
        tokens: of the prompt "a cat".
        text: how many tokens of text there are.
    """
    columns, draws = model.grid.columns, torch.Generator().manual_seed(1)
    codes = torch.randint(model.vocabulary, (1, model.grid.n_codes), generator=draws)
    whole = torch.cat([torch.tensor([tokens]), text + codes], dim=1)
    expected = language(input_ids=whole).logits[..., text : text + model.vocabulary]
    assert expected.abs().max() > 1
    x = torch.cat([model.encode(["a cat"], guided=False).embeddings, model.embed(codes)], dim=1)
    length = x.shape[1]
    mask = causal(torch.ones(1, length).bool(), length)
    raster = model.forward(x, torch.arange(length)[None], mask)
    for logits in (raster, logits_by_column(model, x, mask, len(tokens), columns)):
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def exact_greedy(
    model: ImageModel, prompts: list[str], **options: float | str
) -> Iterator[tuple[str, Result]]:
    """What exact decoders make at temperature 0: `pjd` that waits for whole rows is one."""
    whole_rows = {"context": model.grid.columns}
    exact = {"ar": {}, "sjd": {"window": 5}, "mc-sjd": {}, "jacobi": {}, "pjd": whole_rows}
    for method, own in exact.items():
        yield method, generate(model, prompts, method, temperature=0, **options, **own)


def greedy(
    model: DecoderModel, language: PreTrainedModel, prompts: list[str], guidance: float
) -> Tensor:
    """Argmax decoding by full forwards of plain transformers, image by image, without a cache."""
    images = []
    for text in prompts:
        codes = torch.zeros(0, dtype=torch.long)
        for _ in range(model.grid.n_codes):
            conditional, unconditional = (
                plain_logits(model, language, sequence(model, model.prompt(text, branch), codes))
                for branch in (True, False)
            )
            logits = unconditional[-1] + guidance * (conditional[-1] - unconditional[-1])
            codes = torch.cat([codes, logits.argmax()[None]])
        images.append(codes)
    return torch.stack(images)


def staircase(model: DecoderModel, prefix: int, context: int) -> Tensor:
    """The mask bool [1, 1, length, length] of the target M_c, spelt out pair by pair.

    A code of column j sees its row up to itself, of the k-th row above the columns before
    j + 1 + k * c, and all row-end tokens above.
    """
    grid = model.grid
    places = [(row, column) for row in range(grid.rows) for column in range(grid.stride)]
    length = prefix + len(places)
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    for query, (row, column) in enumerate(places):
        if column == grid.columns:
            # The row-end token starts the next row.
            row, column = row + 1, -1
        for key, (above, place) in enumerate(places[:query]):
            if place < grid.columns and above < row:
                limit = column + 1 + (row - above) * context
                mask[prefix + query, prefix + key] = place < limit
    return mask[None, None]


# The original's defaults ask for more codes than these models have.
LUMINA = replace(lumina(96, 64), sampling={})
ANOLE = replace(anole(), width=80, height=64, sampling={})

MODELS = {
    "llama": lambda: tiny_llama(row_end=False),
    "llama-row-ends": lambda: tiny_llama(row_end=True),
    "lumina": lambda: tiny_chameleon(LUMINA),
    "anole": lambda: tiny_chameleon(ANOLE),
}
"""Models by name, each with the plain transformers model that it stands on."""
