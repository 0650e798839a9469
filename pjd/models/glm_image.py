"""GLM-Image (github.com/zai-org/GLM-Image): a transformers decoder that writes a preview first.

Positions have three axes: time, row and column. The codes of the preview and those of the image are
one sequence. What makes pixels of the image's codes is a diffusion model, which is not here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GlmImageConfig, GlmImageForConditionalGeneration

from pjd.decoder.cache import KeyValueCache
from pjd.decoder.grid import Grid
from pjd.decoder.model import Prompt
from pjd.models.catalogue import GLM_IMAGE_SAMPLING as SAMPLING
from pjd.models.checkpoint import cast, read, require
from pjd.models.transformers_checkpoint import (
    exact_rotary,
    load_language,
    read_config,
    read_vocabulary,
)
from pjd.models.transformers_decoder import DecoderModel, code_head

SIDE, PREVIEW_SIDE = 32, 16
"""Rows and columns of codes of an image of 1024 x 1024 pixels, and of the preview before it."""

GRID, GRID_END, BEGIN = "<sop>", "<eop>", "<|dit_token_16384|>"
"""Names of tokens: around the size of a grid, and before the first code."""

UNUSED = ("model.visual.", "model.vqmodel.quant_conv.", "model.vqmodel.post_quant_conv.")
"""Parts that read images, and that are not loaded."""


class CodePicture(nn.Module):
    """Codes as a picture that shows nothing, and from which they can be read again.

    A pixel is a code: 256 times its red plus its green.
    """

    def forward(self, codes: Tensor) -> Tensor:
        """Bytes uint8 [batch, R, C, 3] of codes int64 [batch, R, C]."""
        return torch.stack([codes // 256, codes % 256, 0 * codes], dim=-1).to(torch.uint8)


class GlmImage(DecoderModel):
    """A grid of GLM-Image; see :class:`pjd.models.transformers_decoder.DecoderModel`.

    Args:
        before: the model of the preview; None: this is it.
        parts: of a :class:`DecoderModel`.
    """

    takes_guidance = False
    before: "GlmImage | None" = None

    def __init__(self, before: "GlmImage | None", **parts: Any) -> None:
        """Put the parts together."""
        super().__init__(**parts)
        self.before = before

    def to(self, device: torch.device | str) -> "GlmImage":
        """Move the model, and that of the preview; returns itself."""
        super().to(device)
        if self.before is not None:
            self.before.to(device)
        return self

    def compile(self, compiled: Callable[..., Any]) -> None:
        """Let ``compiled`` take the layers, which all grids share, and the output head."""
        super().compile(compiled)
        if self.before is not None:
            self.before.run_head = self.run_head

    def encode_tokens(self, rows: list[list[int]]) -> Prompt:
        """Embed prompts that are tokens. On all axes their positions count from 0."""
        prompt = super().encode_tokens(rows)
        return prompt._replace(positions=prompt.positions[..., None].expand(-1, -1, 3))

    def image_positions(self, last: Tensor, raster: Tensor) -> Tensor:
        """Position ids of an image's tokens: its start on the axis of time, then row and column.

        An image starts after all numbers that the tokens before it have on any axis.

        Args:
            last: int64 [batch, 1, 3].
            raster: int64 [batch, length].

        Returns:
            int64 [batch, length, 3].
        """
        row, column = raster // self.grid.columns, raster % self.grid.columns
        places = torch.stack([torch.zeros_like(row), row, column], dim=-1)
        start = last.amax(-1, keepdim=True) + 1
        return torch.where(raster[..., None] < 0, last, start + places)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Logits of the code after each input; positions int64 [batch, length, 3]."""
        return super().forward(x, positions.permute(2, 0, 1), mask, cache)


def prompt_text(caption: str, side: int, preview: int) -> str:
    """What stands before the first code: the caption, the size of the image, the preview's.

    Args:
        caption: what the image shows.
        side: rows and columns of the image.
        preview: rows and columns of the preview, which is named last and written first.
    """
    sizes = "".join(f"{GRID}{number} {number}{GRID_END}" for number in (side, preview))
    return f"{caption}{sizes}{BEGIN}"


def assemble(
    name: str,
    language: GlmImageForConditionalGeneration,
    prompt: Callable[[str, bool], list[int]] | None,
    side: int,
    preview: int,
) -> GlmImage:
    """Make a model from the one of transformers.

    Args:
        name: for labels.
        language: the whole model; the parts that read images are not used.
        prompt: see :class:`pjd.models.transformers_decoder.DecoderModel`.
        side: rows and columns of the image.
        preview: rows and columns of the preview.

    Raises:
        ValueError: if the output head has fewer tokens than there are codes.
    """
    backbone = language.model.language_model
    vectors = language.model.vqmodel.quantize.embedding.weight.detach()
    written = language.lm_head.out_features
    if written < len(vectors):
        few = f"must be at least {len(vectors)}, one per code"
        raise ValueError(f"{name}: vision_vocab_size = {written}: {few}")
    tokens = torch.arange(len(vectors), device=vectors.device)
    parts = {
        "name": name,
        "backbone": backbone,
        "tokens": tokens,
        "head": code_head(language.lm_head, tokens),
        "prompt": prompt,
        "pixels": CodePicture(),
        "codebook": F.normalize(vectors, dim=-1),
        "sampling": SAMPLING,
    }
    first = GlmImage(None, grid=Grid(preview, preview), **parts)
    return GlmImage(first, grid=Grid(side, side), **parts)


def load(
    name: str,
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
) -> GlmImage:
    """Read the autoregressive part of an official checkpoint.

    Args:
        name: for labels.
        folder: with ``config.json`` and the safetensors of ``vision_language_encoder``, and
            ``tokenizer.json`` of ``processor``.
        device: where the model goes.
        dtype: of the transformer; the vectors of codes are in single precision.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for a damaged file, a token that the tokenizer lacks or that is another one in
            the configuration, or a tensor that is missing, unexpected or of another shape.
    """
    require(name, folder, "config.json", "tokenizer.json")
    config = read_config(GlmImageConfig, folder / "config.json")
    path = folder / "tokenizer.json"
    text_tokens, _ = read_vocabulary(path, (GRID, GRID_END, BEGIN))
    begin, known = text_tokens(BEGIN)[0], config.image_start_token_id
    if begin != known:
        raise ValueError(f"{path}: {BEGIN} is {begin}, not the image_start_token_id {known}")
    tensors = cast(read(folder, device), dtype, exact="model.vqmodel.")
    language = load_language(GlmImageForConditionalGeneration, config, tensors, UNUSED, str(folder))
    exact_rotary(language.model.language_model)

    def prompt(caption: str, conditional: bool) -> list[int]:
        """Tokens before the first code of the preview; there is no unconditional branch."""
        return text_tokens(prompt_text(caption, SIDE, PREVIEW_SIDE))

    return assemble(name, language, prompt, SIDE, PREVIEW_SIDE)
