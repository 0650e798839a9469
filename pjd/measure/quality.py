"""Measures of image quality from features of any network, by torchmetrics.

On EfficientNet-Lite0's features (:func:`pjd.measure.features.features`) such numbers compare only
with each other; :mod:`pjd.measure.published` has the networks that published numbers are on.
"""

import torch
from torch import Tensor, nn

from pjd.measure.features import Lite0, check_images
from pjd.measure.fidelity import Interval

LEAST_FOR_KERNEL = 4
"""Images of a kernel distance: halves of two."""

LEAST_FOR_INCEPTION = 20
"""Images of an Inception Score over ten parts: two per part, for one by itself scores 1."""


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

    Raises:
        ParameterError: for fewer than :data:`LEAST_FOR_KERNEL` images.
    """
    check_images("a kernel distance", min(len(first), len(second)), LEAST_FOR_KERNEL)
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
        logits: of classes, [n, classes], from :func:`lite0_classes` or
            :func:`pjd.measure.published.inception`.
        splits: number of parts of the images, which are scored separately.
        seed: of the parts.

    Returns:
        Mean over the parts, and the interval of two standard deviations between them.

    Raises:
        ParameterError: for fewer than two images per part: one by itself would score 1.
    """
    check_images(f"an Inception Score over {splits} parts", len(logits), 2 * splits)
    from torchmetrics.image.inception import InceptionScore

    metric = InceptionScore(Given(logits.shape[1]), splits=splits)
    metric.update(logits)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        mean, deviation = (float(value) for value in metric.compute())
    return Interval(mean, mean - 2 * deviation, mean + 2 * deviation)
