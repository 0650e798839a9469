"""Models of real shapes. Costs depend only on the shape, so the weights may be random."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import pjd
from pjd.decoder.grid import Grid
from pjd.decoder.model import ImageModel
from pjd.measure.replay import random_llamagen
from pjd.models.catalogue import CATALOGUE
from pjd.models.llamagen import LlamaGenConfig
from pjd.models.registry import EMOJI
from pjd.models.transformers_checkpoint import exact_rotary
from pjd.models.transformers_decoder import DecoderModel


@dataclass(frozen=True)
class Shape:
    """A model shape to measure.

    Attributes:
        make: from device, dtype and number of layers (None: that of the shape) to a model.
        guidance: the usual scale of classifier-free guidance.
        top_k: the usual top-k; 0 = all codes.
        context: context tokens c for the methods on rows.
        like: sizes of a Llama of this shape, to time transformers' own ``generate``; None: skip it.
    """

    make: Callable[[str, torch.dtype, int | None], ImageModel]
    guidance: float
    top_k: int
    context: int
    like: LlamaConfig | None = None


class Blank(nn.Module):
    """Stands in for an image decoder, whose time is not measured."""

    def forward(self, codes: Tensor) -> Tensor:
        """Map int64 [batch, R, C] to black uint8 [batch, R, C, 3]."""
        return torch.zeros(*codes.shape, 3, dtype=torch.uint8, device=codes.device)


def embedded(name: str, device: str, dtype: torch.dtype, layers: int | None) -> ImageModel:
    """An embedded model with its own weights; ``layers`` must be None."""
    return pjd.load(name, device, str(dtype).removeprefix("torch."))


def decoder(
    config: LlamaConfig,
    grid: Grid,
    vocabulary: int,
    prompt: int,
    device: str,
    dtype: torch.dtype,
    layers: int | None,
) -> ImageModel:
    """A transformers decoder with random weights, a head for codes, and prompts of equal length."""
    sizes = {**config.to_dict(), "num_hidden_layers": layers or config.num_hidden_layers}
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            language = LlamaForCausalLM(LlamaConfig(**sizes))
            head = nn.Linear(config.hidden_size, vocabulary, bias=False)
    finally:
        torch.set_default_dtype(default)
    language.set_attn_implementation("sdpa")
    exact_rotary(language.model)
    codes = F.normalize(torch.randn(vocabulary, 8), dim=-1)
    return DecoderModel(
        name="decoder",
        backbone=language.model,
        grid=grid,
        tokens=torch.arange(vocabulary),
        head=head,
        prompt=lambda text, conditional: [1] * (prompt if conditional else 2),
        pixels=Blank(),
        codebook=codes,
        sampling={},
    )


def llama(hidden: int, inner: int, layers: int, heads: int, vocabulary: int) -> LlamaConfig:
    """Sizes of a Llama without grouped-query attention."""
    return LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=vocabulary,
        max_position_embeddings=8192,
    )


def shape_of(
    checkpoint: str, make: Callable[[str, torch.dtype, int | None], ImageModel], like: LlamaConfig
) -> Shape:
    """A shape with the usual options of an official checkpoint.

    Args:
        checkpoint: a key of :data:`pjd.models.catalogue.CATALOGUE`.
        make: see :class:`Shape`.
        like: see :class:`Shape`.
    """
    official = CATALOGUE[checkpoint]
    guidance, top_k = official.sampling["guidance"], int(official.sampling.get("top_k", 0))
    return Shape(make, guidance, top_k, official.context, like)


def llamagen_shape(dim: int, layers: int, heads: int) -> Shape:
    """Text-to-image LlamaGen: 32x32 codes of 16,384, 120 caption positions of T5 features."""
    config = LlamaGenConfig(dim, layers, heads, 16_384, 32, prefix=120, caption_dim=2048)
    like = llama(dim, config.feed_forward, layers, heads, 16_384)
    return shape_of("llamagen-t2i-xl-512", partial(random_llamagen, config), like)


def decoder_shape(checkpoint: str, config: LlamaConfig, grid: Grid, vocabulary: int) -> Shape:
    """A transformers decoder with prompts of 32 tokens."""
    return shape_of(checkpoint, partial(decoder, config, grid, vocabulary, 32), config)


EMOJI_LIKE = {
    "emoji-64": llama(256, 768, 4, 4, 1024),
    "emoji-96": llama(256, 768, 4, 4, 1024),
    "emoji-128": llama(384, 1024, 8, 6, 1024),
}
JANUS = llama(2048, 5632, 24, 16, 102_400)
LUMINA = llama(4096, 11_008, 32, 32, 65_536)

SHAPES = {
    **{name: Shape(partial(embedded, name), 2.5, 0, 4, EMOJI_LIKE[name]) for name in EMOJI},
    "llamagen-b": llamagen_shape(768, 12, 12),
    "llamagen-l": llamagen_shape(1024, 24, 16),
    "llamagen-xl": llamagen_shape(1280, 36, 20),
    "janus-pro-1b": decoder_shape("janus-pro-1b", JANUS, Grid(24, 24), 16_384),
    "lumina-mgpt-7b": decoder_shape("lumina-mgpt-7b-768", LUMINA, Grid(48, 48, row_end=8192), 8192),
}
"""Shapes by name. The emoji models have their trained weights, the others random ones."""
