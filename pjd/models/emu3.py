"""Emu3-Gen (arXiv 2409.18869): text and image tokens in one transformers decoder.

An image of H x W pixels is H/8 rows of W/8 codes, each row with a row-end token.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Emu3Config, Emu3ForConditionalGeneration, PreTrainedTokenizerFast

from pjd.decoder.grid import Grid
from pjd.errors import ParameterError
from pjd.models.checkpoint import cast, fit, read, require
from pjd.models.transformers_decoder import DecoderModel, Wrapped, code_head, exact_rotary

SIDE = 90
"""Rows and columns of codes in the official images of 720 x 720 pixels."""

BEGIN, IMAGE, START = "<|extra_203|>", "<|image start|>", "<|image token|>"
ROW_END, IMAGE_END = "<|extra_200|>", ("<|extra_201|>", "<|image end|>")
"""Tokens: of a text's beginning, around an image's size, after a row, after an image."""

POSITIVE = " masterpiece, film grained, best quality."
NEGATIVE = (
    "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, "
    "cropped, worst quality, low quality, normal quality, jpeg artifacts, signature, watermark, "
    "username, blurry."
)
"""What the official script adds to every prompt, and what it has in the unconditional branch."""

SAMPLING: dict[str, float | int] = {"guidance": 3.0, "temperature": 1.0, "top_k": 2048}
"""As in the official script."""

READER = ("model.vqmodel.encoder.", "model.vqmodel.quant_conv.")
"""Parts that read images."""

OLDER = {"text_model.lm_head.": "lm_head.", "text_model.model.": "model.text_model."}
OLDER |= {"vqmodel.": "model.vqmodel."}
"""Beginnings of tensors' names in the published files, and what they are called since."""


class Pixels(nn.Module):
    """Codes to images by the model's own VQ decoder.

    Args:
        vq: transformers' VQ model.
        mean: of the pixels in each channel, from 0 to 1, that the VQ model takes for 0.
        deviation: of the pixels, that it takes for 1.
    """

    def __init__(self, vq: nn.Module, mean: list[float], deviation: list[float]) -> None:
        """Hold the VQ model."""
        super().__init__()
        self.vq = vq
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation), persistent=False)

    def forward(self, codes: Tensor) -> Tensor:
        """Images uint8 [batch, height, width, 3] of codes int64 [batch, R, C]."""
        images = self.vq.decode(codes).permute(0, 2, 3, 1) * self.deviation + self.mean
        return (255 * images).round().clamp(0, 255).to(torch.uint8)


def assemble(
    name: str,
    language: Emu3ForConditionalGeneration,
    prompt: Callable[[str, bool], list[int]] | None,
    rows: int,
    columns: int,
    mean: list[float] | None = None,
    deviation: list[float] | None = None,
) -> DecoderModel:
    """Make a model of transformers' own.

    Args:
        name: for labels.
        language: the whole model; what reads images is not used.
        prompt: see :class:`pjd.models.transformers_decoder.DecoderModel`.
        rows: of codes.
        columns: of codes.
        mean: see :class:`Pixels`; None: a half.
        deviation: see :class:`Pixels`; None: a half.
    """
    inner = language.model
    inner.text_model.set_attn_implementation("sdpa")
    vectors = inner.vqmodel.quantize.embedding.weight.detach()
    named = inner.vocabulary_mapping.img2bpe
    tokens = torch.tensor([named[code] for code in range(len(vectors))], device=vectors.device)
    half = [0.5] * 3
    return DecoderModel(
        name=name,
        backbone=inner.text_model,
        grid=Grid(rows, columns, row_end=language.config.vocabulary_map[ROW_END]),
        tokens=tokens,
        head=code_head(language.lm_head, tokens),
        prompt=prompt,
        pixels=Pixels(inner.vqmodel, mean or half, deviation or half).to(vectors.device),
        codebook=F.normalize(vectors, dim=-1),
        sampling=SAMPLING,
    )


def wrap(
    language: Emu3ForConditionalGeneration,
    prompts: list[list[int]],
    negative: list[list[int]] | None,
) -> Wrapped:
    """A model around transformers' own, for prompts in tokens: the last ones say the size.

    Args:
        language: as ``from_pretrained`` gives it.
        prompts: their tokens; all end with the same size of an image.
        negative: tokens of the branch without a prompt; None: as transformers has it, the last
            token of each prompt alone.

    Raises:
        ParameterError: if the prompts' ends open no image, or differ.
    """
    vocabulary = language.config.vocabulary_map
    names = {token: name for name, token in vocabulary.items()}
    texts = ("".join(names.get(token, "") for token in tokens[-16:]) for tokens in prompts)
    ends = {text[text.rfind(IMAGE) :] for text in texts}
    size = re.fullmatch(re.escape(IMAGE) + r"(\d+)\*(\d+)" + re.escape(START), min(ends))
    if size is None or len(ends) > 1:
        allowed = f"must all end with {IMAGE}, the same rows*columns, and {START}"
        raise ParameterError("input_ids", " ".join(sorted(ends)), allowed)
    name = language.config.name_or_path or "emu3"
    model = assemble(name, language, None, int(size[1]), int(size[2]))
    closing = [*(vocabulary[end] for end in IMAGE_END), language.config.text_config.eos_token_id]
    return Wrapped(model, prompts, negative or [tokens[-1:] for tokens in prompts], closing)


def renamed(name: str) -> str:
    """The name that transformers has today for a tensor of a published file."""
    old = next((old for old in OLDER if name.startswith(old)), "")
    return OLDER.get(old, "") + name.removeprefix(old)


def load_language(
    tensors: dict[str, Tensor], config: Emu3Config, source: str
) -> Emu3ForConditionalGeneration:
    """The parts of a checkpoint that write images, in the tensors' own dtypes and device.

    Args:
        tensors: by name, of today; those that read images are left out.
        config: of the checkpoint.
        source: what to call the checkpoint in an error.

    Raises:
        ValueError: naming every tensor that is missing, unexpected or of another shape.
    """
    with torch.device("meta"):
        language = Emu3ForConditionalGeneration(config)
    del language.model.vqmodel.encoder, language.model.vqmodel.quant_conv
    fit(language, {k: v for k, v in tensors.items() if not k.startswith(READER)}, source)
    exact_rotary(language.model.text_model)
    return language


def load(
    name: str,
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
) -> DecoderModel:
    """Read an official checkpoint in the form of transformers.

    Args:
        name: for labels.
        folder: with ``config.json``, ``preprocessor_config.json``, ``tokenizer.json`` and the
            safetensors.
        device: where the model goes.
        dtype: of the transformer; the image decoder is in single precision.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for a damaged file, a token that the vocabulary lacks, or a tensor that is
            missing, unexpected or of another shape.
    """
    require(name, folder, "config.json", "preprocessor_config.json", "tokenizer.json")
    config = Emu3Config.from_json_file(folder / "config.json")
    needed = {BEGIN, IMAGE, START, ROW_END}
    missing = sorted(needed - (config.vocabulary_map or {}).keys())
    if missing:
        raise ValueError(f"{folder / 'config.json'}: vocabulary_map has no {', '.join(missing)}")
    pictures = json.loads((folder / "preprocessor_config.json").read_text())
    named = {renamed(key): value for key, value in read(folder, device).items()}
    tensors = cast(named, dtype, exact="model.vqmodel.")
    language = load_language(tensors, config, str(folder))
    words = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))

    def prompt(text: str, conditional: bool) -> list[int]:
        """Tokens in front of the first image code; without the prompt, of the negative one."""
        asked = text + POSITIVE if conditional else NEGATIVE
        written = f"{BEGIN}{asked}{IMAGE}{SIDE}*{SIDE}{START}"
        return words(written, add_special_tokens=False)["input_ids"]

    mean, deviation = pictures["image_mean"], pictures["image_std"]
    return assemble(name, language, prompt, SIDE, SIDE, mean, deviation)
