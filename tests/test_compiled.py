"""Compiled regions: one graph serves all layers and later batches, and no token changes."""

import pytest
import torch

from pjd.decoder.compiled import Compiled, compile_model
from pjd.decoder.methods import configure
from tests.backbones import MODELS, tiny_llama
from tests.decoding import BY_ROWS, PROMPTS, decode_ten, engine_of
from tests.scripted import Scripted
from tests.tiny import tiny_model


@pytest.fixture
def graphs(monkeypatch):
    """Names of the regions that were compiled, once for each graph; compiled cheaply."""
    found, plain, backends = [], torch.compile, {}

    def cheaply(function, **options):
        def backend(graph, inputs):
            found.append(function.__name__)
            return graph.forward

        # Another backend would compile anew.
        chosen = backends.setdefault(function.__name__, backend)
        return plain(function, **{**options, "backend": chosen})

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", cheaply)
    yield found
    torch._dynamo.reset()


@pytest.mark.parametrize("name", ["llamagen", *MODELS])
def test_one_graph_serves_all_layers(graphs, name):
    model = tiny_model(grid=6, vocabulary=11) if name == "llamagen" else MODELS[name]()[0]
    config = configure("sjd", guidance=2.0)
    prompts, seeds = PROMPTS[:1], torch.arange(1)
    expected = engine_of(model, config, prompts, seeds, static=True).run().tokens
    compile_model(model)
    assert torch.equal(engine_of(model, config, prompts, seeds, static=True).run().tokens, expected)
    assert model.cache(1, 1).keys.shape[0] >= 2
    regions = {region: graphs.count(region) for region in graphs}
    # In the first iteration updates in place make two names share their memory.
    assert regions.pop("feed") <= 2 and regions.pop("judge") <= 2
    # A block and the head, which are run by the same function; the prompt is not compiled.
    assert list(regions.values()) == [2], regions


@pytest.mark.parametrize("method", ["ar", "sjd", "pjd", "pjd-plus", "gsd", "pjd-released"])
def test_the_engines_own_parts_are_graphs(graphs, method):
    model, _ = tiny_llama(row_end=True)
    config = configure(method, guidance=2.0, **({"context": 2} if method in BY_ROWS else {}))

    def tokens():
        engine = engine_of(model, config, PROMPTS, torch.arange(5), static=True)
        return engine.run().tokens

    expected = tokens()
    compile_model(model)
    assert torch.equal(tokens(), expected)
    count = len(graphs)
    assert {"feed", "judge"} <= set(graphs)
    # A later batch of the same shapes compiles nothing.
    assert torch.equal(tokens(), expected) and len(graphs) == count


def test_a_compiled_model_refuses_the_cache_of_transformers_generate(graphs):
    model, language = tiny_llama(row_end=True)
    compile_model(model)
    with pytest.raises(TypeError, match="load it again for transformers' own generate"):
        language.generate(torch.tensor([[1, 2]]), max_new_tokens=2, do_sample=False)


def test_what_cannot_be_compiled_runs_as_it_is(monkeypatch):
    plain = torch.compile

    def broken(function, **options):
        def backend(graph, inputs):
            raise TypeError("no code for this")

        return plain(function, **{**options, "backend": backend})

    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", broken)
    double = Compiled(lambda x: 2 * x)
    with pytest.warns(UserWarning, match=r"is not compiled, which is slower: .*no code for this"):
        assert double(torch.ones(1)) == 2
    assert double(torch.ones(1)) == 2


def test_a_model_that_cannot_be_compiled_says_so():
    with pytest.raises(NotImplementedError, match=r"no method compile\(\)"):
        compile_model(Scripted("AB"))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "static"), [("pjd", False), ("sjd", True)])
def test_compiled_regions_change_no_token(method, static):
    plain, compiled = tiny_model(grid=4), compile_model(tiny_model(grid=4))
    expected, _ = decode_ten(plain, method, static)
    assert torch.equal(decode_ten(compiled, method, static)[0], expected)
