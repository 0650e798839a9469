"""Log-likelihoods are those of the decoder itself; intervals hold their mean."""

import numpy as np
import pytest
import torch

from pjd.api import generate
from pjd.decoder.methods import configure
from pjd.measure.fidelity import bootstrap, log_likelihood
from tests.backbones import CODES, plain_logits, sequence, tiny_llama
from tests.decoding import engine_of
from tests.tiny import tiny_model

PROMPTS = ["cat", "red dog"]


def test_log_likelihood_is_that_of_the_decoder_itself():
    # The distributions that AR draws from, one forward pass per code, against one teacher-forced
    # forward pass.
    model = tiny_model(grid=3, vocabulary=5)
    config = configure("ar", guidance=2.0, temperature=0.7)
    engine = engine_of(model, config, PROMPTS, torch.arange(2))
    seen = []
    target = engine.target

    def listen(*arguments):
        probs, finite = target(*arguments)
        seen.append(probs)
        return probs, finite

    engine.target = listen
    tokens = engine.run().tokens
    drawn = torch.stack([p[:, 0] for p in seen], dim=1).gather(2, tokens[..., None]).squeeze(-1)
    nats, outside = log_likelihood(model, PROMPTS, tokens, 2.0, 0.7, top_k=1)
    torch.testing.assert_close(nats, drawn.log(), atol=1e-4, rtol=1e-4)
    likeliest = torch.stack([p[:, 0] for p in seen], dim=1).argmax(-1)
    assert torch.equal(outside, tokens != likeliest)


def test_log_likelihood_reads_row_ends_and_counts_none():
    model, language = tiny_llama(row_end=True)
    codes = torch.randint(CODES, (2, 20), generator=torch.Generator().manual_seed(0))
    nats, _ = log_likelihood(model, PROMPTS, codes, 2.0, 0.7)
    position = torch.arange(20)
    for text, image, found in zip(PROMPTS, codes, nats, strict=True):
        conditional, unconditional = (
            plain_logits(model, language, sequence(model, prompt, image))[
                len(prompt) - 1 + position + position // 5
            ]
            for prompt in (model.prompt(text, True), model.prompt(text, False))
        )
        guided = (unconditional + 2.0 * (conditional - unconditional)) / 0.7
        expected = guided.log_softmax(-1).gather(1, image[:, None])[:, 0]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_greedy_codes_are_likelier_than_sampled_ones(model):
    prompts = PROMPTS * 8
    greedy = generate(model, prompts, "ar", temperature=0).tokens
    sampled = generate(model, prompts, "ar").tokens
    first, _ = log_likelihood(model, prompts, greedy, 1.0, 1.0)
    second, _ = log_likelihood(model, prompts, sampled, 1.0, 1.0)
    assert first.mean() > second.mean()


def test_bootstrap_interval_holds_the_mean():
    values = np.random.default_rng(0).normal(3.0, 1.0, 400)
    interval = bootstrap(values)
    assert interval.low < values.mean() < interval.high
    assert interval.high - interval.low == pytest.approx(4 / 400**0.5, rel=0.2)
    assert bootstrap(values) == interval
