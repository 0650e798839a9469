"""More measures of image quality: torchmetrics on extractors that are on this machine.

By default they take EfficientNet-Lite0's features (:func:`pjd.measure.fidelity.features`), which a
run has stored already; such numbers compare with each other only, and carry the extractor's name.
FID, KID and IS as published take an Inception of yours, the CLIP score a CLIP of yours.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pjd.errors import ParameterError
from pjd.measure.features import Lite0
from pjd.measure.fidelity import Interval


class Given(nn.Module):
    """An extractor that is handed the features themselves."""

    def __init__(self, width: int) -> None:
        """Tell torchmetrics how many there are."""
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
        second: features of the other.
        subsets: random halves to average over.
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
    """Logits [n, 1000] of EfficientNet-Lite0's classes, of its features [n, 1280]."""
    logits: Tensor = Lite0().network._fc(features)
    return logits


def inception_score(logits: Tensor, splits: int = 10, seed: int = 0) -> Interval:
    """Inception Score, by torchmetrics.

    Args:
        logits: of classes, [n, classes]: Inception's (:func:`inception`), or those of
            :func:`lite0_classes`.
        splits: parts of the images, each scored by itself.
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
    """What FID and KID ("2048") or IS ("logits_unbiased") as published are computed from.

    Args:
        images: uint8 [images, H, W, 3].
        weights: torch-fidelity's file of Inception's weights, ``weights-inception-2015-12-05``.
        output: which layer.
        batch_size: images a forward.

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
        prompts: one an image.
        folder: of a CLIP in transformers' form, such as ``openai/clip-vit-base-patch16``.
        batch_size: images a forward.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    from torchmetrics.multimodal.clip_score import CLIPScore
    from transformers import CLIPModel, CLIPProcessor

    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"no {folder / 'config.json'}: the CLIP score needs a CLIP there")

    def local() -> tuple[Any, Any]:
        """The model and what prepares its inputs, as torchmetrics asks for them."""
        model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
        for part in ("get_image_features", "get_text_features"):
            setattr(model, part, pooled(getattr(model, part)))
        return model, CLIPProcessor.from_pretrained(folder, local_files_only=True)

    metric = CLIPScore(model_name_or_path=local)
    pictures = images.permute(0, 3, 1, 2)
    for first in range(0, len(prompts), batch_size):
        part = slice(first, first + batch_size)
        metric.update(list(pictures[part]), prompts[part])
    return float(metric.compute())


def pooled(call: Any) -> Any:
    """Make a method of transformers 5's CLIP return features, as torchmetrics expects."""

    def features(*arguments: Any, **named: Any) -> Tensor:
        found = call(*arguments, **named)
        return getattr(found, "pooler_output", found)

    return features
