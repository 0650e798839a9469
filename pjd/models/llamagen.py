"""The LlamaGen text-to-image transformer (arXiv 2406.06525), parameter names as in the original.

A prefix of caption embeddings, 2-D rotary positions with interleaved pairs, RMSNorm, SwiGLU, and
an unconditional caption for classifier-free guidance.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pjd.decoder.cache import KeyValueCache, LayerCache
from pjd.decoder.compiled import run_module
from pjd.decoder.grid import Grid
from pjd.decoder.mask import causal
from pjd.decoder.model import Prompt
from pjd.models.attention import Attend, attend_through, fastest, sdpa
from pjd.models.block_model import BlockModel
from pjd.models.linear import Linear


@dataclass(frozen=True)
class LlamaGenConfig:
    """Sizes of a LlamaGen transformer.

    Args:
        dim: width of the residual stream.
        layers: transformer blocks.
        heads: attention heads; ``dim / heads`` numbers each.
        vocabulary: number of codes.
        grid: rows and columns of the square token grid.
        prefix: number of caption positions before the image.
        caption_dim: width of the caption features.
        prefix_rotation: rotation of the prefix positions. "zero", as in the official checkpoints:
            their table is zero there, so prefix queries and keys vanish. "identity": queries and
            keys stay as they are.
        dropout: of tokens, of attention and of feed-forward outputs, in training.
        rope_base: base of the rotary frequencies.
        norm_eps: added to the mean square in RMSNorm.
    """

    dim: int
    layers: int
    heads: int
    vocabulary: int
    grid: int
    prefix: int
    caption_dim: int
    prefix_rotation: Literal["zero", "identity"] = "zero"
    dropout: float = 0.1
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5

    @property
    def feed_forward(self) -> int:
        """Inner width of SwiGLU: 8/3 of ``dim``, rounded up to a multiple of 256."""
        return -(-int(8 * self.dim / 3) // 256) * 256


class Mlp(nn.Module):
    """Two linear maps without biases, and a tanh GELU between them."""

    def __init__(self, inputs: int, dim: int) -> None:
        """Map ``inputs`` numbers to ``dim`` numbers."""
        super().__init__()
        self.fc1 = Linear(inputs, dim, bias=False)
        self.fc2 = Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., inputs] to [..., dim]."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class CaptionEmbedder(nn.Module):
    """Caption features to prefix embeddings; has the features of the unconditional caption."""

    def __init__(self, config: LlamaGenConfig) -> None:
        """Make the projection and the unconditional features."""
        super().__init__()
        self.cap_proj = Mlp(config.caption_dim, config.dim)
        self.uncond_embedding = nn.Parameter(
            torch.randn(config.prefix, config.caption_dim) / config.caption_dim**0.5
        )

    def forward(self, features: Tensor, unconditional: Tensor) -> Tensor:
        """Embed captions.

        Args:
            features: [batch, prefix, caption_dim].
            unconditional: bool [batch]; True replaces the caption by the unconditional one.

        Returns:
            [batch, prefix, dim].
        """
        features = torch.where(unconditional[:, None, None], self.uncond_embedding, features)
        return self.cap_proj(features)


def rotary_table(config: LlamaGenConfig) -> Tensor:
    """Cosines and sines [prefix + grid*grid, head_dim / 2, 2] of the 2-D rotary positions.

    The first half of a head's pairs encodes the row, the second half the column.
    """
    half = config.dim // config.heads // 2
    frequencies = config.rope_base ** -(torch.arange(0, half, 2)[: half // 2].float() / half)
    angles = torch.outer(torch.arange(config.grid).float(), frequencies)
    rows = angles[:, None].expand(-1, config.grid, -1)
    columns = angles[None].expand(config.grid, -1, -1)
    angles = torch.cat([rows, columns], dim=-1).flatten(0, 1)
    table = torch.stack([angles.cos(), angles.sin()], dim=-1)
    prefix = torch.zeros(config.prefix, *table.shape[1:])
    if config.prefix_rotation == "identity":
        prefix[..., 0] = 1.0
    return torch.cat([prefix, table])


def rotary_factors(rotation: Tensor) -> Tensor:
    """What each number of a head, and its neighbour in the pair, is multiplied by.

    Args:
        rotation: [..., head_dim / 2, 2] from :func:`rotary_table`.

    Returns:
        [2, ..., 1, head_dim]: cosines, then sines, with a minus for the first of each pair.
    """
    cosine, sine = rotation.unbind(-1)
    own = torch.stack([cosine, cosine], dim=-1)
    other = torch.stack([-sine, sine], dim=-1)
    return torch.stack([own, other]).flatten(-2)[..., None, :]


def rotate(x: Tensor, factors: Tensor) -> Tensor:
    """Rotate interleaved pairs of ``x`` [..., heads, head_dim].

    Args:
        x: queries or keys, or both.
        factors: from :func:`rotary_factors`.
    """
    neighbour = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return (x * factors[0] + neighbour * factors[1]).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with fused query, key and value weights."""

    def __init__(self, config: LlamaGenConfig) -> None:
        """Make the two projections."""
        super().__init__()
        self.heads = config.heads
        self.wqkv = Linear(config.dim, 3 * config.dim, bias=False)
        self.wo = Linear(config.dim, config.dim, bias=False)

    def forward(
        self,
        x: Tensor,
        rotation: Tensor,
        mask: Tensor,
        cache: LayerCache | None,
        attend: Attend = sdpa,
    ) -> Tensor:
        """Attend from ``x`` [..., dim] to itself or, with a cache, to all its slots."""
        # Heads of queries, as many of keys, as many of values.
        heads = self.wqkv(x).unflatten(-1, (3 * self.heads, -1))
        query, key = rotate(heads[..., : 2 * self.heads, :], rotation).chunk(2, dim=-2)
        value = heads[..., 2 * self.heads :, :]
        return self.wo(attend_through(cache, query, key, value, mask, attend))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: LlamaGenConfig) -> None:
        """Make the three projections."""
        super().__init__()
        self.w1 = Linear(config.dim, config.feed_forward, bias=False)
        self.w3 = Linear(config.dim, config.feed_forward, bias=False)
        self.w2 = Linear(config.feed_forward, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., dim] to the same shape."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class TransformerBlock(nn.Module):
    """Pre-normalised attention and feed-forward."""

    def __init__(self, config: LlamaGenConfig) -> None:
        """Make one block."""
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.ffn_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rotation: Tensor,
        mask: Tensor,
        cache: LayerCache | None,
        attend: Attend = sdpa,
    ) -> Tensor:
        """Map [..., dim] to the same shape."""
        attended = self.attention(self.attention_norm(x), rotation, mask, cache, attend)
        x = x + self.dropout(attended)
        return x + self.dropout(self.feed_forward(self.ffn_norm(x)))


class LlamaGen(nn.Module):
    """The transformer, from embeddings to hidden states; ``output`` maps these to logits."""

    rotary: Tensor
    block: Callable[..., Tensor]
    cls_embedding: nn.Module

    def __init__(self, config: LlamaGenConfig) -> None:
        """Make the layers with the original's initialisation (normal, 0.02)."""
        super().__init__()
        self.config = config
        self.tok_embeddings = nn.Embedding(config.vocabulary, config.dim)
        self.cls_embedding = CaptionEmbedder(config)
        self.layers = nn.ModuleList(TransformerBlock(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.output = Linear(config.dim, config.vocabulary, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.block = run_module
        self.register_buffer("rotary", rotary_table(config), persistent=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(self.output.weight)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Run the blocks.

        Args:
            x: input embeddings [batch, length, dim].
            positions: int64 [1 or batch, length], indices into prefix + raster order.
            mask: bool, broadcastable to [batch, heads, length, keys]; True = may attend.
            cache: if given, keys and values are written to its current slots, and queries attend
                to all its slots.

        Returns:
            Normalised hidden states [batch, length, dim]; apply ``output`` for logits.
        """
        rotation = self.rotary[positions]
        compiled = self.block is not run_module
        attend = fastest(cache, self.config.heads, x.shape[1], mask, compiled)
        if cache is not None:
            place = cache.leave_out_blanks()
            x, rotation = place.pack(x), place.pack(rotation)
        rotation = rotary_factors(rotation)
        for index, layer in enumerate(self.layers):
            slots = None if cache is None else cache.layer(index)
            x = self.block(layer, x, rotation, mask, slots, attend)
        return self.norm(x)

    def teacher_forced(
        self, features: Tensor, caption_mask: Tensor, unconditional: Tensor, tokens: Tensor
    ) -> Tensor:
        """Logits [batch, codes, vocabulary] of every code given all codes before it.

        Args:
            features: caption features [batch, prefix, caption_dim], captions at the right end.
            caption_mask: bool [batch, prefix], True where there is caption.
            unconditional: bool [batch]; True replaces the caption by the unconditional one.
            tokens: int64 [batch, codes] in raster order.
        """
        prefix = self.cls_embedding(features, unconditional)
        x = self.dropout(torch.cat([prefix, self.tok_embeddings(tokens[:, :-1])], dim=1))
        length = x.shape[1]
        positions = torch.arange(length, device=x.device)
        shown = F.pad(caption_mask, (0, length - caption_mask.shape[1]), value=True)
        hidden = self(x, positions[None], causal(shown, length))
        return self.output(hidden[:, self.config.prefix - 1 :])


class LlamaGenModel(BlockModel):
    """A LlamaGen that writes images; see :class:`pjd.decoder.model.ImageModel`.

    A subclass encodes prompts and decodes codes.

    Args:
        name: for labels.
        transformer: on its device, in its dtype.
        sampling: the model's own defaults for options of :class:`pjd.decoder.config.DecodeConfig`.
    """

    def __init__(self, name: str, transformer: LlamaGen, sampling: dict[str, float | int]) -> None:
        """Hold the transformer, in evaluation mode."""
        config = transformer.config
        cache_shape = (config.layers, config.heads, config.dim // config.heads)
        embedding, head = transformer.tok_embeddings, transformer.output
        grid = Grid(config.grid, config.grid)
        super().__init__(name, transformer, embedding, head, cache_shape, grid, sampling)

    def prefix(self, condition: Tensor, mask: Tensor, guided: bool) -> Prompt:
        """Embed conditions and, if ``guided``, as many unconditional ones.

        An unconditional prompt has the mask of its image's caption, as in the official code.

        Args:
            condition: what the transformer's ``cls_embedding`` takes, [batch, ...].
            mask: bool [batch, prefix], True where there is caption.
            guided: whether there is an unconditional branch.
        """
        branches = 2 if guided else 1
        unconditional = torch.arange(branches, device=self.device).repeat_interleave(len(mask)) == 1
        repeated = condition.repeat(branches, *[1] * (condition.ndim - 1))
        embeddings = self.transformer.cls_embedding(repeated, unconditional)
        positions = torch.arange(mask.shape[1], device=self.device).expand(len(embeddings), -1)
        return Prompt(embeddings, mask.repeat(branches, 1), positions)
