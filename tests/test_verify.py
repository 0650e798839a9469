import pytest
import torch
from scipy.stats import chisquare

from pjd.decoder.acceptance import ACCEPT_RULES, AcceptInputs, AcceptRule, ratio
from pjd.decoder.methods import configure
from pjd.decoder.noise import Noise, uniform
from pjd.decoder.queries import Queries
from pjd.decoder.sampling import gumbel_sample, inverse_cdf_sample
from pjd.decoder.schedule import Band
from pjd.decoder.verify import Drafts, verify

DRAWS = 40_000
TARGET = torch.tensor([0.5, 0.3, 0.2, 0.0])
PROPOSALS = {
    "one-hot": [0.0, 1.0, 0.0, 0.0],
    "uniform": [0.25, 0.25, 0.25, 0.25],
    "disjoint": [0.0, 0.0, 0.0, 1.0],
    "truncated": [0.0, 0.6, 0.4, 0.0],
    "equal": [0.5, 0.3, 0.2, 0.0],
}


def verified(
    target, proposal, tokens, drafts, max_commits, resample, coins, noise, rule="ratio", **options
):
    """Verify windows of one lane each; fresh drafts and no groups unless told."""
    depth = torch.arange(tokens.shape[1]).expand_as(tokens)
    done = verify(
        target,
        Drafts(tokens, proposal),
        queries_of(torch.zeros_like(tokens), depth),
        band_of(drafts[:, None], max_commits[:, None], resample[:, None]),
        Noise(coins, noise),
        configure("sjd", accept=rule, **options),
        torch.eye(target.shape[-1]),
    )
    assert done.accepted.shape == done.committed.shape == (len(tokens), 1)
    return done


def queries_of(lane: torch.Tensor, depth: torch.Tensor) -> Queries:
    """Queries of which only lane and depth matter."""
    return Queries(*[torch.zeros_like(lane)] * 6, lane, depth, lane[:, :1] < 0)


def band_of(n_drafts: torch.Tensor, max_commits: torch.Tensor, resample: torch.Tensor) -> Band:
    """A band of which only the limits matter."""
    zeros = torch.zeros_like(n_drafts)
    return Band(zeros[:, :1], zeros, zeros, zeros == 0, n_drafts, max_commits, resample)


def test_lanes_stop_at_their_own_first_failure_wherever_their_queries_stand():
    # Two lanes, their queries in mixed order, and a blank: lane 0 fails at depth 1, lane 1 never.
    lane, depth = torch.tensor([[1, 0, 2, 1, 0, 0]]), torch.tensor([[1, 2, 0, 0, 0, 1]])
    p = torch.full((1, 6, 4), 0.25)
    q = torch.where((lane == 0) & (depth == 1), 1.0, 0.25)[..., None].expand_as(p)
    limits = torch.tensor([[3, 2]])
    done = verify(
        p,
        Drafts(torch.zeros_like(lane), q),
        queries_of(lane, depth),
        band_of(limits, limits, limits > 0),
        Noise(torch.full((1, 6), 0.5), torch.full((1, 6), 0.9)),
        configure("sjd"),
        torch.eye(4),
    )
    assert done.accepted.tolist() == [[1, 2]]
    assert done.committed.tolist() == [[2, 2]]
    # Kept: both of lane 1, the first of lane 0; everything else is drawn.
    assert done.drafts.tokens.tolist() == [[0, 3, 3, 0, 0, 3]]
    assert done.variation[0, 2] == 0


def outcomes(
    proposal: torch.Tensor, rule: str | AcceptRule = "ratio", redraft: str = "fresh"
) -> torch.Tensor:
    """First committed token of ``DRAWS`` verifications of one draft drawn from ``proposal``."""
    number = torch.arange(DRAWS)
    drafts = inverse_cdf_sample(proposal.expand(DRAWS, -1), uniform(1, 9, number))
    p = TARGET.expand(DRAWS, 2, -1)
    q = torch.stack([proposal.expand(DRAWS, -1), torch.zeros(DRAWS, 4)], dim=1)
    tokens = torch.stack([drafts, torch.zeros_like(drafts)], dim=1)
    ones = torch.ones(DRAWS, dtype=torch.long)
    coins = uniform(2, 9, number)[:, None].expand(-1, 2)
    noise = uniform(3, 9, number)[:, None].expand(-1, 2)
    done = verified(p, q, tokens, ones, 2 * ones, ones.bool(), coins, noise, rule, redraft=redraft)
    return done.drafts.tokens[:, 0]


def p_value(tokens: torch.Tensor) -> float:
    counts = torch.bincount(tokens, minlength=4).double()
    assert counts[3] == 0
    return float(chisquare(counts[:3], TARGET[:3].double() * DRAWS).pvalue)


@pytest.mark.parametrize("redraft", ["fresh", "coupled"])
@pytest.mark.parametrize("name", PROPOSALS)
def test_committed_token_has_the_target_distribution(name, redraft):
    assert p_value(outcomes(torch.tensor(PROPOSALS[name]), redraft=redraft)) > 1e-3


def test_a_draft_that_is_drawn_again_has_the_target_distribution():
    assert p_value(outcomes(torch.tensor(PROPOSALS["uniform"]), "match")) > 1e-3


def test_the_test_has_teeth():
    # Without the residual (a rejected draft replaced from p) the same check fails.
    broken = AcceptRule(ratio, correction="sampled")
    assert p_value(outcomes(torch.tensor(PROPOSALS["truncated"]), broken)) < 1e-6


def test_a_row_that_postpones_its_rejections_prefers_what_was_likely_before():
    # p uniform on {A, B}, q uniform on {B, C}. Without a residual a rejected draft
    # is drawn from p and tested again, against itself: B ends up with 3/4 instead of 1/2.
    number = torch.arange(DRAWS)
    q = torch.tensor([0.0, 0.5, 0.5, 0.0]).expand(DRAWS, 1, -1)
    p = torch.tensor([0.5, 0.5, 0.0, 0.0]).expand(DRAWS, 1, -1)
    tokens = inverse_cdf_sample(q, uniform(1, 9, number)[:, None])
    ones = torch.ones(DRAWS, dtype=torch.long)
    for share, resample in ((0.75, False), (0.5, True)):
        coins, noise = uniform(2, 9, number)[:, None], uniform(3, 9, number)[:, None]
        done = verified(p, q, tokens, ones, ones, ones.bool() & resample, coins, noise)
        # What is not committed now is committed in the next iteration: p has become q.
        assert abs((done.drafts.tokens == 1).double().mean() - share) < 0.01


def test_coupled_drafts_change_no_more_than_their_distribution_does():
    # Behind the first rejection too: the second draft stays with probability 1 - TV(p, q).
    number = torch.arange(DRAWS)
    q = torch.tensor([0.1, 0.4, 0.3, 0.2])
    p = torch.tensor([0.3, 0.3, 0.2, 0.2])
    tokens = torch.stack(
        [torch.zeros_like(number), inverse_cdf_sample(q.expand(DRAWS, -1), uniform(1, 9, number))],
        1,
    )
    first_p, first_q = torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0, 0.0])
    two = torch.full((DRAWS,), 2)
    done = verified(
        torch.stack([first_p, p]).expand(DRAWS, -1, -1),
        torch.stack([first_q, q]).expand(DRAWS, -1, -1),
        tokens,
        two,
        two,
        two > 0,
        uniform(2, 9, torch.stack([number, number + DRAWS], 1)),
        uniform(3, 9, torch.stack([number, number + DRAWS], 1)),
        redraft="coupled",
    )
    assert (done.accepted == 0).all() and (done.committed == 1).all()
    second = done.drafts.tokens[:, 1]
    variation = 0.5 * (p - q).abs().sum()
    assert abs((second == tokens[:, 1]).double().mean() - (1 - variation)) < 0.01
    torch.testing.assert_close(done.variation[0], torch.tensor([1.0, float(variation)]))
    expected = p.double() / p.double().sum() * DRAWS
    assert chisquare(torch.bincount(second, minlength=4), expected).pvalue > 1e-3
    assert torch.equal(done.drafts.probs[0, 1], p)


def test_released_drafts_stay_with_their_old_distribution_if_half_as_likely():
    p = torch.tensor([[[0.9, 0.1], [0.6, 0.4], [0.9, 0.1]]])
    q = torch.tensor([[[0.0, 1.0], [0.0, 1.0], [0.7, 0.3]]])
    three = torch.tensor([3])
    coins, noise = torch.full((1, 3), 0.99), torch.tensor([[0.0, 0.0, 0.0]])
    done = verified(
        p, q, torch.tensor([[1, 1, 1]]), three, three, three < 0, coins, noise, redraft="threshold"
    )
    # The first fails and is drawn anew; of the others, 0.4 / 1 fails too and 0.1 / 0.3 as well.
    assert done.drafts.tokens.tolist() == [[0, 0, 0]]
    p[0, 1] = torch.tensor([0.4, 0.6])
    done = verified(
        p, q, torch.tensor([[1, 1, 1]]), three, three, three < 0, coins, noise, redraft="threshold"
    )
    assert done.drafts.tokens.tolist() == [[0, 1, 0]]
    assert torch.equal(done.drafts.probs[0], torch.stack([p[0, 0], q[0, 1], p[0, 2]]))


def test_groups_are_neighbours_in_order_probability_and_code():
    p = torch.tensor([[[0.3, 0.25, 0.2, 0.05, 0.2]]])
    q = torch.tensor([[[1.0, 0.0, 0.0, 0.0, 0.0]]])
    one = torch.tensor([1])

    def accepted(coin, group, codes):
        zero = torch.tensor([[0]])
        tested = AcceptInputs(p, q, zero, torch.tensor([[coin]]), one, codes, group, zero)
        return bool(ACCEPT_RULES["group"].accepts(tested))

    alike = torch.ones(5, 2) / 2**0.5
    # Alone 0.3; with its neighbour in the order of p 0.55; with two 0.75; 0.05 is too unlikely.
    assert [accepted(c, 1, alike) for c in (0.29, 0.31)] == [True, False]
    assert [accepted(c, 3, alike) for c in (0.54, 0.56)] == [True, False]
    assert [accepted(c, 9, alike) for c in (0.94, 0.96)] == [True, False]
    assert [accepted(c, 9, torch.eye(5)) for c in (0.29, 0.31)] == [True, False]


def test_equal_noise_and_close_weights_draw_equal_tokens():
    p, q = torch.tensor([0.5, 0.3, 0.2, 0.0]), torch.tensor([0.45, 0.35, 0.2, 0.0])
    noise = uniform(4, 9, torch.arange(DRAWS)[:, None], torch.arange(4))
    first, second = (
        gumbel_sample(p.expand(DRAWS, -1), noise),
        gumbel_sample(q.expand(DRAWS, -1), noise),
    )
    assert p_value(first) > 1e-3
    variation = 0.5 * (p - q).abs().sum()
    assert (first == second).double().mean() >= (1 - variation) / (1 + variation) - 0.01


def test_an_empty_residual_falls_back_to_the_target():
    # A coin so close to 1 that rounding rejects what p = q should keep.
    one, coins = torch.ones(1, dtype=torch.long), torch.ones(1, 2)
    done = verified(
        TARGET.expand(1, 2, -1),
        torch.stack([TARGET, TARGET])[None],
        torch.zeros(1, 2, dtype=torch.long),
        one,
        one,
        one > 0,
        coins,
        torch.full((1, 2), 0.9),
    )
    assert done.accepted.item() == 0
    assert done.drafts.tokens[0, 0].item() == 2


@pytest.mark.parametrize(("coin", "expected"), [(0.0, 3), (0.999, 0)])
def test_always_and_never_accept(coin, expected):
    p = torch.full((1, 4, 5), 0.2)
    q = torch.full((1, 4, 5), 0.2 if coin == 0 else 1.0)
    three = torch.tensor([3])
    done = verified(
        p,
        q,
        torch.tensor([[1, 2, 3, 0]]),
        three,
        torch.tensor([9]),
        torch.tensor([True]),
        torch.full((1, 4), coin),
        torch.full((1, 4), 0.5),
    )
    assert done.accepted.item() == expected
    assert done.committed.item() == expected + 1


def test_a_row_without_resampling_commits_accepted_drafts_only():
    p, q = torch.full((1, 3, 4), 0.25), torch.full((1, 3, 4), 0.25)
    two = torch.tensor([2])
    no = torch.tensor([False])
    coins = torch.tensor([[0.0, 0.999999, 0.0]])
    done = verified(
        p, q * 2, torch.tensor([[1, 2, 0]]), two, two, no, coins, torch.full((1, 3), 0.5)
    )
    assert done.accepted.item() == done.committed.item() == 1


def test_max_commits_limits_what_is_committed():
    p = q = torch.full((1, 4, 4), 0.25)
    done = verified(
        p,
        q,
        torch.tensor([[1, 2, 3, 0]]),
        torch.tensor([3]),
        torch.tensor([2]),
        torch.tensor([True]),
        torch.zeros(1, 4),
        torch.full((1, 4), 0.5),
    )
    assert done.committed.item() == 2


def test_draw_never_takes_a_token_of_zero_weight():
    weights = torch.tensor([0.0, 1e-8, 0.0, 0.7, 0.0])
    edges = torch.tensor([0.0, 1e-9, 0.5, 1 - 2.0**-24])
    assert set(inverse_cdf_sample(weights.expand(4, -1), edges).tolist()) <= {1, 3}


def test_noise_is_uniform_and_depends_on_every_key():
    base = uniform(5, 1, torch.arange(100_000))
    assert abs(base.mean() - 0.5) < 0.005
    assert chisquare(torch.histc(base, 64, 0, 1)).pvalue > 1e-3
    for keys in [(6, 1), (5, 2), (5 + 2**32, 1)]:
        other = uniform(*keys, torch.arange(100_000))
        assert abs(torch.corrcoef(torch.stack([base, other]))[0, 1]) < 0.02
