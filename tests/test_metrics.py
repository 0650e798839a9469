import numpy as np
import pytest
import torch
from backbones import CODES, plain_logits, sequence, tiny_llama
from tiny import tiny_model
from torchmetrics.image.fid import FrechetInceptionDistance

from pjd.api import generate
from pjd.decoder.engine import Engine
from pjd.decoder.methods import configure
from pjd.measure.features import flat_codes, frechet
from pjd.measure.fidelity import OneDnnLinear, bootstrap, log_likelihood
from pjd.measure.quality import Given

PROMPTS = ["cat", "red dog"]


def test_log_likelihood_is_that_of_the_decoder_itself():
    # The distributions that AR draws from, one forward a code, against one teacher-forced forward.
    model = tiny_model(grid=3, vocabulary=5)
    config = configure("ar", guidance=2.0, temperature=0.7)
    engine = Engine(model, config, model.encode(PROMPTS, config.guided), torch.arange(2))
    seen = []
    predict = engine.predict

    def listen(*arguments):
        seen.append(predict(*arguments))
        return seen[-1]

    engine.predict = listen
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
    place = torch.arange(20)
    for text, image, found in zip(PROMPTS, codes, nats, strict=True):
        conditional, unconditional = (
            plain_logits(model, language, sequence(model, prompt, image))[
                len(prompt) - 1 + place + place // 5
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_maps_by_onednn_are_linear_maps(dtype, bias):
    torch.manual_seed(0)
    linear = torch.nn.Linear(7, 5, bias=bias, dtype=dtype)
    x = torch.randn(2, 3, 7, dtype=dtype)
    with torch.inference_mode(), OneDnnLinear():
        found = linear(x)
        keywords = torch.nn.functional.linear(x, linear.weight, bias=linear.bias)
    assert found.dtype == dtype
    torch.testing.assert_close(found, linear(x))
    torch.testing.assert_close(keywords, linear(x))


def test_bootstrap_interval_holds_the_mean():
    values = np.random.default_rng(0).normal(3.0, 1.0, 400)
    interval = bootstrap(values)
    assert interval.low < values.mean() < interval.high
    assert interval.high - interval.low == pytest.approx(4 / 400**0.5, rel=0.2)
    assert bootstrap(values) == interval


def test_frechet_distance_of_shifted_sets():
    points = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    assert frechet(points, points) == pytest.approx(0, abs=1e-4)
    assert frechet(points, points + 2) == pytest.approx(4 * 2**2, rel=1e-3)


@pytest.mark.parametrize(("images", "width"), [(40, 60), (300, 16)])
def test_frechet_distance_is_torchmetrics(images, width):
    torch.manual_seed(0)
    first, second = torch.randn(2, images, width) @ torch.randn(width, width)
    metric = FrechetInceptionDistance(feature=Given(width))
    metric.update(first, real=True)
    metric.update(second + 0.5, real=False)
    assert frechet(first, second + 0.5) == pytest.approx(float(metric.compute()), rel=1e-3)


def test_flat_codes():
    images = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    images[0, 0, 7] = 100
    assert flat_codes(images, 4).tolist() == [[True, False, True, True]]


def test_tested_drafts_match_the_trace(model):
    trace = generate(model, PROMPTS, "pjd", context=2, seed=4).trace
    accepted, rejected = trace.tested
    assert torch.equal(accepted.sum(1), trace.accepted.long().sum((0, 2)))
    assert accepted.max() <= 1
    windows_cut_short = (trace.accepted < trace.drafted).sum((0, 2))
    assert torch.equal(rejected.sum(1), windows_cut_short)


def test_strange_prompts_are_decoded(model):
    with pytest.warns(UserWarning, match="knows no"):
        result = generate(model, ["!!!", "x" * 2000, "gato\nrojo", "\u0642\u0637\u0629"], "pjd")
    assert result.tokens.shape == (4, 36)
