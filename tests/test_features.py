"""Features of images: the Frechet distance, and codes whose patch is flat."""

import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from pjd.measure.features import flat_codes, frechet
from pjd.measure.quality import Given


def test_the_frechet_distance_of_shifted_sets_is_their_shift_squared():
    points = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    assert frechet(points, points) == pytest.approx(0, abs=1e-4)
    assert frechet(points, points + 2) == pytest.approx(4 * 2**2, rel=1e-3)


@pytest.mark.parametrize(("images", "width"), [(40, 60), (300, 16)])
def test_the_frechet_distance_is_that_of_torchmetrics(images, width):
    torch.manual_seed(0)
    first, second = torch.randn(2, images, width) @ torch.randn(width, width)
    metric = FrechetInceptionDistance(feature=Given(width))
    metric.update(first, real=True)
    metric.update(second + 0.5, real=False)
    assert frechet(first, second + 0.5) == pytest.approx(float(metric.compute()), rel=1e-3)


def test_a_flat_code_is_one_whose_patch_has_one_colour():
    images = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    images[0, 0, 7] = 100
    assert flat_codes(images, 4).tolist() == [[True, False, True, True]]
