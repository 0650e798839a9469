"""A tiny checkpoint of each family in a folder of weights, through the command line."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel
from typer.testing import CliRunner

from pjd.cli import app
from pjd.doctor import weights as weights_found
from pjd.models import (
    chameleon,
    emu3,
    glm_image,
    imagegpt,
    janus,
    liquid,
    llamagen_official,
    lumina_mgpt_2,
    simplear,
)
from pjd.models.catalogue import CATALOGUE, INDEX
from pjd.models.chameleon import VQ
from pjd.models.registry import load
from tests import (
    test_emu3,
    test_glm_image,
    test_janus,
    test_liquid,
    test_lumina_mgpt_2,
    test_simplear,
)
from tests.backbones import ANOLE, LUMINA, save_checkpoint, tiny_chameleon
from tests.test_llamagen_official import DIM, GRID, HEADS, LAYERS, Tiny, tiny_vq
from tests.test_llamagen_official import weights as llamagen_weights

PROMPTS = ["cat " * 500, "🐈‍⬛ cat", "قطة حمراء", "a red\n\ncat"]
NAMES = ["lumina-mgpt-7b-768", "anole-7b", "janus-pro-1b", "emu3-gen", "llamagen-t2i-xl-256"]
NAMES += ["liquid-7b", "simplear-0.5b", "glm-image", "lumina-mgpt-2-7b"]

janus_language, janus_folder = test_janus.language, test_janus.folder
emu3_language, emu3_folder = test_emu3.language, test_emu3.folder
liquid_language, liquid_folder, vq = test_liquid.language, test_liquid.folder, test_liquid.vq
simplear_language, simplear_folder = test_simplear.language, test_simplear.folder
glm_image_language, glm_image_folder = test_glm_image.language, test_glm_image.folder
lumina_mgpt_2_language, movq = test_lumina_mgpt_2.language, test_lumina_mgpt_2.movq
lumina_mgpt_2_folder = test_lumina_mgpt_2.folder


@pytest.fixture
def language(request):
    """The transformers model that the family's own tests save: they call it so."""
    return request.getfixturevalue(f"{CATALOGUE[request.getfixturevalue('name')].family}_language")


def save_anole(folder: Path) -> None:
    tensors, pictures = save_checkpoint(folder, *tiny_chameleon(ANOLE))
    within = {VQ + name: value for name, value in pictures.items()}
    save_file(tensors | within, folder / "model.safetensors")


def save_captions(folder: Path) -> None:
    """A T5 encoder that knows no word, with its tokenizer."""
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    sizes = {"d_model": llamagen_official.FEATURES, "d_kv": 4, "d_ff": 8, "num_heads": 2}
    T5EncoderModel(T5Config(vocab_size=3, num_layers=1, **sizes)).save_pretrained(folder)


@pytest.fixture
def weights(name, request, tmp_path_factory, monkeypatch) -> Path:
    """A folder of weights with the tiny checkpoint, and with what it needs beside it."""
    where = tmp_path_factory.mktemp("weights")
    family = CATALOGUE[name].family
    if family == "chameleon":
        written = ANOLE if name == "anole-7b" else LUMINA
        monkeypatch.setitem(chameleon.FORMATS, name, written)
        monkeypatch.setitem(CATALOGUE, name, replace(CATALOGUE[name], sampling=written.sampling))
        save_anole(where / "anole-7b")
        if name != "anole-7b":
            save_checkpoint(where / name, *tiny_chameleon(LUMINA))
    elif family == "llamagen_official":
        tiny = Tiny(DIM, LAYERS, HEADS, GRID, captioned=True)
        monkeypatch.setitem(llamagen_official.FORMATS, name, tiny)
        monkeypatch.setattr(llamagen_official, "LlamaGenVQ", tiny_vq)
        for folder in (name, "llamagen-vq"):
            (where / folder).mkdir()
        torch.save({"module": llamagen_weights(True)}, where / name / "t2i_XL_stage1_256.pt")
        torch.save({"model": tiny_vq(5).state_dict()}, where / "llamagen-vq" / "vq_ds16_t2i.pt")
        save_captions(where / "flan-t5-xl")
    else:
        monkeypatch.setattr(emu3, "SIDE", 4)
        folder = request.getfixturevalue(f"{family}_folder")
        (where / name).symlink_to(folder)
        for part in CATALOGUE[name].beside.values():
            (where / part).parent.mkdir(exist_ok=True)
            (where / part).symlink_to(folder.parent / part)
    for module in ("paths", "models.registry", "models.listed", "doctor"):
        monkeypatch.setattr(f"pjd.{module}.WEIGHTS", where)
    # No model is too large for it.
    monkeypatch.setattr("pjd.doctor.gpu_memory", lambda: [1000.0])
    monkeypatch.setenv("COLUMNS", "200")
    return where


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_each_family_takes_any_caption(name, weights, tmp_path):
    output = tmp_path / "out"
    options = ["--model", name, "--context", "2", "--top-k", "5", "-o", str(output)]
    done = CliRunner().invoke(app, ["generate", *PROMPTS, *options])
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == len(PROMPTS)
    assert len(list(output.iterdir())) == len(PROMPTS)
    for path in output.iterdir():
        with Image.open(path) as image:
            assert image.width > 4


@pytest.mark.skipif(find_spec("torchao") is None, reason="needs pjd[int8]")
@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_each_family_is_decoded_in_8_bits(name, weights, tmp_path):
    output = tmp_path / "out"
    options = ["--model", name, "--context", "2", "--top-k", "5", "-o", str(output)]
    done = CliRunner().invoke(app, ["generate", PROMPTS[1], *options, "--quantize", "int8"])
    assert done.exit_code == 0, done.output
    (path,) = output.iterdir()
    with Image.open(path) as image:
        assert json.loads(image.info["pjd"])["quantize"] == "int8"


@pytest.mark.parametrize("name", NAMES)
def test_all_of_a_model_moves_to_its_device(name, weights):
    model = load(name)
    if name == "simplear-0.5b":
        # A program in TorchScript does not run on "meta".
        model.pixels = torch.nn.Identity()
    model.to("meta")
    parts = [part for part in vars(model).values() if isinstance(part, torch.nn.Module)]
    tensors = [part for part in vars(model).values() if isinstance(part, torch.Tensor)]
    tensors += [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
    assert len(tensors) > 10 and all(tensor.is_meta for tensor in tensors)


@pytest.mark.parametrize("name", ["lumina-mgpt-2-7b"])
def test_an_image_decoder_in_a_torch_file_may_be_converted_and_then_goes(name, weights, tmp_path):
    file = weights / "movqgan" / "movqgan_270M.ckpt"
    convert = ["convert", str(file), str(file.with_suffix(".safetensors"))]
    arguments = ["compare", *PROMPTS[1:], "--model", name, "--context", "2", "--top-k", "5"]
    arguments += ["--methods", "ar,jacobi,pjd", "--guidance", "9", "-o", str(tmp_path / "out")]
    for command in (convert, arguments):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
        file.unlink(missing_ok=True)
    assert len(list((tmp_path / "out").glob("comparison-*.png"))) == 1
    assert on_disk(name) == "yes"


def on_disk(name: str) -> str:
    """What `pjd models` says of a checkpoint."""
    lines = CliRunner().invoke(app, ["models"]).stdout.splitlines()
    return next(line for line in lines if f" {name} " in line).split("│")[2].strip()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_named_by_doctor_and_refused_by_generate(name, weights, tmp_path):
    def said() -> tuple[bool, str]:
        return next((good, text) for good, subject, text in weights_found() if subject == name)

    assert CATALOGUE[name].missing(weights / name) == []
    assert on_disk(name) == "yes" and said()[0]
    for number, file in enumerate(sorted((weights / name).iterdir())):
        content = file.read_bytes()
        file.unlink()
        lacking = CATALOGUE[name].missing(weights / name)
        good, text = said()
        assert good == (not lacking) and all(part in text for part in lacking)
        assert on_disk(name) == ("incomplete" if lacking else "yes")
        arguments = ["cat", "--model", name, "--top-k", "5", "-o", str(tmp_path / str(number))]
        done = CliRunner().invoke(app, ["generate", *arguments])
        assert (done.exit_code != 0) == bool(lacking), file
        file.write_bytes(content)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12345\n"


@pytest.mark.parametrize("name", NAMES)
def test_pointers_and_half_files_are_named_with_what_to_do_and_silence_no_other(
    name, weights, tmp_path
):
    read = CATALOGUE[name].files(weights / name)
    assert read
    for file in read:
        content = file.read_bytes()
        for bad in (POINTER.encode(), b"", content[: len(content) // 2]):
            file.write_bytes(bad)
            # Of some files half is as good as all, as far as their first bytes tell.
            if not CATALOGUE[name].faults(weights / name):
                assert bad and not file.name.endswith((".json", ".safetensors", ".pt"))
                continue
            found = {
                text for good, subject, text in weights_found() if subject == name and not good
            }
            assert any(str(file) in text and "download it again" in text for text in found), file
            assert on_disk(name) == "damaged"
            listed = CliRunner().invoke(app, ["models"])
            assert str(file) in "".join(listed.stdout.split())
            assert listed.exit_code == 0 and all(other in listed.stdout for other in CATALOGUE)
            arguments = ["cat", "--model", name, "--top-k", "5", "-o", str(tmp_path / "out")]
            done = CliRunner().invoke(app, ["generate", *arguments])
            assert isinstance(done.exception, ValueError) and str(file) in str(done.exception)
            assert not (tmp_path / "out").exists()
        file.write_bytes(content)


@pytest.mark.parametrize("name", ["janus-pro-1b"])
@pytest.mark.parametrize("content", ["{}", '{"weight_map": 3}', "[1]", "{"])
def test_an_index_that_says_nothing_is_named(name, weights, content):
    (weights / name / INDEX).write_text(content)
    found = [text for good, subject, text in weights_found() if subject == name and not good]
    assert any(INDEX in text for text in found)
    assert on_disk(name) == "damaged"


@pytest.mark.parametrize("name", ["janus-pro-1b", "emu3-gen", "lumina-mgpt-7b-768", NAMES[-1]])
@pytest.mark.parametrize("file", ["tokenizer.json", "config.json"])
def test_files_that_are_json_but_of_another_kind_are_refused_in_one_line(
    name, weights, file, tmp_path
):
    (weights / name / file).write_text('{"version": [], "hidden_size": [], "vocabulary_map": 3}')
    arguments = ["generate", "cat", "--model", name, "--top-k", "5", "-o", str(tmp_path)]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, ValueError), repr(done.exception)
    assert str(weights / name) in str(done.exception) and "\n" not in str(done.exception)


@pytest.mark.parametrize("name", ["lumina-mgpt-7b-768"])
def test_folders_beside_are_needed_and_a_folder_of_the_same_name_elsewhere_will_do(
    name, weights, tmp_path, monkeypatch
):
    monkeypatch.setattr("pjd.models.registry.WEIGHTS", tmp_path / "empty")
    arguments = ["generate", "cat", "--model", str(weights / name), "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    (weights / "anole-7b" / "model.safetensors").unlink()
    (weights / name / "tokenizer.json").unlink()
    assert CATALOGUE[name].missing(weights / name) == [
        "tokenizer.json or ../lumina-mgpt-7b-768/tokenizer.json",
        "../anole-7b/*.safetensors",
    ]


def test_the_shards_that_an_index_names_are_needed(tmp_path):
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (tmp_path / INDEX).write_text(json.dumps(index))
    for file in ("config.json", "tokenizer.json", "a.safetensors"):
        (tmp_path / file).touch()
    assert CATALOGUE["anole-7b"].missing(tmp_path) == ["b.safetensors"]
    (tmp_path / INDEX).unlink()
    assert CATALOGUE["anole-7b"].missing(tmp_path) == [f"model.safetensors or {INDEX}"]


def test_the_catalogue_has_the_defaults_of_the_families():
    formats = chameleon.FORMATS | llamagen_official.FORMATS
    defaults = {
        "emu3": emu3.SAMPLING,
        "glm_image": glm_image.SAMPLING,
        "imagegpt": imagegpt.IMAGEGPT_SAMPLING,
        "janus": janus.SAMPLING,
        "liquid": liquid.SAMPLING,
        "lumina_mgpt_2": lumina_mgpt_2.SAMPLING,
        "simplear": simplear.SAMPLING,
    }
    for name, official in CATALOGUE.items():
        expected = formats[name].sampling if name in formats else defaults[official.family]
        assert official.sampling == expected, name
