"""Weights in 8 bits: refused by name where they cannot be had, and never hidden in a record."""

import json
from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from pjd.api import generate
from pjd.cli import app
from pjd.decoder.compiled import compile_model
from pjd.decoder.methods import configure
from pjd.errors import ParameterError
from pjd.jobs import origin, plan
from pjd.measure.fidelity import code_logits
from pjd.models import emoji, options
from pjd.models.memory import NONE, Sizes
from pjd.models.registry import available, load
from tests.backbones import MODELS
from tests.decoding import PROMPTS, engine_of
from tests.test_capture import agree
from tests.test_compiled import graphs  # noqa: F401
from tests.tiny import tiny_model

needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="needs pjd[int8]")
needs_weights = pytest.mark.skipif("emoji-64" not in available(), reason="needs weights")


def quantized(model):
    """A model with weights of 8 bits, as :func:`pjd.load` makes it."""
    from pjd.models.quantize import quantize_model

    quantize_model(model)
    return model


@pytest.fixture
def torchao_is_there(monkeypatch):
    monkeypatch.setattr(options, "version", lambda name: "0.18.1")


@pytest.fixture
def unloaded(monkeypatch):
    """Fail if a model's files are read."""
    monkeypatch.setattr(emoji, "load", lambda *_: pytest.fail("a model was loaded"))


@needs_weights
@pytest.mark.parametrize("found", ["none", "0.17.9", "0.180.0"])
def test_without_torchao_it_is_refused_before_a_model_loads_with_what_to_do(
    unloaded, monkeypatch, found
):
    def version(name):
        if found == "none":
            raise PackageNotFoundError(name)
        return found

    monkeypatch.setattr(options, "version", version)
    with pytest.raises(ParameterError) as raised:
        load("emoji-64", quantize="int8")
    needed = f"needs torchao 0.18, found {found}: pip install 'pjd[int8]'"
    assert str(raised.value) == f"quantize = 'int8': {needed}"


@needs_weights
@pytest.mark.parametrize("command", ["generate", "compare"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quantize", "int4"], "quantize = 'int4': must be one of int8"),
        (["--quantize", "int8", "--dtype", "float16"], "dtype = 'float16': must be bfloat16 or"),
    ],
)
def test_another_number_of_bits_and_float16_are_refused(
    unloaded, torchao_is_there, tmp_path, command, options, message
):
    arguments = [command, "cat", "--model", "emoji-64", "-o", str(tmp_path / "out"), *options]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, ParameterError) and message in str(done.exception)
    assert not (tmp_path / "out").exists()


@needs_weights
def test_an_image_says_that_its_weights_had_8_bits_and_no_other_image_changes_its_name():
    config = configure("ar")
    plain, rounded = origin("emoji-64", None), origin("emoji-64", None, "int8")
    assert rounded == {**plain, "quantize": "int8"} and "quantize" not in plain
    (job,), (other,) = (plan(["cat"], 1, record, config) for record in (plain, rounded))
    assert job.name != other.name and other.record["quantize"] == "int8"


@needs_torchao
@needs_weights
def test_images_are_made_with_8_bits_and_the_file_says_so(tmp_path):
    from PIL import Image

    arguments = ["cat", "--model", "emoji-64", "--quantize", "int8", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["generate", *arguments])
    assert done.exit_code == 0, done.output
    (path,) = (tmp_path / "out").iterdir()
    with Image.open(path) as image:
        assert json.loads(image.info["pjd"])["quantize"] == "int8"


@needs_torchao
@needs_weights
def test_no_weights_of_more_bits_reach_the_device(monkeypatch):
    from pjd.models.quantize import blocks_of, stored_bytes

    moved = []
    plain = emoji.EmojiModel.to

    def to(self, device, dtype=None):
        matrices = [p for p in blocks_of(self).parameters() if p.ndim == 2]
        moved.append(
            (str(device), sum(map(stored_bytes, matrices)) / sum(p.numel() for p in matrices))
        )
        return plain(self, "cpu", dtype)

    monkeypatch.setattr(emoji.EmojiModel, "to", to)
    model = load("emoji-64", device="cuda", quantize="int8")
    (first, whole), (last, rounded) = moved
    assert (first, last) == ("cpu", "cuda") and whole == 4.0 and rounded < 1.05
    assert model.name == "emoji-64 (int8)" and model.dtype == torch.float32


@needs_torchao
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_linear_map_is_off_by_half_a_step_at_most(dtype):
    from pjd.models.linear import Linear
    from pjd.models.quantize import quantize_blocks

    with torch.random.fork_rng():
        torch.manual_seed(0)
        blocks = nn.ModuleList(
            [nn.Sequential(Linear(48, 32), nn.GELU()), nn.Linear(16, 8, bias=False)]
        )
        blocks = blocks.to(dtype).requires_grad_(False)
        x = torch.randn(5, 48, dtype=dtype)
    weight, bias = blocks[0][0].weight.clone(), blocks[0][0].bias.clone()
    quantize_blocks(blocks)
    linear = blocks[0][0]
    assert type(linear) is type(blocks[1]) is nn.Linear
    steps = weight.abs().amax(1, keepdim=True).double() / 127
    rounded = linear.weight.qdata.double() * linear.weight.scale.double()
    assert ((rounded - weight.double()).abs() <= 0.51 * steps).all()
    assert torch.equal(linear.bias, bias)
    expected = x.double() @ rounded.T + bias.double()
    slack = {"atol": 1e-5, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 0.05, "rtol": 0.02}
    torch.testing.assert_close(linear(x).double(), expected, **slack)


@needs_torchao
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sizes_say_how_many_bytes_8_bits_take(dtype):
    from pjd.models.quantize import blocks_of, stored_bytes

    model = tiny_model(grid=6, vocabulary=11).to("cpu", getattr(torch, dtype))
    config = model.transformer.config
    others = sum(p.numel() for p in model.transformer.cls_embedding.parameters())
    sizes = Sizes(
        *(config.layers, config.dim, config.feed_forward, config.heads, config.heads, 11, 11),
        decoder=NONE,
        others=others,
    )
    tables = (model.embedding.weight, model.head.weight)
    before = [table.clone() for table in tables]
    quantized(model)
    stored = sum(stored_bytes(p) for p in model.transformer.parameters() if p.ndim == 2)
    assert sizes.weights(dtype, "int8") == stored < 0.8 * sizes.weights("float32")
    assert all(torch.equal(*pair) for pair in zip(tables, before, strict=True))
    assert any(p.ndim == 1 for p in blocks_of(model).parameters())


@needs_torchao
@pytest.mark.parametrize("name", MODELS)
def test_a_transformers_decoder_draws_from_nearly_the_same_distributions(name):
    prompts = ["a red cat"]
    plain, rounded = MODELS[name]()[0], quantized(MODELS[name]()[0])
    codes = generate(plain, prompts, "ar", guidance=2.0).tokens
    (_, one), (_, other) = (
        next(iter(code_logits(model, prompts, codes, 2.0, 1.0))) for model in (plain, rounded)
    )
    assert 0 < (one.softmax(-1) - other.softmax(-1)).abs().sum(-1).mean() / 2 < 0.05
    done = generate(rounded, prompts, "pjd", guidance=2.0, context=2)
    assert done.tokens.shape == codes.shape


@needs_torchao
def test_an_iteration_is_captured_with_8_bits_too():
    config = configure("pjd", guidance=2.0, context=2)
    model = quantized(tiny_model(grid=6, vocabulary=11))
    agree(lambda: engine_of(model, config, PROMPTS[:3], torch.arange(3), static=True))


@needs_torchao
@pytest.mark.parametrize("name", ["llamagen", "llama"])
def test_one_graph_serves_all_layers_with_8_bits_too(graphs, name):  # noqa: F811
    model = tiny_model(grid=6, vocabulary=11) if name == "llamagen" else MODELS[name]()[0]
    config = configure("sjd", guidance=2.0)
    model, seeds = quantized(model), torch.arange(1)
    expected = engine_of(model, config, PROMPTS[:1], seeds, static=True).run().tokens
    compile_model(model)
    drawn = engine_of(model, config, PROMPTS[:1], seeds, static=True).run().tokens
    assert torch.equal(drawn, expected)
    assert [graphs.count(name) for name in set(graphs) - {"feed", "judge"}] == [2]


@needs_torchao
@needs_weights
@pytest.mark.slow
def test_the_benchmark_compares_with_single_precision(tmp_path):
    from benchmarks.quantized import CASES, quantized

    quantized(tmp_path / "q.json", "emoji-64", images=2, threads=1)
    first, seeds, *others = json.loads((tmp_path / "q.json").read_text())["cases"]
    assert first["gap"] == [0, 0, 0] and first["equal_codes"] == 1 > seeds["equal_codes"]
    assert [case["case"] for case in (first, seeds, *others)] == [case.name for case in CASES]
    for case in others:
        assert 0 < case["divergence"] < 0.01 and case["total_variation"] < 0.05
    assert others[0]["block_bytes"] < 0.26 * first["block_bytes"]
