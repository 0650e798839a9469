import pytest
import torch
from scipy.stats import chisquare

from pjd.noise import uniform
from pjd.sampling import draw
from pjd.verify import residual, verify

DRAWS = 40_000
TARGET = torch.tensor([0.5, 0.3, 0.2, 0.0])
PROPOSALS = {
    "one-hot": [0.0, 1.0, 0.0, 0.0],
    "uniform": [0.25, 0.25, 0.25, 0.25],
    "disjoint": [0.0, 0.0, 0.0, 1.0],
    "truncated": [0.0, 0.6, 0.4, 0.0],
    "equal": [0.5, 0.3, 0.2, 0.0],
}


def outcomes(proposal: torch.Tensor, broken: bool = False) -> torch.Tensor:
    """First committed token of ``DRAWS`` verifications of one draft drawn from ``proposal``."""
    number = torch.arange(DRAWS)
    drafts = draw(proposal.expand(DRAWS, -1), uniform(1, 9, number))
    p = TARGET.expand(DRAWS, 2, -1)
    q = torch.stack([proposal.expand(DRAWS, -1), torch.zeros(DRAWS, 4)], dim=1)
    tokens = torch.stack([drafts, torch.zeros_like(drafts)], dim=1)
    ones = torch.ones(DRAWS, dtype=torch.long)
    coins = uniform(2, 9, number)[:, None].expand(-1, 2)
    noise = uniform(3, 9, number)[:, None].expand(-1, 2)
    if broken:
        q_residual = torch.zeros_like(q)
        accepted = verify(p, q, tokens, ones, 2 * ones, ones.bool(), coins, noise).accepted
        fresh = verify(p, q_residual, tokens, 0 * ones, 2 * ones, ones.bool(), coins, noise)
        return torch.where(accepted > 0, drafts, fresh.tokens[:, 0])
    return verify(p, q, tokens, ones, 2 * ones, ones.bool(), coins, noise).tokens[:, 0]


def p_value(tokens: torch.Tensor) -> float:
    counts = torch.bincount(tokens, minlength=4).double()
    assert counts[3] == 0
    return float(chisquare(counts[:3], TARGET[:3].double() * DRAWS).pvalue)


@pytest.mark.parametrize("name", PROPOSALS)
def test_committed_token_has_the_target_distribution(name):
    assert p_value(outcomes(torch.tensor(PROPOSALS[name]))) > 1e-3


def test_the_test_has_teeth():
    # Without the residual (a rejected draft replaced from p) the same check fails.
    assert p_value(outcomes(torch.tensor(PROPOSALS["truncated"]), broken=True)) < 1e-6


def test_an_empty_residual_falls_back_to_the_target():
    assert torch.equal(residual(TARGET, TARGET), TARGET)


@pytest.mark.parametrize(("coin", "expected"), [(0.0, 3), (0.999, 0)])
def test_always_and_never_accept(coin, expected):
    p = torch.full((1, 4, 5), 0.2)
    q = torch.full((1, 4, 5), 0.2 if coin == 0 else 1.0)
    three = torch.tensor([3])
    verdict = verify(
        p,
        q,
        torch.tensor([[1, 2, 3, 0]]),
        three,
        torch.tensor([9]),
        torch.tensor([True]),
        torch.full((1, 4), coin),
        torch.full((1, 4), 0.5),
    )
    assert verdict.accepted.item() == expected
    assert verdict.committed.item() == expected + 1


def test_a_row_without_resampling_commits_accepted_drafts_only():
    p, q = torch.full((1, 3, 4), 0.25), torch.full((1, 3, 4), 0.25)
    two = torch.tensor([2])
    no = torch.tensor([False])
    coins = torch.tensor([[0.0, 0.999999, 0.0]])
    verdict = verify(
        p, q * 2, torch.tensor([[1, 2, 0]]), two, two, no, coins, torch.full((1, 3), 0.5)
    )
    assert verdict.accepted.item() == verdict.committed.item() == 1


def test_room_limits_what_is_committed():
    p = q = torch.full((1, 4, 4), 0.25)
    verdict = verify(
        p,
        q,
        torch.tensor([[1, 2, 3, 0]]),
        torch.tensor([3]),
        torch.tensor([2]),
        torch.tensor([True]),
        torch.zeros(1, 4),
        torch.full((1, 4), 0.5),
    )
    assert verdict.committed.item() == 2


def test_draw_never_takes_a_token_of_zero_weight():
    weights = torch.tensor([0.0, 1e-8, 0.0, 0.7, 0.0])
    edges = torch.tensor([0.0, 1e-9, 0.5, 1 - 2.0**-24])
    assert set(draw(weights.expand(4, -1), edges).tolist()) <= {1, 3}


def test_noise_is_uniform_and_depends_on_every_key():
    base = uniform(5, 1, torch.arange(100_000))
    assert abs(base.mean() - 0.5) < 0.005
    assert chisquare(torch.histc(base, 64, 0, 1)).pvalue > 1e-3
    for keys in [(6, 1), (5, 2), (5 + 2**32, 1)]:
        other = uniform(*keys, torch.arange(100_000))
        assert abs(torch.corrcoef(torch.stack([base, other]))[0, 1]) < 0.02
