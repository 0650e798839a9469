"""`pjd audit`: whether codes are the autoregressive model's own draws."""

import pytest
import torch

from pjd.api import generate
from pjd.decoder.engine import Engine
from pjd.decoder.methods import configure
from pjd.errors import ParameterError
from pjd.measure.audit import audit
from tests.enumeration import RowEnds
from tests.tiny import tiny_model

PROMPTS = ["cat", "red dog", "dog", "red cat dog", "cat cat"]


def audited(model, method, **options):
    result = generate(model, PROMPTS, method, guidance=2.0, **options)
    seeds = torch.arange(len(PROMPTS))
    return audit(model, PROMPTS, result.tokens, seeds, result.config, batch_size=2)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("jacobi", {}),
        ("jacobi", {"window": 5, "top_k": 3}),
        ("ar", {"redraft": "gumbel"}),
        ("jacobi", {"temperature": 0}),
    ],
)
def test_all_codes_of_jacobi_are_ars_own_draws(method, options):
    found = audited(tiny_model(grid=6, vocabulary=11), method, **options).summary()
    assert found["codes"] == 36 * len(PROMPTS)
    assert found["equal"] == 1 and found["largest_miss"] == 0


def test_forced_row_ends_are_no_codes():
    model, seeds = RowEnds(3, 4, vocabulary=5, seed=1), torch.arange(len(PROMPTS))
    config = configure("jacobi", guidance=2.0)
    prompt = model.encode(PROMPTS, config.guided)
    tokens = Engine(model, config, prompt, seeds).run().tokens
    found = audit(model, PROMPTS, tokens, seeds, config).summary()
    assert found["codes"] == 12 * len(PROMPTS) and found["equal"] == 1


def test_a_lossy_decoder_and_a_changed_code_are_found():
    model = tiny_model(grid=6, vocabulary=11)
    found = audited(model, "pjd", context=1, redraft="gumbel").summary()
    assert 0.2 < found["equal"] < 1 and found["largest_miss"] > 0
    result = generate(model, PROMPTS, "jacobi")
    tokens = result.tokens.clone()
    tokens[1, 35] = (tokens[1, 35] + 1) % 11
    changed = audit(model, PROMPTS, tokens, torch.arange(5), result.config)
    assert not changed.equal[1, 35] and changed.equal.sum() == changed.equal.numel() - 1
    assert changed.lead[1, 35] > 0


def test_noise_that_is_not_fixed_cannot_be_audited():
    with pytest.raises(ParameterError, match=r"redraft = 'fresh': must be gumbel.*jacobi"):
        audited(tiny_model(grid=6, vocabulary=11), "sjd")
