"""Emu3-Gen (arXiv 2409.18869): text and image tokens in one transformers decoder.

An image of H x W pixels has H/8 rows of W/8 codes, and every row ends with a row-end token.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Emu3Config, Emu3ForConditionalGeneration

from pjd.decoder.grid import Grid
from pjd.errors import ParameterError, check_integer
from pjd.models.catalogue import EMU3_SAMPLING as SAMPLING
from pjd.models.checkpoint import cast, read, require
from pjd.models.dispatched import parameters_of
from pjd.models.files import read_json
from pjd.models.transformers_checkpoint import (
    exact_rotary,
    load_language,
    read_config,
    read_tokenizer,
)
from pjd.models.transformers_decoder import DecoderModel, Wrapped, code_head

SIDE = 90
"""Rows and columns of codes in the official images of 720 x 720 pixels."""

BEGIN, IMAGE, START = "<|extra_203|>", "<|image start|>", "<|image token|>"
ROW_END, IMAGE_END = "<|extra_200|>", ("<|extra_201|>", "<|image end|>")
"""Names of tokens: they begin a text, stand around an image's size, end a row, end an image."""

POSITIVE = " masterpiece, film grained, best quality."
NEGATIVE = (
    "lowres, bad anatomy, bad hands, text, error, missing fingers, extra digit, fewer digits, "
    "cropped, worst quality, low quality, normal quality, jpeg artifacts, signature, watermark, "
    "username, blurry."
)
"""What the official script adds to every prompt, and its unconditional prompt."""

UNUSED = ("model.vqmodel.encoder.", "model.vqmodel.quant_conv.")
"""Parts that read images, and that are not loaded."""

OLDER = {"text_model.lm_head.": "lm_head.", "text_model.model.": "model.text_model."}
OLDER |= {"vqmodel.": "model.vqmodel."}
"""Beginnings of tensors' names in the published files, and those in transformers today."""


class Pixels(nn.Module):
    """Codes to images, by the model's own VQ decoder.

    Args:
        vq: transformers' VQ model; a pixel x of it is ``x * deviation + mean`` in [0, 1].
        mean: one number per channel.
        deviation: one number per channel.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, vq: Any, mean: list[float], deviation: list[float]) -> None:
        """Hold the VQ model."""
        super().__init__()
        self.vq = vq
        shift = [m / d for m, d in zip(mean, deviation, strict=True)]
        self.register_buffer("shift", torch.tensor(shift), persistent=False)
        self.register_buffer("scale", torch.tensor([1 / d for d in deviation]), persistent=False)

    def decode(self, codes: Tensor) -> Tensor:
        """Images float [batch, 3, height, width] of codes int64 [batch, R, C].

        To the VQ model an image is a video, of which its own ``decode`` makes several frames and
        keeps the first. Here the others go where the large tensors begin, and frames no longer
        depend on each other: a quarter of the memory, the same pixels.
        """
        decoder = self.vq.decoder
        vectors = self.vq.quantize.embedding(codes).permute(0, 3, 1, 2)[:, :, None].contiguous()
        latents = self.vq.post_quant_conv(vectors)
        video = torch.cat([part.transpose(1, 2) for part in (latents, vectors)]).transpose(1, 2)
        for layer in decoder.time_res_stack:
            video = layer(video)
        for layer in decoder.time_conv:
            video = layer(video)
            video = video * torch.sigmoid(video)
        latents, vectors = video.transpose(1, 2).chunk(2)
        # All frames once more: a convolution of few channels rounds by the number of its pictures.
        x = decoder.conv_in(latents.flatten(0, 1)).unflatten(0, latents.shape[:2])[:, 0]
        x = decoder.middle_block(x, vectors[:, 0])
        x = decoder.norm_out(decoder.up_block(x, vectors[:, 0]), vectors[:, 0])
        return decoder.conv_out(x * torch.sigmoid(x))

    def forward(self, codes: Tensor) -> Tensor:
        """Images uint8 [batch, height, width, 3] of codes int64 [batch, R, C]."""
        images = self.decode(codes).float().permute(0, 2, 3, 1)
        # The official image processor's arithmetic, which rounds down.
        images = (images + self.shift) / self.scale
        return (255 * images).clamp(0, 255).to(torch.uint8)


def assemble(
    name: str,
    language: Emu3ForConditionalGeneration,
    prompt: Callable[[str, bool], list[int]] | None,
    rows: int,
    columns: int,
    mean: list[float] | None = None,
    deviation: list[float] | None = None,
) -> DecoderModel:
    """Make a model from the one of transformers.

    Args:
        name: for labels.
        language: the whole model; the parts that read images are not used.
        prompt: see :class:`pjd.models.transformers_decoder.DecoderModel`.
        rows: rows R of codes.
        columns: codes C per row.
        mean: see :class:`Pixels`; None: 0.5 for each channel.
        deviation: see :class:`Pixels`; None: 0.5 for each channel.

    Raises:
        ParameterError: if there are no rows or no columns, which no image has.
    """
    check_integer("rows", rows, 1)
    check_integer("columns", columns, 1)
    inner = language.model
    vectors = parameters_of(inner.vqmodel.quantize.embedding)["weight"]
    token_of = inner.vocabulary_mapping.img2bpe
    tokens = torch.tensor([token_of[code] for code in range(len(vectors))])
    half = [0.5] * 3
    return DecoderModel(
        name=name,
        backbone=inner.text_model,
        grid=Grid(rows, columns, row_end=language.config.vocabulary_map[ROW_END]),
        tokens=tokens,
        head=code_head(language.lm_head, tokens),
        prompt=prompt,
        pixels=Pixels(inner.vqmodel, mean or half, deviation or half),
        codebook=F.normalize(vectors, dim=-1),
        sampling=SAMPLING,
    )


def wrap(
    language: Emu3ForConditionalGeneration,
    prompts: list[list[int]],
    negative: list[list[int]] | None,
) -> Wrapped:
    """Wrap a transformers model. Prompts are tokens, and their last tokens give the size.

    Args:
        language: as ``from_pretrained`` returns it.
        prompts: the tokens of each; all end with the same size of an image.
        negative: the tokens of each unconditional prompt; None: only the last token of each
            prompt, as in transformers.

    Raises:
        ParameterError: if the prompts do not end with the beginning of an image, differ in it, or
            ask for an image without rows or columns.
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


def channels(path: Path) -> list[list[float]]:
    """Mean and deviation of pixels, three numbers each, in a ``preprocessor_config.json``.

    Raises:
        ValueError: if the file is damaged, or has none.
    """
    preprocessor = read_json(path)
    found: list[list[float]] = []
    for key in ("image_mean", "image_std"):
        numbers = preprocessor.get(key)
        three = isinstance(numbers, list) and len(numbers) == 3
        if not three or not all(isinstance(number, int | float) for number in numbers or []):
            raise ValueError(f"{path}: {key} = {numbers!r}: must be three numbers")
        found.append(list(numbers or []))
    return found


def renamed(name: str) -> str:
    """Today's name in transformers of a tensor of a published file."""
    old = next((old for old in OLDER if name.startswith(old)), "")
    return OLDER.get(old, "") + name.removeprefix(old)


def load(
    name: str,
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
) -> DecoderModel:
    """Read an official checkpoint in transformers' format.

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
    config = read_config(Emu3Config, folder / "config.json")
    needed = {BEGIN, IMAGE, START, ROW_END}
    missing = sorted(needed - (config.vocabulary_map or {}).keys())
    if missing:
        raise ValueError(f"{folder / 'config.json'}: vocabulary_map has no {', '.join(missing)}")
    mean, deviation = channels(folder / "preprocessor_config.json")
    text_tokens = read_tokenizer(folder / "tokenizer.json")
    tensors = {renamed(key): value for key, value in read(folder, device).items()}
    tensors = cast(tensors, dtype, exact="model.vqmodel.")
    architecture = Emu3ForConditionalGeneration
    language = load_language(architecture, config, tensors, UNUSED, str(folder))
    exact_rotary(language.model.text_model)

    def prompt(text: str, conditional: bool) -> list[int]:
        """Tokens before the first code; the unconditional prompt is the negative one."""
        caption = text + POSITIVE if conditional else NEGATIVE
        written = f"{BEGIN}{caption}{IMAGE}{SIDE}*{SIDE}{START}"
        return text_tokens(written)

    return assemble(name, language, prompt, SIDE, SIDE, mean, deviation)
