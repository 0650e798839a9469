"""The tests of a draft, one by one."""

import pytest
import torch

from pjd.decoder.acceptance import AcceptInputs, AcceptRule, accept_rule, lenient
from pjd.errors import ParameterError
from tests.decoding import DRAWS, verified


def accepts(
    rule: str | AcceptRule, *, p, q, draft=0, uniform=0.5, sampled=0, codebook=None, group_size=1
) -> bool:
    """Whether ``rule`` accepts the token ``draft``, tested by itself."""
    one = torch.tensor([[0]])
    inputs = AcceptInputs(
        target_probs=torch.tensor([[p]]),
        draft_probs=torch.tensor([[q]]),
        drafts=one + draft,
        uniforms=torch.tensor([[uniform]]),
        sampled=one + sampled,
        codebook=torch.eye(len(p)) if codebook is None else codebook,
        group_size=group_size,
        depth=one,
    )
    return bool(accept_rule(rule).accepts(inputs))


@pytest.mark.parametrize(
    ("p", "q", "chance"),
    [
        ([0.3, 0.7], [0.6, 0.4], 0.5),
        ([0.6, 0.4], [0.3, 0.7], 1.0),
        # A first draft that is declared as certain.
        ([0.3, 0.7], [1.0, 0.0], 0.3),
        ([0.0, 1.0], [0.5, 0.5], 0.0),
    ],
)
def test_the_ratio_test_accepts_with_probability_p_over_q(p, q, chance):
    for uniform in (0.0, 0.29, 0.31, 0.49, 0.51, 0.99):
        assert accepts("ratio", p=p, q=q, uniform=uniform) == (uniform < chance)


@pytest.mark.parametrize(("lenience", "chance"), [(1.0, 0.4), (0.8, 0.5), (0.5, 0.8), (0.3, 1.0)])
def test_a_lenient_test_accepts_with_probability_p_over_its_share_of_q(lenience, chance):
    p, q = [0.2, 0.8], [0.5, 0.5]
    for uniform in (0.0, 0.39, 0.41, 0.49, 0.51, 0.79, 0.81, 0.99):
        assert accepts(lenient(lenience), p=p, q=q, uniform=uniform) == (uniform < chance)
    assert not accepts(lenient(lenience), p=[0.0, 1.0], q=q, uniform=0.0)


@pytest.mark.parametrize("lenience", [0.0, 1.5, "much"])
def test_a_lenience_outside_its_range_is_refused(lenience):
    with pytest.raises(ParameterError, match=r"lenience = .*must be a number from 1e-06 to 1"):
        lenient(lenience)


def test_no_token_is_more_likely_than_lenience_allows():
    # Drawn from q, tested, and drawn from the residual where it fails.
    p, q, lenience = torch.tensor([0.1, 0.6, 0.3]), torch.tensor([0.6, 0.3, 0.1]), 0.5
    kept = torch.minimum(q, p / lenience)
    residual = (p - q).clamp(min=0)
    law = kept + (1 - kept.sum()) * residual / residual.sum()
    drafts = torch.multinomial(q, DRAWS, replacement=True, generator=torch.manual_seed(0))
    done = verified(
        p.expand(DRAWS, 1, -1),
        q.expand(DRAWS, 1, -1),
        drafts[:, None],
        n_drafts=1,
        max_commits=1,
        accept_uniforms=torch.rand(DRAWS, 1),
        sample_uniforms=torch.rand(DRAWS, 1),
        accept=lenient(lenience),
    )
    shares = torch.bincount(done.drafts.tokens[:, 0], minlength=3) / DRAWS
    torch.testing.assert_close(shares, law, atol=0.01, rtol=0)
    assert (law <= p / lenience).all() and law[0] > p[0]


def test_jacobi_accepts_what_is_drawn_again():
    p = q = [0.25] * 4
    assert [accepts("match", p=p, q=q, draft=2, sampled=x) for x in (1, 2)] == [False, True]


def test_a_group_is_the_neighbours_in_order_probability_and_code_vector():
    p, q = [0.3, 0.25, 0.2, 0.05, 0.2], [1.0, 0.0, 0.0, 0.0, 0.0]

    def accepted(uniforms, group_size, codebook):
        options = {"group_size": group_size, "codebook": codebook}
        return [accepts("group", p=p, q=q, uniform=uniform, **options) for uniform in uniforms]

    alike = torch.ones(5, 2) / 2**0.5
    # Alone 0.3; with its neighbour in the order of p 0.55; with three 0.95; 0.05 is too unlikely.
    assert accepted((0.29, 0.31), 1, alike) == [True, False]
    assert accepted((0.54, 0.56), 3, alike) == [True, False]
    assert accepted((0.94, 0.96), 9, alike) == [True, False]
    assert accepted((0.29, 0.31), 9, torch.eye(5)) == [True, False]
