"""Liquid (arXiv 2412.04332): a transformers Gemma whose last tokens are codes.

The codes are those of Chameleon's VQGAN; see :mod:`pjd.models.chameleon_vq`.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import ChameleonConfig, GemmaConfig, GemmaForCausalLM, GemmaModel

from pjd.decoder.grid import Grid
from pjd.models.catalogue import LIQUID_SAMPLING as SAMPLING
from pjd.models.chameleon import load_vq
from pjd.models.chameleon_vq import ChameleonVQ
from pjd.models.checkpoint import read, require
from pjd.models.transformers_checkpoint import (
    exact_rotary,
    load_language,
    read_config,
    read_vocabulary,
    tied,
)
from pjd.models.transformers_decoder import DecoderModel, with_codes_from

SIDE = 32
"""Rows and columns of codes in the official images of 512 x 512 pixels."""

VQ_CONFIG = ChameleonConfig()
"""Sizes of the VQGAN, which no file of the checkpoint says: those of Chameleon."""

BEGIN, IMAGE, UNCONDITIONAL = "<bos>", "<boi>", "<unconditional>"
"""Names of tokens: they begin a text, begin an image, and stand for an unconditional prompt."""

INSTRUCTION = " Generate an image based on this description."
"""What the official script adds to every prompt."""


def exact_embedding(backbone: GemmaModel) -> None:
    """Compute anew what input embeddings are multiplied with, the square root of their width.

    It is not part of a checkpoint, and a model that is made without memory has no value for it.
    transformers rounds it to the dtype of the weights before it multiplies.
    """
    scale = torch.tensor(backbone.config.hidden_size**0.5, device=backbone.device)
    backbone.embed_tokens.embed_scale = scale


def assemble(
    name: str,
    language: GemmaForCausalLM,
    text: int,
    prompt: Callable[[str, bool], list[int]] | None,
    vq: ChameleonVQ,
    side: int,
) -> DecoderModel:
    """Make a model from its parts.

    Args:
        name: for labels.
        language: the transformer.
        text: tokens of text, which come before those of the codes.
        prompt: see :class:`pjd.models.transformers_decoder.DecoderModel`.
        vq: the image decoder.
        side: rows and columns of codes.

    Raises:
        ValueError: if the transformer has too few tokens.
    """
    vectors = F.normalize(vq.quantize.embedding.weight.detach(), dim=-1)
    grid = Grid(side, side)
    return with_codes_from(text, name, language, grid, prompt, vq, vectors, SAMPLING)


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
        vq: where the VQGAN's weights are; see :func:`pjd.models.chameleon.read_vq`.
        device: where the model goes.
        dtype: of the transformer; the image decoder is in single precision.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for a damaged file, a token that the tokenizer lacks, fewer tokens than codes
            need, or a tensor that is missing, unexpected or of another shape.
    """
    require(name, folder, "config.json", "tokenizer.json")
    config = read_config(GemmaConfig, folder / "config.json")
    names = (BEGIN, IMAGE, UNCONDITIONAL)
    text_tokens, text = read_vocabulary(folder / "tokenizer.json", names)
    decoder = load_vq(vq, VQ_CONFIG)
    tensors = {key: value.to(dtype) for key, value in read(folder, device).items()}
    language = load_language(GemmaForCausalLM, config, tied(tensors, config), (), str(folder))
    exact_rotary(language.model)
    exact_embedding(language.model)

    def prompt(caption: str, conditional: bool) -> list[int]:
        """Tokens before the first code."""
        written = caption + INSTRUCTION if conditional else UNCONDITIONAL
        return [*text_tokens(BEGIN), *text_tokens(written + IMAGE)]

    return assemble(name, language, text, prompt, decoder, SIDE)
