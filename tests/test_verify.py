"""Verification: drafts up to the first rejection, the residual there, and the law of the result."""

import pytest
import torch

from pjd.decoder.acceptance import AcceptRule, ratio
from pjd.decoder.methods import configure
from pjd.decoder.noise import Noise, uniform
from pjd.decoder.sampling import inverse_cdf_sample
from pjd.decoder.verify import Drafts, verify
from tests.decoding import DRAWS, TARGET, band_of, p_value, queries_of, verified

PROPOSALS = {
    "one-hot": [0.0, 1.0, 0.0, 0.0],
    "uniform": [0.25, 0.25, 0.25, 0.25],
    "disjoint": [0.0, 0.0, 0.0, 1.0],
    "truncated": [0.0, 0.6, 0.4, 0.0],
    "equal": [0.5, 0.3, 0.2, 0.0],
}
"""Draft distributions q by name."""


@pytest.mark.parametrize(("uniform", "accepted"), [(0.0, 3), (0.999, 0)])
def test_always_and_never_accept(uniform, accepted):
    p = torch.full((1, 4, 5), 0.2)
    q = torch.full((1, 4, 5), 0.2 if uniform == 0 else 1.0)
    done = verified(
        p,
        q,
        torch.tensor([[1, 2, 3, 0]]),
        n_drafts=3,
        max_commits=9,
        accept_uniforms=uniform,
        sample_uniforms=0.5,
    )
    assert done.accepted.item() == accepted
    # And one resampled token.
    assert done.committed.item() == accepted + 1


def test_a_row_that_may_not_resample_commits_accepted_drafts_only():
    p, q = torch.full((1, 3, 4), 0.25), torch.full((1, 3, 4), 0.5)
    done = verified(
        p,
        q,
        torch.tensor([[1, 2, 0]]),
        n_drafts=2,
        max_commits=2,
        resample=False,
        accept_uniforms=torch.tensor([[0.0, 0.999999, 0.0]]),
        sample_uniforms=0.5,
    )
    assert done.accepted.item() == done.committed.item() == 1


def test_max_commits_limits_what_is_committed():
    p = q = torch.full((1, 4, 4), 0.25)
    done = verified(
        p,
        q,
        torch.tensor([[1, 2, 3, 0]]),
        n_drafts=3,
        max_commits=2,
        accept_uniforms=0.0,
        sample_uniforms=0.5,
    )
    assert done.committed.item() == 2


def test_lanes_stop_at_their_own_first_rejection_wherever_their_queries_are():
    # Two lanes, their queries in mixed order, and a blank. Lane 0 rejects its draft at depth 1,
    # lane 1 rejects none.
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
    # Both drafts of lane 1 and the first of lane 0 are accepted; the others are drawn.
    assert done.drafts.tokens.tolist() == [[0, 3, 3, 0, 0, 3]]
    assert done.variation[0, 2] == 0


def test_an_empty_residual_falls_back_to_the_target_distribution():
    # A uniform number so close to 1 that rounding rejects what p = q should accept.
    done = verified(
        TARGET.expand(1, 2, -1),
        TARGET.expand(1, 2, -1),
        torch.zeros(1, 2, dtype=torch.long),
        n_drafts=1,
        max_commits=1,
        accept_uniforms=1.0,
        sample_uniforms=0.9,
    )
    assert done.accepted.item() == 0
    assert done.drafts.tokens[0, 0].item() == 2


def outcomes(proposal: list[float], **options: object) -> torch.Tensor:
    """First committed token of ``DRAWS`` verifications of one draft drawn from ``proposal``."""
    image, q = torch.arange(DRAWS), torch.tensor(proposal)
    draft = inverse_cdf_sample(q.expand(DRAWS, -1), uniform(1, 9, image))
    done = verified(
        TARGET.expand(DRAWS, 2, -1),
        torch.stack([q, torch.zeros(4)]).expand(DRAWS, -1, -1),
        torch.stack([draft, torch.zeros_like(draft)], dim=1),
        n_drafts=1,
        max_commits=2,
        accept_uniforms=uniform(2, 9, image)[:, None],
        sample_uniforms=uniform(3, 9, image)[:, None],
        **options,
    )
    return done.drafts.tokens[:, 0]


@pytest.mark.parametrize("redraft", ["fresh", "coupled"])
@pytest.mark.parametrize("name", PROPOSALS)
def test_a_committed_token_has_the_target_distribution(name, redraft):
    assert p_value(outcomes(PROPOSALS[name], redraft=redraft)) > 1e-3


def test_a_draft_that_is_drawn_again_has_the_target_distribution():
    assert p_value(outcomes(PROPOSALS["uniform"], accept="match")) > 1e-3


def test_the_test_has_teeth():
    # Without the residual (a rejected draft is replaced from p) the same check fails.
    broken = AcceptRule(ratio, correction="sampled")
    assert p_value(outcomes(PROPOSALS["truncated"], accept=broken)) < 1e-6


def test_a_row_that_postpones_its_rejections_prefers_what_was_likely_before():
    # p is uniform on tokens 0 and 1, q on tokens 1 and 2. Without a residual a rejected draft is
    # drawn from p and tested again, against itself: token 1 ends up with 3/4 instead of 1/2.
    image = torch.arange(DRAWS)
    q = torch.tensor([0.0, 0.5, 0.5, 0.0]).expand(DRAWS, 1, -1)
    p = torch.tensor([0.5, 0.5, 0.0, 0.0]).expand(DRAWS, 1, -1)
    for share, resample in ((0.75, False), (0.5, True)):
        done = verified(
            p,
            q,
            inverse_cdf_sample(q, uniform(1, 9, image)[:, None]),
            n_drafts=1,
            max_commits=1,
            resample=resample,
            accept_uniforms=uniform(2, 9, image)[:, None],
            sample_uniforms=uniform(3, 9, image)[:, None],
        )
        # What is not committed now is committed in the next iteration: p has become q.
        assert abs((done.drafts.tokens == 1).double().mean() - share) < 0.01
