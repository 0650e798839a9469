"""The image decoder of LlamaGen's VQ tokenizers (arXiv 2406.06525): codes to pixels.

The network is that of Chameleon's VQGAN, with attention at the lowest resolution and with unit
vectors as codebook. Parameter names are those of the official checkpoints (``vq_ds16_c2i.pt`` and
others).
"""

import torch.nn.functional as F
from torch import Tensor, nn

from pjd.models.chameleon_vq import (
    AttentionBlock,
    Quantizer,
    ResidualBlock,
    Upsample,
    normalisation,
)
from pjd.models.tokenizer import to_uint8

UNUSED = ("encoder.", "quant_conv.", "quantize.codebook_used")
"""Names of parameters that are not needed begin with these: they read images, or train."""

MULTIPLIERS = {4: (1, 2, 2, 4), 5: (1, 1, 2, 2, 4)}
"""Channels at each resolution in units of the base, the highest resolution first, by the number of
resolutions: 4 in VQ-8, 5 in VQ-16."""


class Level(nn.Module):
    """The blocks of one resolution, and the upsampling to the next.

    Args:
        inputs: channels in.
        channels: channels out.
        blocks: residual blocks.
        attends: whether attention follows each of them.
        last: whether there is no upsampling.
    """

    def __init__(self, inputs: int, channels: int, blocks: int, attends: bool, last: bool) -> None:
        """Make the blocks."""
        super().__init__()
        self.res = nn.ModuleList(
            ResidualBlock(inputs if number == 0 else channels, channels) for number in range(blocks)
        )
        # An identity has no parameters, so that names are as in the original without attention.
        attention = AttentionBlock if attends else nn.Identity
        self.attn = nn.ModuleList(attention(channels) for _ in range(blocks))
        self.upsample = nn.Identity() if last else Upsample(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, inputs, height, width] to [batch, channels, ...], larger if not the last."""
        for block, attention in zip(self.res, self.attn, strict=True):
            x = attention(block(x))
        return self.upsample(x)


class Decoder(nn.Module):
    """Latents to pixels; ``conv_blocks[0]`` is the lowest resolution, as in the original.

    Args:
        multipliers: channels at each resolution in units of ``base``, the highest first.
        base: the unit.
        latent: channels of the latents.
        blocks: residual blocks at each resolution.
    """

    def __init__(self, multipliers: tuple[int, ...], base: int, latent: int, blocks: int) -> None:
        """Make the levels."""
        super().__init__()
        channels = [base * factor for factor in reversed(multipliers)]
        lowest = channels[0]
        self.conv_in = nn.Conv2d(latent, lowest, 3, padding=1)
        self.mid = nn.ModuleList(
            [ResidualBlock(lowest, lowest), AttentionBlock(lowest), ResidualBlock(lowest, lowest)]
        )
        self.conv_blocks = nn.ModuleList(
            Level(before, own, blocks, attends=level == 0, last=level == len(channels) - 1)
            for level, (before, own) in enumerate(zip([lowest, *channels], channels, strict=False))
        )
        self.norm_out = normalisation(channels[-1])
        self.conv_out = nn.Conv2d(channels[-1], 3, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        """Map [batch, latent, h, w] to [batch, 3, height, width] in about [-1, 1]."""
        x = self.conv_in(latents)
        for block in (*self.mid, *self.conv_blocks):
            x = block(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class LlamaGenVQ(nn.Module):
    """Codes to images.

    Args:
        levels: resolutions, 5 (VQ-16) or 4 (VQ-8); a code stands for ``2 ** (levels - 1)`` pixels
            per side.
        codes: number of codes.
        width: of a code's vector.
        base: channels at the highest resolution; a multiple of 32.
        latent: channels of the latents.
        blocks: residual blocks at each resolution of the decoder.
    """

    def __init__(
        self,
        levels: int,
        codes: int = 16_384,
        width: int = 8,
        base: int = 128,
        latent: int = 256,
        blocks: int = 3,
    ) -> None:
        """Make the table of vectors and the decoder."""
        super().__init__()
        self.reduction = 2 ** (levels - 1)
        self.quantize = Quantizer(codes, width)
        self.post_quant_conv = nn.Conv2d(width, latent, 1)
        self.decoder = Decoder(MULTIPLIERS[levels], base, latent, blocks)

    @property
    def codebook(self) -> Tensor:
        """Unit vectors of the codes, float [codes, width]."""
        return F.normalize(self.quantize.embedding.weight, dim=-1)

    def forward(self, ids: Tensor) -> Tensor:
        """Images uint8 [batch, height, width, 3] of codes int64 [batch, R, C]."""
        vectors = F.normalize(self.quantize.embedding(ids), dim=-1).permute(0, 3, 1, 2)
        return to_uint8(self.decoder(self.post_quant_conv(vectors)))
