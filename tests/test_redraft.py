"""What the drafts behind the first rejection become."""

import pytest
import torch
from scipy.stats import chisquare

from pjd.decoder.noise import uniform
from pjd.decoder.sampling import inverse_cdf_sample
from tests.decoding import DRAWS, verified


@pytest.mark.parametrize(
    ("redraft", "expected"),
    [
        # The first draft is rejected. All of the second and third are drawn from p: token 1.
        ("fresh", [1, 1, 1]),
        # The third passes the test and stays; the second fails it.
        ("coupled", [1, 1, 0]),
        # Half as likely as before is enough for the released code, and fails for the second.
        ("threshold", [1, 1, 0]),
    ],
)
def test_drafts_behind_the_rejection(redraft, expected):
    p = torch.tensor([[[0.1, 0.9], [0.1, 0.9], [0.5, 0.5]]])
    q = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.6, 0.4]]])
    done = verified(
        p,
        q,
        torch.tensor([[0, 0, 0]]),
        n_drafts=3,
        max_commits=3,
        accept_uniforms=0.8,
        sample_uniforms=0.9,
        redraft=redraft,
    )
    assert done.accepted.item() == 0 and done.committed.item() == 1
    assert done.drafts.tokens.tolist() == [expected]


def test_coupled_drafts_change_no_more_than_their_distribution_does():
    # Behind the first rejection too: the second draft stays with probability 1 - TV(p, q).
    number = torch.arange(DRAWS)
    q = torch.tensor([0.1, 0.4, 0.3, 0.2])
    p = torch.tensor([0.3, 0.3, 0.2, 0.2])
    second = inverse_cdf_sample(q.expand(DRAWS, -1), uniform(1, 9, number))
    # The first draft is token 0, which p rules out.
    first_p, first_q = torch.tensor([0.0, 1.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0, 0.0])
    done = verified(
        torch.stack([first_p, p]).expand(DRAWS, -1, -1),
        torch.stack([first_q, q]).expand(DRAWS, -1, -1),
        torch.stack([torch.zeros_like(number), second], 1),
        n_drafts=2,
        max_commits=2,
        accept_uniforms=uniform(2, 9, torch.stack([number, number + DRAWS], 1)),
        sample_uniforms=uniform(3, 9, torch.stack([number, number + DRAWS], 1)),
        redraft="coupled",
    )
    assert (done.accepted == 0).all() and (done.committed == 1).all()
    redrafted = done.drafts.tokens[:, 1]
    variation = 0.5 * (p - q).abs().sum()
    assert abs((redrafted == second).double().mean() - (1 - variation)) < 0.01
    torch.testing.assert_close(done.variation[0], torch.tensor([1.0, float(variation)]))
    expected = p.double() / p.double().sum() * DRAWS
    assert chisquare(torch.bincount(redrafted, minlength=4), expected).pvalue > 1e-3
    assert torch.equal(done.drafts.probs[0, 1], p)
