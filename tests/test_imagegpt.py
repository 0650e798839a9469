"""ImageGPT, against transformers' own class and its own generation."""

import json

import pytest
import torch
from transformers import ImageGPTConfig, ImageGPTForCausalImageModeling
from typer.testing import CliRunner

from pjd import ParameterError
from pjd.api import generate
from pjd.cli import app
from pjd.decoder.mask import causal
from pjd.decoder.methods import PRESETS
from pjd.measure.fidelity import log_likelihood
from pjd.models import imagegpt
from pjd.models.catalogue import CATALOGUE
from tests.backbones import exact_greedy, logits_by_column

SIDE, CODES = 4, 48
SIZES = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": SIDE**2, "vocab_size": CODES + 1}


@pytest.fixture
def language() -> ImageGPTForCausalImageModeling:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = ImageGPTForCausalImageModeling(ImageGPTConfig(**SIZES)).eval()
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.5)
            elif name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.3)
            else:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return model


@pytest.fixture
def folder(language, tmp_path):
    """A checkpoint with the official files."""
    where = tmp_path / "imagegpt-small"
    language.save_pretrained(where)
    colours = torch.linspace(-1, 1, 3 * CODES).reshape(CODES, 3).tolist()
    described = {"clusters": colours, "image_processor_type": "ImageGPTImageProcessor"}
    (where / "preprocessor_config.json").write_text(json.dumps(described))
    return where


@pytest.fixture
def model(folder):
    return imagegpt.load("imagegpt-small", folder)


@torch.no_grad()
def test_logits_equal_the_plain_forward(language, model):
    codes = torch.randint(CODES, (1, SIDE**2), generator=torch.Generator().manual_seed(1))
    ids = torch.cat([torch.full((1, 1), CODES), codes[:, :-1]], dim=1)
    expected = language(input_ids=ids).logits
    assert expected.shape == (1, SIDE**2, CODES) and expected.abs().max() > 1
    begin = model.encode([""], guided=False)
    inputs = torch.cat([begin.embeddings, model.embed(codes)], dim=1)
    length = inputs.shape[1]
    mask = causal(torch.ones(1, length).bool(), length)
    raster = model.forward(inputs, torch.arange(length)[None], mask)
    for logits in (raster, logits_by_column(model, inputs, mask, 1, SIDE)):
        torch.testing.assert_close(logits[:, :-1], expected, atol=1e-4, rtol=1e-4)


def test_greedy_decoding_equals_its_own_generate(language, model):
    begin = torch.full((1, 1), CODES)
    expected = language.generate(begin, max_length=SIDE**2 + 1, do_sample=False)[:, 1:]
    assert len(expected.unique()) > 2
    for method, result in exact_greedy(model, [""]):
        assert torch.equal(result.tokens, expected), method


def test_likelihoods_are_those_of_the_plain_forward(language, model):
    tokens = generate(model, ["", ""], "pjd", seed=3, top_k=0).tokens
    nats, _ = log_likelihood(model, ["", ""], tokens, guidance=1.0, temperature=1.0)
    ids = torch.cat([torch.full((2, 1), CODES), tokens[:, :-1]], dim=1)
    with torch.no_grad():
        expected = language(input_ids=ids).logits.log_softmax(-1)
    torch.testing.assert_close(nats, expected.gather(-1, tokens[..., None]).squeeze(-1))


def test_every_preset_runs_and_pixels_are_the_colours_of_the_checkpoint(model):
    for method in PRESETS:
        result = generate(model, ["", ""], method, top_k=5, seed=1)
        assert result.tokens.max() < CODES and result.images[0].size == (SIDE, SIDE)
    # The arithmetic of its card: rint(127.5 * (cluster + 1)).
    first, last = model.decode(torch.tensor([[0] * 15 + [CODES - 1]]))[0].flatten(0, 1)[[0, -1]]
    assert first.tolist() == [0, 2, 4] and last.tolist() == [251, 253, 255]
    assert torch.allclose(model.codebook.norm(dim=-1), torch.ones(CODES))


def test_prompts_and_guidance_are_refused(model):
    with pytest.raises(ParameterError, match="'a cat': must be ''"):
        generate(model, ["a cat"])
    with pytest.raises(ParameterError, match=r"guidance = 3\.0: must be 1"):
        generate(model, [""], guidance=3.0)
    with pytest.raises(ParameterError, match="must hold at least one"):
        generate(model, [])


def test_torch_files_and_the_masks_of_older_ones_are_read(language, folder, model):
    tensors = language.state_dict()
    for layer in range(SIZES["n_layer"]):
        tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, SIDE**2, SIDE**2).tril()
        tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert CATALOGUE["imagegpt-small"].missing(folder) == []
    again = imagegpt.load("imagegpt-small", folder)
    assert torch.equal(generate(again, [""]).tokens, generate(model, [""]).tokens)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors or pytorch_model\.bin"):
        imagegpt.load("imagegpt-small", folder)


class Evil:
    """What a malicious file runs when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit('run')",)


def test_files_that_do_not_fit_are_refused_by_name(language, folder):
    described = json.loads((folder / "preprocessor_config.json").read_text())
    for clusters in (None, [], [[0, 0, 0]], [["red"] * 3] * CODES, [[float("nan")] * 3] * CODES):
        changed = json.dumps({**described, "clusters": clusters})
        (folder / "preprocessor_config.json").write_text(changed)
        with pytest.raises(ValueError, match="clusters must be 48 colours"):
            imagegpt.load("imagegpt-small", folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(described))
    config = json.loads((folder / "config.json").read_text())
    bad = {"activation_function": "relu", "n_positions": 15, "scale_attn_weights": False}
    for name, value in bad.items():
        (folder / "config.json").write_text(json.dumps({**config, name: value}))
        with pytest.raises(ValueError, match=f"{name} = {value!r}"):
            imagegpt.load("imagegpt-small", folder)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = language.state_dict()
    del tensors["transformer.ln_f.weight"]
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"missing transformer\.ln_f\.weight"):
        imagegpt.load("imagegpt-small", folder)
    torch.save({"x": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="is damaged, or holds more than tensors"):
        imagegpt.load("imagegpt-small", folder)


def test_the_command_line_makes_images_without_prompts(folder, tmp_path):
    name, output = ["--model", str(folder), "--top-k", "5"], ["-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["generate", *name, "--images", "3", "--method", "ar", *output])
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "out").iterdir())) == 3
    done = CliRunner().invoke(app, ["generate", "a cat", *name, *output])
    assert isinstance(done.exception, ParameterError)
    assert "takes no prompts; --images says how many" in str(done.exception)
    done = CliRunner().invoke(app, ["generate", *name, "--guidance", "2", *output])
    assert "must be 1" in str(done.exception)
    compared = ["compare", *name, "--images", "2", "--methods", "ar,mc-sjd", *output]
    done = CliRunner().invoke(app, compared)
    assert done.exit_code == 0 and "2 images, seed 0, top-k 5, cpu" in done.output
    (picture,) = (tmp_path / "out").glob("comparison-*.png")
    assert picture.stat().st_size > 1000


def test_the_catalogue_has_all_sizes():
    for size in ("small", "medium", "large"):
        checkpoint = CATALOGUE[f"imagegpt-{size}"]
        assert (checkpoint.rows, checkpoint.columns, checkpoint.family) == (32, 32, "imagegpt")
        assert not checkpoint.takes_prompts and not checkpoint.takes_guidance
        assert checkpoint.sampling == imagegpt.IMAGEGPT_SAMPLING
