"""SimpleAR (arXiv 2504.11455): a transformers Qwen2 whose last tokens are codes.

The codes are those of NVIDIA's Cosmos tokenizer DV8x16x16, of a video with one frame. It is a
finite scalar quantiser: a code is a number of six digits, and its vector is computed from them.
"""

import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from pjd.decoder.grid import Grid
from pjd.models.catalogue import SIMPLEAR_SAMPLING as SAMPLING
from pjd.models.checkpoint import damaged, read, require
from pjd.models.files import check_file
from pjd.models.pixels import nearest
from pjd.models.transformers_checkpoint import (
    exact_rotary,
    load_language,
    read_config,
    read_vocabulary,
    tied,
)
from pjd.models.transformers_decoder import DecoderModel, with_codes_from

SIDE = 64
"""Rows and columns of codes in the official images of 1024 x 1024 pixels."""

LEVELS = (8, 8, 8, 5, 5, 5)
"""Values of each digit of a code, the least significant first; there are 64,000 codes."""

BEGIN, IMAGE = "<|t2i|>", "<|soi|>"
"""Names of tokens: they begin a prompt, and an image."""

POSITIVE = "A highly realistic image of "
NEGATIVE = (
    "An image of aerial view, overexposed, low quality, deformation, a poor composition, "
    "bad hands, bad teeth, bad eyes, bad limbs, distortion"
)
"""What the official script puts before every prompt, and its unconditional prompt."""

DECODER = "decoder.jit"
"""The file of the image decoder, in TorchScript."""

REACHING_OUT = re.compile(r"\b(from_file|rpc_\w+|save|__setstate__)\b")
"""What a TorchScript file could reach beyond its tensors with: it opens or writes a file, calls
another machine, or runs as soon as the file is loaded. No image decoder needs any of it."""


class Pixels(nn.Module):
    """Codes to images, by the decoder of Cosmos.

    Args:
        decoder: from codes int64 [batch, frames, R, C] to [batch, 3, frames, height, width] in
            about [-1, 1], for one frame.
    """

    def __init__(self, decoder: nn.Module) -> None:
        """Hold the decoder."""
        super().__init__()
        self.decoder = decoder

    def forward(self, codes: Tensor) -> Tensor:
        """Images uint8 [batch, height, width, 3] of codes int64 [batch, R, C]."""
        return nearest(self.decoder(codes[:, None]).squeeze(2))


def load_pixels(path: Path, device: torch.device | str = "cpu") -> Pixels:
    """The image decoder in a TorchScript file, in the precision that it was written in.

    Such a file holds a program. It cannot run Python, but it can do all that the operators of torch
    can; see :data:`REACHING_OUT` for what is refused before anything is loaded.

    Raises:
        ValueError: if the file is damaged, is no TorchScript, or does more than to compute.
    """
    check_file(path)
    with damaged(path, "is no TorchScript"), zipfile.ZipFile(path) as archive:
        # By entry and not by name: an archive may hold a name twice.
        entries = [entry for entry in archive.infolist() if entry.filename.endswith(".py")]
        found = {name for entry in entries for name in reaching_out(archive.read(entry))}
    if found:
        names = ", ".join(sorted(found))
        raise ValueError(f"{path} does more than to compute: its program has {names}")
    with damaged(path, "is no TorchScript"):
        return Pixels(torch.jit.load(path, map_location=device))


def reaching_out(program: bytes) -> set[str]:
    """Words of a TorchScript program by which it could do more than to compute."""
    return set(REACHING_OUT.findall(program.decode(errors="replace")))


def code_vectors(levels: tuple[int, ...]) -> Tensor:
    """Unit vectors of the codes, float [codes, digits + 1], in the order of the codes.

    A digit d of L values stands for d / (L // 2) - 1, as in the official quantiser. The code in the
    middle is 0 in all of them, so a 1 is added to each before it is scaled to length 1.
    """
    # The last dimension of a product varies fastest, and the first digit of a code does.
    values = [torch.arange(count) / (count // 2) - 1 for count in reversed(levels)]
    digits = torch.cartesian_prod(*values).flip(-1)
    return F.normalize(F.pad(digits, (0, 1), value=1.0), dim=-1)


def assemble(
    name: str,
    language: Qwen2ForCausalLM,
    text: int,
    prompt: Callable[[str, bool], list[int]] | None,
    pixels: nn.Module,
    side: int,
    levels: tuple[int, ...],
) -> DecoderModel:
    """Make a model from its parts.

    Args:
        name: for labels.
        language: the transformer.
        text: tokens of text, which come before those of the codes.
        prompt: see :class:`pjd.models.transformers_decoder.DecoderModel`.
        pixels: see :class:`Pixels`.
        side: rows and columns of codes.
        levels: values of each digit of a code.

    Raises:
        ValueError: if the transformer has too few tokens.
    """
    vectors, grid = code_vectors(levels), Grid(side, side)
    return with_codes_from(text, name, language, grid, prompt, pixels, vectors, SAMPLING)


def load(
    name: str,
    folder: Path,
    vq: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
) -> DecoderModel:
    """Read an official checkpoint.

    Args:
        name: for labels.
        folder: with ``config.json``, ``tokenizer.json`` and the safetensors.
        vq: the folder with the image decoder, ``decoder.jit``.
        device: where the model goes.
        dtype: of the transformer; the image decoder is in the precision of its file.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for a damaged file, a token that the tokenizer lacks, fewer tokens than codes
            need, a tensor that is missing, unexpected or of another shape, or an image decoder that
            does more than to compute.
    """
    require(name, folder, "config.json", "tokenizer.json")
    require(name, vq, DECODER)
    config = read_config(Qwen2Config, folder / "config.json")
    text_tokens, text = read_vocabulary(folder / "tokenizer.json", (BEGIN, IMAGE))
    pixels = load_pixels(vq / DECODER, device)
    tensors = {key: value.to(dtype) for key, value in read(folder, device).items()}
    language = load_language(Qwen2ForCausalLM, config, tied(tensors, config), (), str(folder))
    exact_rotary(language.model)

    def prompt(caption: str, conditional: bool) -> list[int]:
        """Tokens before the first code; the unconditional prompt is the negative one."""
        written = POSITIVE + caption if conditional else NEGATIVE
        return text_tokens(f"{BEGIN}{written}{IMAGE}")

    return assemble(name, language, text, prompt, pixels, SIDE, LEVELS)
