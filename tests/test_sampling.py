"""From logits to tokens: truncation, and two ways to draw."""

import torch

from pjd.api import generate
from pjd.decoder.noise import uniform
from pjd.decoder.sampling import gumbel_sample, inverse_cdf_sample
from tests.decoding import DRAWS, PROMPTS, TARGET, p_value


def test_top_k_one_is_greedy(model):
    greedy = generate(model, PROMPTS, "ar", temperature=0)
    single = generate(model, PROMPTS, "sjd", top_k=1, seed=9)
    assert torch.equal(greedy.tokens, single.tokens)


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
