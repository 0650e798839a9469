"""The VQ image tokenizer of the emoji models: 4x4 pixels to one of 1024 codes, and back.

It is fully convolutional and normalises each pixel by itself. So one set of weights serves all
image sizes, and can be trained on small crops.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PixelNorm(nn.Module):
    """RMS normalisation over the channels of each pixel, with a learned gain."""

    def __init__(self, channels: int) -> None:
        """Make one gain per channel."""
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``x`` of shape [batch, channels, height, width]."""
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-6) * self.gain


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a residual path; starts as the identity."""

    def __init__(self, channels: int) -> None:
        """Make a block of ``channels`` in and out."""
        super().__init__()
        self.norm = PixelNorm(channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels, height, width] to the same shape."""
        return x + self.second(F.silu(self.first(self.norm(x))))


class Codebook(nn.Module):
    """The codebook: unit vectors, learned by exponential moving average with dead-code restart."""

    weight: Tensor
    usage: Tensor
    total: Tensor

    def __init__(self, codes: int, width: int, decay: float = 0.99) -> None:
        """Make ``codes`` unit vectors of ``width`` numbers each."""
        super().__init__()
        self.decay = decay
        self.register_buffer("weight", F.normalize(torch.randn(codes, width), dim=-1))
        self.register_buffer("usage", torch.ones(codes), persistent=False)
        self.register_buffer("total", self.weight.clone(), persistent=False)

    def nearest(self, z: Tensor) -> Tensor:
        """Codes [n] nearest to the unit vectors ``z`` [n, width]."""
        return (z @ self.weight.T).argmax(-1)

    @torch.no_grad()
    def learn(self, z: Tensor, ids: Tensor) -> None:
        """Move the vectors of the codes ``ids`` [n] towards the vectors ``z`` [n, width]."""
        codes = self.weight.shape[0]
        count = torch.bincount(ids, minlength=codes).to(z.dtype)
        total = torch.zeros_like(self.total).index_add_(0, ids, z)
        self.usage.mul_(self.decay).add_(count, alpha=1 - self.decay)
        self.total.mul_(self.decay).add_(total, alpha=1 - self.decay)
        # A code that is hardly ever picked restarts at one of the batch's own vectors.
        dead = self.usage < 0.05 * self.usage.mean()
        chosen = z[torch.randint(len(z), (codes,))]
        self.total[dead] = chosen[dead]
        self.usage[dead] = 1.0
        self.weight.copy_(F.normalize(self.total, dim=-1))

    @torch.no_grad()
    def start(self, z: Tensor, rounds: int = 10) -> None:
        """Initialise the codebook by spherical k-means over the unit vectors ``z`` [n, width]."""
        self.weight.copy_(z[torch.randperm(len(z))[: len(self.weight)]])
        for _ in range(rounds):
            ids = self.nearest(z)
            count = torch.bincount(ids, minlength=len(self.weight)).to(z.dtype)
            total = torch.zeros_like(self.weight).index_add_(0, ids, z)
            empty = count == 0
            total[empty] = z[torch.randint(len(z), (int(empty.sum()),))]
            self.weight.copy_(F.normalize(total, dim=-1))
        self.usage.copy_(count.clamp(min=1.0))
        self.total.copy_(self.weight * self.usage[:, None])


class Tokenizer(nn.Module):
    """VQ autoencoder with a reduction of 4: [H, W] pixels to [H/4, W/4] codes.

    Args:
        codes: size of the codebook.
        width: of a code's vector.
        channels: feature channels at half and at a quarter of the resolution.
        blocks: residual blocks at half and at a quarter of the resolution, in the encoder and in
            the decoder each.
        shuffle: seed of a fixed random order of the codes of an image, in which neighbouring
            codes do not help to predict each other: a control for decoders that rely on
            locality. None: raster order.
    """

    reduction = 4

    def __init__(
        self,
        codes: int = 1024,
        width: int = 8,
        channels: tuple[int, int] = (64, 128),
        blocks: tuple[int, int] = (1, 3),
        shuffle: int | None = None,
    ) -> None:
        """Make the encoder, the codebook and the decoder."""
        super().__init__()
        self.shuffle = shuffle
        fine, coarse = channels
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, fine, 3, padding=1),
            *[ResidualBlock(fine) for _ in range(blocks[0])],
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * fine, coarse, 1),
            *[ResidualBlock(coarse) for _ in range(blocks[1])],
            PixelNorm(coarse),
            nn.Conv2d(coarse, width, 1),
        )
        self.codebook = Codebook(codes, width)
        self.decoder = nn.Sequential(
            nn.Conv2d(width, coarse, 3, padding=1),
            *[ResidualBlock(coarse) for _ in range(blocks[1])],
            nn.Conv2d(coarse, 4 * fine, 1),
            nn.PixelShuffle(2),
            *[ResidualBlock(fine) for _ in range(blocks[0])],
            PixelNorm(fine),
            nn.Conv2d(fine, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors [batch, R, C, width], not quantised, of ``images`` in [-1, 1]."""
        return F.normalize(self.encoder(images).permute(0, 2, 3, 1), dim=-1)

    def render(self, vectors: Tensor) -> Tensor:
        """Images [batch, 3, 4*R, 4*C] in about [-1, 1] of vectors [batch, R, C, width]."""
        return self.decoder(vectors.permute(0, 3, 1, 2))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Codes int64 [batch, R, C] of uint8 ``images`` [batch, H, W, 3]."""
        vectors = self.embed(to_float(images))
        ids = self.codebook.nearest(vectors.flatten(0, 2)).view(vectors.shape[:3])
        return self.in_code_order(ids.flatten(1)).view(ids.shape)

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        """Images uint8 [batch, 4*R, 4*C, 3] of codes int64 [batch, R, C]."""
        position = self.in_code_order(torch.arange(ids[0].numel(), device=ids.device)[None])
        ids = ids.flatten(1)[:, position[0].argsort()].view(ids.shape)
        return to_uint8(self.render(self.codebook.weight[ids]))

    def in_code_order(self, values: Tensor) -> Tensor:
        """Reorder values [batch, R * C] of patches, from raster order to the order of the codes."""
        if self.shuffle is None:
            return values
        random = torch.Generator().manual_seed(self.shuffle)
        order = torch.randperm(values.shape[1], generator=random, device="cpu")
        return values[:, order.to(values.device)]


def to_float(images: Tensor) -> Tensor:
    """Turn uint8 [batch, H, W, 3] into float [batch, 3, H, W] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Turn float [batch, 3, H, W] in [-1, 1] into uint8 [batch, H, W, 3]."""
    return ((images.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, [batch], of ``images`` uint8 [batch, H, W, 3]."""
    error = (images.float() - references.float()).square().flatten(1).mean(1)
    return 10 * torch.log10(255.0**2 / error.clamp(min=1e-3))
