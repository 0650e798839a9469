"""Counter-based randomness."""

import torch
from scipy.stats import chisquare

from pjd.decoder.noise import hashed, streams, uniform


def test_noise_is_uniform_and_depends_on_every_key():
    base = uniform(5, 1, torch.arange(100_000))
    assert abs(base.mean() - 0.5) < 0.005
    assert chisquare(torch.histc(base, 64, 0, 1)).pvalue > 1e-3
    for keys in [(6, 1), (5, 2), (5 + 2**32, 1)]:
        other = uniform(*keys, torch.arange(100_000))
        assert abs(torch.corrcoef(torch.stack([base, other]))[0, 1]) < 0.02


def test_a_number_depends_on_its_keys_and_not_on_what_was_drawn_with_it():
    seeds, positions = torch.arange(3)[:, None], torch.arange(5)
    together = uniform(seeds, 7, positions)
    assert together.shape == (3, 5)
    assert together[2, 4] == uniform(2, 7, 4)
    # Keys may be hashed one after another; the streams of a seed are such a beginning.
    assert torch.equal(uniform(positions, state=hashed(seeds, 7)), together)
    assert streams(torch.tensor([2]))[0, 1] == hashed(2, 1)
