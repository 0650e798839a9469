"""The image decoder of Chameleon's VQGAN (arXiv 2405.09818, 2203.13131): codes to pixels.

transformers has only the encoder. Parameter names are those of the original checkpoint, which the
Anole repository has below ``model.vqmodel``. Sizes come from ``ChameleonVQVAEConfig``.

At the highest resolution a tensor takes hundreds of megabytes. So what only this network holds is
changed in place, and let go before the next is made: three such tensors exist at once. Every pixel
is what it would be otherwise.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise, zip_longest
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ChameleonVQVAEConfig

from pjd.models.pixels import truncate

UNUSED = ("encoder.", "quant_conv.", "loss.")
"""Names of parameters that are not needed begin with these: they read images, or train."""


def normalisation(channels: int) -> nn.GroupNorm:
    """The group normalisation that the whole network uses."""
    return nn.GroupNorm(32, channels, eps=1e-6)


Normalisation = Callable[[int], nn.Module]
"""From a number of channels to their normalisation. What it takes beside its input, its condition,
is handed on by all blocks; here there is none."""


class ResidualBlock(nn.Module):
    """Two normalised 3x3 convolutions around a residual path."""

    def __init__(self, inputs: int, channels: int, norm: Normalisation = normalisation) -> None:
        """Map ``inputs`` channels to ``channels``."""
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = nn.Conv2d(inputs, channels, 3, padding=1)
        self.norm2 = norm(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.nin_shortcut = nn.Identity() if inputs == channels else nn.Conv2d(inputs, channels, 1)

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        """Map [batch, inputs, height, width] to [batch, channels, height, width]."""
        inner = self.conv1(F.silu(self.norm1(x, *condition), inplace=True))
        # Under the same name, so that what was normalised is freed before the next convolution.
        inner = self.norm2(inner, *condition)
        inner = self.conv2(F.silu(inner, inplace=True))
        return inner.add_(self.nin_shortcut(x))


class AttentionBlock(nn.Module):
    """Self-attention with one head over all positions of the picture."""

    def __init__(self, channels: int, norm: Normalisation = normalisation) -> None:
        """Make the four projections."""
        super().__init__()
        self.norm = norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        """Map [batch, channels, height, width] to the same shape."""
        inner = self.norm(x, *condition)
        query, key, value = (
            projection(inner).flatten(2).transpose(1, 2)[:, None]
            for projection in (self.q, self.k, self.v)
        )
        out = F.scaled_dot_product_attention(query, key, value)[:, 0]
        return x + self.proj_out(out.transpose(1, 2).unflatten(2, x.shape[2:]))


class Upsample(nn.Module):
    """Twice the resolution, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        """Make the convolution."""
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        """Map [batch, channels, height, width] to [batch, channels, 2*height, 2*width]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The blocks of one resolution, and the upsampling to the next.

    Args:
        sizes: channels before the first residual block, and after each.
        norm: the normalisation.
        attends: whether attention follows each residual block.
        last: whether there is no upsampling.
    """

    def __init__(self, sizes: list[int], norm: Normalisation, attends: bool, last: bool) -> None:
        """Make the blocks."""
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(before, after, norm) for before, after in pairwise(sizes)
        )
        attended = sizes[1:] if attends else []
        self.attn = nn.ModuleList(AttentionBlock(channels, norm) for channels in attended)
        self.upsample = None if last else Upsample(sizes[-1])

    def steps(self) -> Iterator[nn.Module]:
        """What an input goes through, one after the other.

        The level runs none itself: it would hold its own input until the last one is done.
        """
        for block, attention in zip_longest(self.block, self.attn):
            yield from filter(None, (block, attention))
        if self.upsample is not None:
            yield self.upsample


class Middle(nn.Module):
    """Two residual blocks at the lowest resolution, with attention between them."""

    def __init__(self, channels: int, norm: Normalisation) -> None:
        """Make the blocks."""
        super().__init__()
        self.block_1 = ResidualBlock(channels, channels, norm)
        self.attn_1 = AttentionBlock(channels, norm)
        self.block_2 = ResidualBlock(channels, channels, norm)

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        """Map [batch, channels, height, width] to the same shape."""
        for block in (self.block_1, self.attn_1, self.block_2):
            x = block(x, *condition)
        return x


class Decoder(nn.Module):
    """Latents to pixels; ``up[0]`` is the highest resolution, as in the original.

    Args:
        config: sizes; ``attn_resolutions`` are those of an image of ``resolution`` pixels.
        norm: the normalisation.
    """

    def __init__(self, config: ChameleonVQVAEConfig, norm: Normalisation) -> None:
        """Make the levels."""
        super().__init__()
        channels = [config.base_channels * factor for factor in config.channel_multiplier]
        attended = config.attn_resolutions or []
        self.conv_in = nn.Conv2d(config.latent_channels, channels[-1], 3, padding=1)
        self.mid = Middle(channels[-1], norm)
        self.up = nn.ModuleList(
            Level(
                [inputs] + [own] * (config.num_res_blocks + 1),
                norm,
                attends=config.resolution // 2**level in attended,
                last=level == 0,
            )
            for level, (own, inputs) in enumerate(pairwise([*channels, channels[-1]]))
        )
        self.norm_out = norm(channels[0])
        self.conv_out = nn.Conv2d(channels[0], config.in_channels, 3, padding=1)

    def forward(self, latents: Tensor, *condition: Tensor) -> Tensor:
        """Map [batch, latent_channels, h, w] to [batch, 3, height, width] in about [-1, 1]."""
        x = self.mid(self.conv_in(latents), *condition)
        for level in reversed(self.up):
            for step in cast(Level, level).steps():
                x = step(x, *condition)
        x = self.norm_out(x, *condition)
        return self.conv_out(F.silu(x, inplace=True))


class Quantizer(nn.Module):
    """The vectors of the codes, not normalised."""

    def __init__(self, codes: int, width: int) -> None:
        """Make the table."""
        super().__init__()
        self.embedding = nn.Embedding(codes, width)


class ChameleonVQ(nn.Module):
    """Codes to images, for a grid of any size.

    Args:
        config: sizes; a code stands for ``2 ** (levels - 1)`` pixels per side, 16 in the
            checkpoints.
        norm: the normalisation.
    """

    def __init__(self, config: ChameleonVQVAEConfig, norm: Normalisation = normalisation) -> None:
        """Make the table of vectors and the decoder."""
        super().__init__()
        self.reduction = 2 ** (len(config.channel_multiplier) - 1)
        self.quantize = Quantizer(config.num_embeddings, config.embed_dim)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.latent_channels, 1)
        self.decoder = Decoder(config, norm)

    def forward(self, ids: Tensor) -> Tensor:
        """Images uint8 [batch, height, width, 3] of codes int64 [batch, R, C]."""
        vectors = self.quantize.embedding(ids).permute(0, 3, 1, 2)
        return truncate(self.decoder(self.post_quant_conv(vectors)))
