"""Prompts in, images out: what is refused, whose defaults hold, and whose seeds."""

import numpy as np
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
        ("a cat", {}, "prompts = 'a cat': must be a list of texts, such as ['a cat']"),
        (b"cat", {}, "prompts = b'cat': must be a list of texts"),
        ({"cat": 1}, {}, "prompts = {'cat': 1}: must be a list of texts"),
        (None, {}, "prompts = None: must be a list of texts"),
        (["cat", 5], {}, "prompt = 5: must be a text"),
        (["cat", None], {}, "prompt = None: must be a text"),
        (["caf\udce9"], {}, "prompt = 'caf\\udce9': must be UTF-8"),
        (["cat", "dog"], {"seeds": "12"}, "seeds = '12': must be a list of integers"),
        (["cat"], {"seeds": 7}, "seeds = 7: must be a list of integers"),
        (["cat"], {"seeds": {3}}, "seeds = {3}: must be a list of integers"),
        (["cat"], {"seeds": [3], "seed": 4}, "seed = 4: must not be given beside seeds = [3]"),
        (["cat"], {"columns": 5}, "columns = 5: no such option; options are"),
        (["cat", "dog"], {"seed": 2**62}, f"seed = {2**62}: must be at most {2**62 - 1}: 2 images"),
        (["cat"], {"window": 65}, "window = 65: must be an integer from 1 to 64"),
        (["cat"], {"context": "4"}, "context = '4': must be an integer"),
        (["cat"], {"mask": ["none"]}, "mask = ['none']: must be one of"),
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


def test_the_last_seed_that_may_be_is_an_images(model):
    ranged = generate(model, ["cat", "cat"], "zipar", seed=2**62 - 1)
    listed = generate(model, ["cat", "cat"], "zipar", seeds=[2**62 - 1, 2**62])
    assert torch.equal(ranged.tokens, listed.tokens)


def test_strange_prompts_are_decoded(model):
    with pytest.warns(UserWarning, match="knows no"):
        result = generate(model, ["!!!", "x" * 2000, "gato\nrojo", "\u0642\u0637\u0629"], "pjd")
    assert result.tokens.shape == (4, 36)


@pytest.mark.parametrize("name", ["emoji", "anole-7b"])
def test_the_name_of_a_model_is_no_model(name):
    with pytest.raises(ParameterError, match=rf"model = '{name}': .*pjd\.load\('{name}'\)"):
        generate(name, ["cat"])


@pytest.mark.parametrize("wrong", [None, 5, object])
def test_what_is_no_model_is_refused(wrong):
    with pytest.raises(ParameterError, match=r"model = .*: must be a model, such as pjd.load\("):
        generate(wrong, ["cat"])


def test_numbers_of_numpy_are_those_of_python(model):
    plain = generate(model, ["cat", "dog"], "pjd", context=2, top_p=0.5, seed=3, batch_size=1)
    found = generate(
        model,
        ["cat", "dog"],
        "pjd",
        context=np.int64(2),
        top_p=np.float32(0.5),
        seeds=np.arange(3, 5).tolist(),
        batch_size=np.int32(1),
    )
    assert torch.equal(found.tokens, plain.tokens)
    listed = generate(
        model, ["cat", "dog"], "pjd", context=2, top_p=0.5, seeds=list(np.arange(3, 5))
    )
    assert torch.equal(listed.tokens, plain.tokens)


def test_prompts_and_seeds_may_be_any_sequence(model):
    expected = generate(model, ["cat", "dog"], "zipar", seeds=[4, 5])
    result = generate(model, ("cat", "dog"), "zipar", seeds=range(4, 6))
    assert torch.equal(result.tokens, expected.tokens)
