"""The image decoder of SBER's MoVQGAN (github.com/ai-forever/MoVQGAN): codes to pixels.

The network is that of Chameleon's VQGAN, with attention at the lowest resolution, and every
normalisation is modulated by the vectors of the codes (MoVQ, arXiv 2209.09002). Parameter names are
those of the official checkpoints.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import ChameleonVQVAEConfig

from pjd.models.chameleon_vq import UNUSED as UNUSED_VQ
from pjd.models.chameleon_vq import ChameleonVQ, normalisation
from pjd.models.checkpoint import fit, read
from pjd.models.tokenizer import to_uint8

MOVQ_270M = ChameleonVQVAEConfig(
    num_embeddings=16_384,
    embed_dim=4,
    latent_channels=4,
    resolution=256,
    base_channels=256,
    channel_multiplier=[1, 2, 2, 4],
    num_res_blocks=2,
    attn_resolutions=[32],
)
"""Sizes of the model of 270 million parameters, which its file does not say."""

UNUSED = (*UNUSED_VQ, "ema_")
"""Names of parameters that are not needed begin with these: they read images, or train."""


class SpatialNorm(nn.Module):
    """A group normalisation that the vectors of the codes scale and shift at each place.

    Args:
        channels: of what is normalised.
        width: of the vectors.
    """

    def __init__(self, channels: int, width: int) -> None:
        """Make the normalisation, and the maps to its scale and shift."""
        super().__init__()
        self.norm_layer = normalisation(channels)
        self.conv_y = nn.Conv2d(width, channels, 1)
        self.conv_b = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor, vectors: Tensor) -> Tensor:
        """Normalise ``x`` [batch, channels, height, width], by ``vectors`` [batch, width, R, C]."""
        scale, shift = (
            convolution(vectors)[:, :, :, None, :, None]
            for convolution in (self.conv_y, self.conv_b)
        )
        # [batch, channels, R, pixels, C, pixels]: all pixels of a code have its scale and shift, so
        # that neither exists for every pixel.
        normal = self.norm_layer(x)
        places = normal.unflatten(3, (vectors.shape[3], -1)).unflatten(2, (vectors.shape[2], -1))
        places.mul_(scale).add_(shift)
        return normal


class MoVQ(ChameleonVQ):
    """Codes to images, for a grid of any size.

    Args:
        config: sizes; a code stands for ``2 ** (levels - 1)`` pixels per side, 8 in the
            checkpoints.
    """

    def __init__(self, config: ChameleonVQVAEConfig) -> None:
        """Make the table of vectors and the decoder."""
        super().__init__(config, partial(SpatialNorm, width=config.embed_dim))

    def forward(self, ids: Tensor) -> Tensor:
        """Images uint8 [batch, height, width, 3] of codes int64 [batch, R, C]."""
        vectors = self.quantize.embedding(ids).permute(0, 3, 1, 2)
        return to_uint8(self.decoder(self.post_quant_conv(vectors), vectors))


def load_movq(path: Path, config: ChameleonVQVAEConfig) -> MoVQ:
    """The image decoder in an official file, in single precision.

    Args:
        path: of the file.
        config: gives the sizes.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: naming every tensor that is missing, unexpected or of another shape; or for a
            file that is damaged, or holds more than tensors.
    """
    tensors = read(path).items()
    with torch.device("meta"):
        vq = MoVQ(config)
    fit(vq, {name: t.float() for name, t in tensors if not name.startswith(UNUSED)}, str(path))
    return vq
