"""Janus-Pro (arXiv 2501.17811): a transformers Llama whose codes are no tokens of its vocabulary.

Codes have an embedding table, an aligner and an output head of their own, which text does not use.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import JanusConfig, JanusForConditionalGeneration

from pjd.decoder.grid import Grid
from pjd.errors import ParameterError
from pjd.models.catalogue import JANUS_SAMPLING as SAMPLING
from pjd.models.checkpoint import cast, read, require
from pjd.models.dispatched import parameters_of
from pjd.models.files import read_json
from pjd.models.pixels import truncate
from pjd.models.transformers_checkpoint import (
    exact_rotary,
    load_language,
    read_config,
    read_tokenizer,
)
from pjd.models.transformers_decoder import DecoderModel, Wrapped

UNUSED = (
    "model.vision_model.",
    "model.aligner.",
    "model.vqmodel.encoder.",
    "model.vqmodel.quant_conv.",
    "lm_head.",
)
"""Parts that read images or write text, and that are not loaded."""


class ImageEmbedding(nn.Module):
    """Codes to inputs of the transformer."""

    def __init__(self, table: nn.Module, aligner: nn.Module) -> None:
        """Chain the table and the aligner."""
        super().__init__()
        self.table, self.aligner = table, aligner

    def forward(self, codes: Tensor) -> Tensor:
        """Map int64 [...] to [..., dim]."""
        return self.aligner(self.table(codes))


class Pixels(nn.Module):
    """Codes to images, by the model's own VQ decoder."""

    def __init__(self, vq: Any) -> None:
        """Hold the VQ model."""
        super().__init__()
        self.vq = vq

    def forward(self, codes: Tensor) -> Tensor:
        """Images uint8 [batch, height, width, 3] of codes int64 [batch, R, C]."""
        return truncate(self.vq.decode(codes.flatten(1)))


def assemble(
    name: str,
    language: JanusForConditionalGeneration,
    prompt: Callable[[str, bool], list[int]] | None,
) -> DecoderModel:
    """Make a model from the one of transformers.

    Args:
        name: for labels.
        language: the whole model; the parts that read images are not used.
        prompt: see :class:`pjd.models.transformers_decoder.DecoderModel`.
    """
    inner = language.model
    rows, columns = inner.vqmodel.quantize.quant_state_dims
    vectors = parameters_of(inner.vqmodel.quantize.embedding)["weight"]
    return DecoderModel(
        name=name,
        backbone=inner.language_model,
        grid=Grid(rows, columns),
        tokens=torch.arange(len(vectors)),
        head=inner.generation_head,
        prompt=prompt,
        pixels=Pixels(inner.vqmodel),
        codebook=F.normalize(vectors, dim=-1),
        sampling=SAMPLING,
        embedding=ImageEmbedding(inner.generation_embeddings, inner.generation_aligner),
    )


def unconditional(tokens: list[int], pad: int) -> list[int]:
    """An unconditional prompt of equal length: padding, which is attended to, replaces the text."""
    return [tokens[0], *[pad] * (len(tokens) - 2), tokens[-1]]


def token_id(settings: dict[str, Any], source: str, *keys: str) -> int:
    """The token that ``settings`` have below ``keys``.

    Raises:
        ValueError: naming ``source`` and what it has instead.
    """
    value: Any = settings
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            raise ValueError(f"{source} has no {key}")
        value = value[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        advice = "must be the number of a token, as in the official file"
        raise ValueError(f"{source}: {keys[-1]} = {value!r}: {advice}")
    return value


def wrap(
    language: JanusForConditionalGeneration,
    prompts: list[list[int]],
    negative: list[list[int]] | None,
) -> Wrapped:
    """Wrap a transformers model. Prompts are tokens.

    The ``generate`` of Janus does not pass its caller's guidance scale to a decoding loop. We take
    the one in ``generation_config``, else the model's default.

    Args:
        language: as ``from_pretrained`` returns it.
        prompts: the tokens of each; all end with the token that begins an image.
        negative: the tokens of each unconditional prompt; None: see :func:`unconditional`.

    Raises:
        ParameterError: if a prompt does not end with the token that begins an image.
        ValueError: if ``generation_config`` lacks a token.
    """
    settings = language.generation_config
    begin = token_id(settings.to_dict(), "generation_config", "generation_kwargs", "boi_token_id")
    for tokens in prompts:
        if tokens[-1] != begin:
            allowed = f"must end with {begin}, generation_config's boi_token_id"
            raise ParameterError("input_ids", tokens[-1], allowed)
    if negative is None:
        pad = token_id(settings.to_dict(), "generation_config", "pad_token_id")
        negative = [unconditional(tokens, pad) for tokens in prompts]
    name = language.config.name_or_path or "janus"
    guidance = settings.guidance_scale or SAMPLING["guidance"]
    return Wrapped(assemble(name, language, None), prompts, negative, guidance=guidance)


def load(
    name: str,
    folder: Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
) -> DecoderModel:
    """Read an official checkpoint in transformers' format.

    Args:
        name: for labels.
        folder: with ``config.json``, ``generation_config.json``, ``tokenizer.json`` and the
            safetensors.
        device: where the model goes.
        dtype: of the transformer; the image decoder is in single precision.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for a damaged file, a token that ``generation_config.json`` lacks, or a tensor
            that is missing, unexpected or of another shape.
    """
    require(name, folder, "config.json", "generation_config.json", "tokenizer.json")
    config = read_config(JanusConfig, folder / "config.json")
    path = folder / "generation_config.json"
    settings, source = read_json(path), f"model {name}: {path}"
    begin = token_id(settings, source, "bos_token_id")
    pad = token_id(settings, source, "pad_token_id")
    image = token_id(settings, source, "generation_kwargs", "boi_token_id")
    text_tokens = read_tokenizer(folder / "tokenizer.json")
    tensors = cast(read(folder, device), dtype, exact="model.vqmodel.")
    architecture = JanusForConditionalGeneration
    language = load_language(architecture, config, tensors, UNUSED, str(folder))
    exact_rotary(language.model.language_model)

    def prompt(text: str, conditional: bool) -> list[int]:
        """Tokens before the first code: the text, written as a conversation."""
        conversation = f"<|User|>: {text.strip()}\n\n<|Assistant|>:"
        tokens = [begin, *text_tokens(conversation), image]
        return tokens if conditional else unconditional(tokens, pad)

    return assemble(name, language, prompt)
