"""The command line: what is asked, made, skipped and refused."""

import json

import pytest
from PIL import Image
from tiny import tiny_model
from typer.testing import CliRunner

from pjd.cli import app
from pjd.config import ParameterError
from pjd.models import registry
from pjd.models.catalogue import CATALOGUE

run = CliRunner().invoke


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The command line with a tiny model, whatever is asked for, in an empty folder."""
    model = tiny_model(grid=4, vocabulary=7)
    monkeypatch.setattr(registry, "resolve", lambda name: tmp_path / name)
    monkeypatch.setattr(registry, "load", lambda *_, **__: model)
    monkeypatch.setattr("pjd.jobs.load", lambda *_, **__: model)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_images_are_made_once(tiny):
    arguments = ["generate", "cat", "red dog", "--images", "2", "--model", "x", "--method", "sjd"]
    first = run(app, arguments)
    assert first.exit_code == 0, first.output
    files = sorted((tiny / "out").iterdir())
    assert [path.name[:4] for path in files] == ["0000", "0001", "0002", "0003"]
    assert "steps" in first.output
    before = {path: path.stat().st_mtime_ns for path in files}
    files[2].unlink()
    again = run(app, arguments)
    assert "3 of 4 images are in out already" in again.output
    assert sum(path.stat().st_mtime_ns == before[path] for path in files) == 3


def test_captions_come_from_a_file_too(tiny):
    (tiny / "mine.txt").write_text("dog\n\n🐈 cat\n", encoding="utf-8")
    done = run(app, ["generate", "red", "--file", "mine.txt", "--method", "zipar"])
    assert done.exit_code == 0, done.output
    made = [json.loads(Image.open(path).text["pjd"]) for path in sorted((tiny / "out").iterdir())]
    assert [entry["prompt"] for entry in made] == ["red", "dog", "🐈 cat"]


@pytest.mark.parametrize(
    ("caption", "shown"),
    [
        ("cat " * 500, "cat cat"),
        ("قطة حمراء", "قطة حمراء"),
        ("red\ncat", "red cat"),
        ("🐈", "🐈"),
    ],
    ids=["2,000 characters", "right to left", "newline", "emoji"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_any_caption_is_made_into_an_image_and_shown_in_one_line(tiny, caption, shown):
    done = run(app, ["generate", caption, "--method", "zipar"])
    assert done.exit_code == 0, done.output
    assert shown in done.output and done.output.strip().count("\n") == 0
    assert len(list((tiny / "out").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "prompts = []"),
        (["cat", " "], "prompt = ' '"),
        (["cat", "--images", "0"], "images = 0"),
        (["cat", "--workers", "0"], "workers = 0"),
        (["cat", "--dtype", "int8"], "dtype = 'int8'"),
        (["cat", "--set", "stand_in"], "--set = 'stand_in'"),
        (["cat", "--set", "stand_in=left"], "stand_in = 'left'"),
        (["--file", "absent.txt"], "no file absent.txt"),
    ],
)
def test_what_is_not_allowed_is_refused_before_a_model_loads(tiny, monkeypatch, arguments, message):
    monkeypatch.setattr("pjd.jobs.load", lambda *_: pytest.fail("a model was loaded"))
    done = run(app, ["generate", *arguments])
    assert isinstance(done.exception, ParameterError | FileNotFoundError)
    assert message in str(done.exception) and "\n" not in str(done.exception)
    assert not (tiny / "out").exists()


def test_a_failing_caption_is_named_and_the_others_are_made(tiny, monkeypatch):
    model = registry.load()
    encode = model.encode

    def fails(prompts, guided):
        if "dog" in prompts:
            raise RuntimeError("out of memory\nand more")
        return encode(prompts, guided)

    monkeypatch.setattr(model, "encode", fails)
    done = run(app, ["generate", "cat", "dog", "red", "--method", "zipar"])
    assert done.exit_code == 1
    assert "image 1 ('dog'): out of memory\n" in done.output
    assert len(list((tiny / "out").iterdir())) == 2


def test_methods_are_compared_on_the_same_captions(tiny):
    arguments = ["compare", "cat", "dog", "--methods", "ar,zipar,pjd", "--context", "2"]
    done = run(app, arguments)
    assert done.exit_code == 0, done.output
    with Image.open(tiny / "out" / "comparison.png") as picture:
        assert picture.width > 100
    # A 4x4 grid: 16 forwards, and 4 + 3 * 2.
    assert "16.0" in done.output and "10.0" in done.output


def test_models_and_doctor_name_every_checkpoint(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for command in ("models", "doctor"):
        done = run(app, [command])
        assert done.exit_code == 0
        for name in ("emoji-64", *CATALOGUE):
            assert name in done.output
    for official in CATALOGUE.values():
        assert (registry.WEIGHTS.parent / official.guide).exists()


def test_a_checkpoint_that_is_not_there_says_where_its_guide_is():
    with pytest.raises(ParameterError, match=r"no folder .*docs/checkpoints_chameleon\.md"):
        registry.resolve("anole-7b")
