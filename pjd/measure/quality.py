"""More measures of image quality: torchmetrics with extractors that are on this machine.

By default they use EfficientNet-Lite0's features (:func:`pjd.measure.features.features`), which a
run has stored already; such numbers compare only with each other. Published FID, KID and IS need
your own copy of Inception's weights, and the CLIP score needs a CLIP.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pjd.errors import ParameterError
from pjd.measure.features import Lite0
from pjd.measure.fidelity import Interval


class Given(nn.Module):
    """An extractor whose inputs are already features."""

    def __init__(self, width: int) -> None:
        """Tell torchmetrics the number of features per image."""
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        """Return ``features``."""
        return features


def kernel_distance(first: Tensor, second: Tensor, subsets: int = 100, seed: int = 0) -> Interval:
    """Squared maximum mean discrepancy of two sets of features [n, d] (KID), by torchmetrics.

    Unlike the Frechet distance it is unbiased: its expectation does not depend on n.

    Args:
        first: features of one set.
        second: features of the other set.
        subsets: number of random halves to average over.
        seed: of the halves.

    Returns:
        Mean over the halves, and the interval of two standard deviations between them.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(len(first), len(second)) // 2
    metric = KernelInceptionDistance(Given(first.shape[1]), subsets=subsets, subset_size=size)
    metric.update(first, real=True)
    metric.update(second, real=False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        mean, deviation = (float(value) for value in metric.compute())
    return Interval(mean, mean - 2 * deviation, mean + 2 * deviation)


@torch.inference_mode()
def lite0_classes(features: Tensor) -> Tensor:
    """Logits [n, 1000] of EfficientNet-Lite0's classes from its features [n, 1280]."""
    logits: Tensor = Lite0().network._fc(features)
    return logits


def inception_score(logits: Tensor, splits: int = 10, seed: int = 0) -> Interval:
    """Inception Score, by torchmetrics.

    Args:
        logits: of classes, [n, classes], from :func:`inception` or :func:`lite0_classes`.
        splits: number of parts of the images, which are scored separately.
        seed: of the parts.

    Returns:
        Mean over the parts, and the interval of two standard deviations between them.
    """
    from torchmetrics.image.inception import InceptionScore

    metric = InceptionScore(Given(logits.shape[1]), splits=splits)
    metric.update(logits)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        mean, deviation = (float(value) for value in metric.compute())
    return Interval(mean, mean - 2 * deviation, mean + 2 * deviation)


@torch.inference_mode()
def inception(
    images: Tensor, weights: Path, output: Literal["2048", "logits_unbiased"], batch_size: int = 32
) -> Tensor:
    """Inception's outputs, from which published FID and KID, or IS, are computed.

    Args:
        images: uint8 [images, H, W, 3].
        weights: torch-fidelity's file of Inception's weights, ``weights-inception-2015-12-05``.
        output: which layer: "2048" for FID and KID, "logits_unbiased" for IS.
        batch_size: images per forward pass.

    Returns:
        Float [images, 2048] or [images, 1008].

    Raises:
        FileNotFoundError: if there is no such file.
        ParameterError: if torch-fidelity is not installed.
    """
    if not weights.exists():
        raise FileNotFoundError(f"no {weights}: FID as published needs Inception's weights there")
    from torchmetrics.image.fid import NoTrainInceptionV3

    try:
        extractor = NoTrainInceptionV3("inception-v3-compat", [output], str(weights))
    except ModuleNotFoundError as error:
        raise ParameterError(
            "inception", str(weights), "needs pip install torch-fidelity torchvision"
        ) from error
    parts = images.permute(0, 3, 1, 2).split(batch_size)
    return torch.cat([extractor(part) for part in parts])


@torch.inference_mode()
def clip_score(images: Tensor, prompts: list[str], folder: Path, batch_size: int = 32) -> float:
    """Mean CLIP score (100 times the cosine of image and prompt, at least 0), by torchmetrics.

    Args:
        images: uint8 [images, H, W, 3].
        prompts: one per image.
        folder: of a CLIP in transformers' format, such as ``openai/clip-vit-base-patch16``.
        batch_size: images per forward pass.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    from torchmetrics.multimodal.clip_score import CLIPScore
    from transformers import CLIPModel, CLIPProcessor

    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"no {folder / 'config.json'}: the CLIP score needs a CLIP there")

    def local() -> tuple[Any, Any]:
        """The model and its processor, as torchmetrics asks for them."""
        model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
        for part in ("get_image_features", "get_text_features"):
            setattr(model, part, pooled(getattr(model, part)))
        return model, CLIPProcessor.from_pretrained(folder, local_files_only=True)

    metric = CLIPScore(model_name_or_path=local)
    channels_first = images.permute(0, 3, 1, 2)
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        metric.update(list(channels_first[part]), prompts[part])
    return float(metric.compute())


def pooled(call: Any) -> Any:
    """Make a method of CLIP in transformers 5 return features, as torchmetrics expects."""

    def features(*arguments: Any, **named: Any) -> Tensor:
        output = call(*arguments, **named)
        return getattr(output, "pooler_output", output)

    return features
