"""Prompts in, images out: what is refused, whose defaults hold, and whose seeds."""

import pytest
import torch

from pjd.api import generate
from pjd.errors import ParameterError
from tests.decoding import PROMPTS
from tests.tiny import tiny_model


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        (["cat"], {"top_k": 12}, "top_k = 12: must be an integer from 0 to 11"),
        (["cat"], {"rows": 7}, "rows = 7: must be an integer from 1 to 6"),
        ([], {}, "prompts = []"),
        (["cat", " "], {}, "prompt = ' '"),
        (["cat"], {"batch_size": 0}, "batch_size = 0"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(
    model, monkeypatch, prompts, options, message
):
    monkeypatch.setattr("pjd.api.Engine", lambda *_: pytest.fail("an engine was made"))
    with pytest.raises(ParameterError) as error:
        generate(model, prompts, "pjd", **options)
    assert message in str(error.value)


def test_none_leaves_the_models_own_default():
    guided = tiny_model(grid=3, vocabulary=5)
    guided.sampling = {"guidance": 2.0}
    assert generate(guided, ["cat"], "ar", guidance=None).config.guidance == 2.0
    assert generate(guided, ["cat"], "ar", guidance=1.5).config.guidance == 1.5


def test_seeds_of_ones_own_give_the_images_of_those_seeds(model):
    both = generate(model, PROMPTS[:2], "sjd", seeds=[5, 3])
    for image, seed in enumerate((5, 3)):
        alone = generate(model, PROMPTS[image : image + 1], "sjd", seed=seed)
        assert torch.equal(both.tokens[image], alone.tokens[0])
    with pytest.raises(ParameterError, match=r"seeds = .*must be 2"):
        generate(model, PROMPTS[:2], "sjd", seeds=[5])
    with pytest.raises(ParameterError, match="seed = -1"):
        generate(model, PROMPTS[:2], "sjd", seeds=[5, -1])


def test_strange_prompts_are_decoded(model):
    with pytest.warns(UserWarning, match="knows no"):
        result = generate(model, ["!!!", "x" * 2000, "gato\nrojo", "\u0642\u0637\u0629"], "pjd")
    assert result.tokens.shape == (4, 36)
