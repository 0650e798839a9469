"""From a decoder's pixels to bytes, as the official code of each model has it."""

import torch
from torch import Tensor


def scaled(images: Tensor) -> Tensor:
    """Numbers [batch, H, W, 3] from 0 to 255 of images [batch, 3, H, W] in about [-1, 1]."""
    images = images.float().permute(0, 2, 3, 1).clamp(-1, 1)
    return (images + 1) / 2 * 255


def truncate(images: Tensor) -> Tensor:
    """Bytes [batch, H, W, 3] of images [batch, 3, H, W] in about [-1, 1], rounded down.

    So do the official scripts of Lumina-mGPT, Anole and Janus. Those of LlamaGen round to the
    nearest, as :func:`pjd.models.tokenizer.to_uint8` does.
    """
    return scaled(images).to(torch.uint8)


def nearest(images: Tensor) -> Tensor:
    """Bytes [batch, H, W, 3] of images [batch, 3, H, W] in about [-1, 1], a half rounded up.

    So does torchvision's ``save_image`` with ``normalize=True, value_range=(-1, 1)``, which the
    official script of SimpleAR calls, in single precision.
    """
    return (scaled(images) + 0.5).to(torch.uint8)
