"""Lumina-mGPT 2.0 (arXiv 2507.17801): a transformers Chameleon with the codes of a MoVQGAN.

Unlike the first Lumina-mGPT it was not trained from Chameleon: its text has Qwen's tokenizer, a
code stands for 8 x 8 pixels, and the scale of guidance follows a schedule.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ChameleonForConditionalGeneration

from pjd.decoder.grid import Grid
from pjd.models.catalogue import LUMINA_MGPT_2_SAMPLING as SAMPLING
from pjd.models.chameleon import VQ, expand_norms, read_chameleon_config
from pjd.models.checkpoint import read, require
from pjd.models.files import read_json
from pjd.models.movq import MOVQ_270M, MoVQ, load_movq
from pjd.models.transformers_checkpoint import exact_rotary, load_language, read_vocabulary
from pjd.models.transformers_decoder import DecoderModel, with_codes_from

SIDE = 96
"""Rows and columns of codes in the official images of 768 x 768 pixels."""

PIXELS, UNIT = 8, 32
"""Pixels per side of a code, and those that a token for a height or width counts by."""

FIRST_CODE = 155_000
"""The token of code 0; the others follow. Neither configuration nor tokenizer says it: the official
script has it as a number."""

VQ_CONFIG = MOVQ_270M
"""Sizes of the MoVQGAN, which no file of the checkpoint says."""

SEPARATOR, IMAGE, ROW_END = "<reserved08706>", "<racm3:break>", "<reserved08799>"
"""Names of tokens: they end a prompt, begin an image, and end a row of codes."""

LEAST_GUIDANCE = 4.0
"""The scale of guidance never falls below it."""


def size_tokens(rows: int, columns: int) -> tuple[str, str]:
    """Names of the tokens for the height and the width of an image of so many codes."""
    height, width = (f"<reserved{8800 + side * PIXELS // UNIT:05d}>" for side in (rows, columns))
    return height, width


def request(rows: int, columns: int) -> str:
    """What stands before every prompt, for an image of so many codes."""
    size = f"{columns * PIXELS}x{rows * PIXELS}"
    return f"Generate an image of {size} according to the following prompt:\n"


def falling(grid: Grid) -> Tensor:
    """What the scale of guidance is multiplied with at each token of an image, float [length].

    Before each token the official script multiplies its scale by 1 - n / N. n counts the tokens
    after the one that begins the image: the two of its size, and those of the image so far. N is a
    quarter of the number of codes (it was not adapted to the smaller codes of this version), and
    once n is as large nothing is left.
    """
    counted = 2 + torch.arange(grid.length, dtype=torch.float64)
    return (1 - counted / (grid.n_codes / 4)).clamp(min=0).cumprod(0).float()


class LuminaMGPT2(DecoderModel):
    """Lumina-mGPT 2.0; see :class:`pjd.models.transformers_decoder.DecoderModel`.

    Args:
        grid: geometry.
        parts: of a :class:`DecoderModel`.
    """

    def __init__(self, grid: Grid, **parts: Any) -> None:
        """Put the parts together."""
        self.falling = falling(grid)
        super().__init__(grid=grid, **parts)

    def to(self, device: torch.device | str) -> "LuminaMGPT2":
        """Move the model; returns itself."""
        super().to(device)
        self.falling = self.falling.to(self.device)
        return self

    def guidance_at(self, guidance: float, raster: Tensor) -> Tensor:
        """The guidance scale of tokens, float like ``raster``: see :func:`falling`.

        It is never below 4, even if ``guidance`` is; at 1 there is no guidance, and nothing asks.

        Args:
            guidance: the option.
            raster: int64 [...], positions in the image of the tokens that are predicted. What is
                past its end belongs to no token, and gets the scale of the last one.
        """
        place = raster.clamp(max=len(self.falling) - 1)
        return (guidance * self.falling[place]).clamp(min=LEAST_GUIDANCE)


def assemble(
    name: str,
    language: ChameleonForConditionalGeneration,
    first: int,
    grid: Grid,
    prompt: Callable[[str, bool], list[int]] | None,
    vq: MoVQ,
) -> LuminaMGPT2:
    """Make a model from its parts.

    Args:
        name: for labels.
        language: the transformer.
        first: the token of code 0; the others follow.
        grid: geometry, with the token that ends a row.
        prompt: see :class:`pjd.models.transformers_decoder.DecoderModel`.
        vq: the image decoder.

    Raises:
        ValueError: if the transformer has too few tokens.
    """
    vectors = F.normalize(vq.quantize.embedding.weight.detach(), dim=-1)
    return with_codes_from(first, name, language, grid, prompt, vq, vectors, SAMPLING, LuminaMGPT2)


def first_token(path: Path) -> str:
    """Name of the token that begins every text, by a ``tokenizer_config.json``.

    Where a tokenizer has none, as Qwen's, the official script takes the one that ends a text.

    Raises:
        ValueError: naming the file, if it is damaged or has neither.
    """
    settings = read_json(path)
    token = settings.get("bos_token") or settings.get("eos_token")
    name = token.get("content") if isinstance(token, dict) else token
    if not isinstance(name, str):
        raise ValueError(f"{path} has no bos_token and no eos_token")
    return name


def load(
    name: str,
    folder: Path,
    vq: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
) -> LuminaMGPT2:
    """Read an official checkpoint.

    Args:
        name: for labels.
        folder: with ``config.json``, ``tokenizer.json``, ``tokenizer_config.json`` and the
            safetensors.
        vq: the file of the MoVQGAN, ``movqgan_270M.ckpt``.
        device: where the model goes.
        dtype: of the transformer; the image decoder is in single precision.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for a damaged file, a token that the tokenizer lacks, fewer tokens than codes
            need, or a tensor that is missing, unexpected or of another shape.
    """
    require(name, folder, "config.json", "tokenizer.json", "tokenizer_config.json")
    config = read_chameleon_config(folder)
    begin, size = first_token(folder / "tokenizer_config.json"), size_tokens(SIDE, SIDE)
    names = (begin, SEPARATOR, IMAGE, ROW_END, *size)
    text_tokens, _ = read_vocabulary(folder / "tokenizer.json", names)
    decoder = load_movq(vq, VQ_CONFIG)
    tensors = {key: value.to(dtype) for key, value in read(folder, device).items()}
    tensors = expand_norms(tensors, config)
    architecture = ChameleonForConditionalGeneration
    language = load_language(architecture, config, tensors, (VQ,), str(folder))
    exact_rotary(language.model)
    start = text_tokens("".join((IMAGE, *size)))

    def prompt(caption: str, conditional: bool) -> list[int]:
        """Tokens before the first code; the unconditional prompt is the size only."""
        if not conditional:
            return start
        text = [*text_tokens(begin), *text_tokens(request(SIDE, SIDE) + caption + SEPARATOR)]
        # transformers' generate takes them for padding: nothing sees them, no position counts them.
        return [*(token for token in text if token != config.pad_token_id), *start]

    grid = Grid(SIDE, SIDE, row_end=text_tokens(ROW_END)[0])
    return assemble(name, language, FIRST_CODE, grid, prompt, decoder)
