"""From logits to tokens: truncation, and two ways to draw."""

import pytest
import torch
from transformers.generation import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from pjd.api import generate
from pjd.decoder.methods import configure
from pjd.decoder.noise import uniform
from pjd.decoder.sampling import (
    guide,
    gumbel_sample,
    has_finite_maximum,
    inverse_cdf_sample,
    probabilities,
)
from tests.decoding import DRAWS, PROMPTS, TARGET, p_value


def test_top_k_one_is_greedy(model):
    greedy = generate(model, PROMPTS, "ar", temperature=0)
    single = generate(model, PROMPTS, "sjd", top_k=1, seed=9)
    assert torch.equal(greedy.tokens, single.tokens)


@pytest.mark.parametrize("min_p", [0.02, 0.3, 1.0])
def test_truncation_is_that_of_transformers(min_p):
    logits = 3 * torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    config = configure("ar", top_k=30, top_p=0.97, min_p=min_p)
    expected = logits
    for warper in (TopKLogitsWarper(30), TopPLogitsWarper(0.97), MinPLogitsWarper(min_p)):
        expected = warper(None, expected)
    probs = probabilities(logits, config)
    torch.testing.assert_close(probs, expected.softmax(-1))
    kept = (probs > 0).sum(-1)
    assert (kept == 1).all() if min_p == 1 else kept.min() < kept.max()


def test_a_token_of_zero_weight_is_never_drawn():
    weights = torch.tensor([0.0, 1e-8, 0.0, 0.7, 0.0])
    edges = torch.tensor([0.0, 1e-9, 0.5, 1 - 2.0**-24])
    assert set(inverse_cdf_sample(weights.expand(4, -1), edges).tolist()) <= {1, 3}


def test_equal_noise_and_close_weights_draw_equal_tokens():
    p, q = TARGET, torch.tensor([0.45, 0.35, 0.2, 0.0])
    noise = uniform(4, 9, torch.arange(DRAWS)[:, None], torch.arange(4))
    first, second = (gumbel_sample(weights.expand(DRAWS, -1), noise) for weights in (p, q))
    assert p_value(first) > 1e-3
    variation = 0.5 * (p - q).abs().sum()
    assert (first == second).double().mean() >= (1 - variation) / (1 + variation) - 0.01


def test_logits_have_a_finite_maximum_or_nothing_can_be_drawn():
    nan, inf = float("nan"), float("inf")
    logits = torch.tensor([[0.0, 1.0], [-inf, 1.0], [nan, 1.0], [inf, 1.0], [-inf, -inf]])
    assert has_finite_maximum(logits).tolist() == [True, True, False, False, False]
    assert has_finite_maximum(logits.bfloat16(), 0).tolist() == [True, True, False, False, False]
    large = torch.tensor([[1e30, 0.0], [1e34, 0.0]])
    assert has_finite_maximum(large, 1e-6).tolist() == [True, False]


def test_guidance_may_differ_from_position_to_position():
    logits = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    scales = torch.tensor([[1.0, 2.0, 7.5], [0.0, 3.0, 1.0]])
    guided = guide(logits, scales)
    for image, position in ((0, 0), (0, 2), (1, 1)):
        one = guide(logits[[image, 2 + image], position], float(scales[image, position]))
        assert torch.equal(guided[image, position], one[0])


def test_guidance_keeps_what_both_branches_exclude_and_changes_no_other_number():
    inf = float("inf")
    conditional = torch.tensor([[1.5, -inf, 2.0, -inf, -0.0]])
    unconditional = torch.tensor([[0.5, -inf, -1.0, 3.0, 0.0]])
    guided = guide(torch.cat([conditional, unconditional]), 2.5)
    assert guided.tolist() == [[3.0, -inf, 6.5, -inf, 0.0]]
    # What only the unconditional branch excludes has no answer.
    assert guide(torch.tensor([[1.0], [-inf]]), 2.5).isnan().all()
