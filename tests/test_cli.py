"""The command line: what is asked, made, skipped and refused."""

import errno
import json
import os
import subprocess
import sys

import pytest
import torch
from click import unstyle
from matplotlib.figure import Figure
from PIL import Image
from rich.progress import Progress
from safetensors.torch import save_file
from typer.testing import CliRunner

from pjd import doctor, jobs
from pjd.cli import app, main
from pjd.errors import ParameterError
from pjd.models import registry
from pjd.models.catalogue import CATALOGUE
from pjd.paths import ROOT
from pjd.pipeline import figures
from tests.tiny import tiny_model

run = CliRunner().invoke


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The command line with a tiny model, whatever is asked for, in an empty folder."""
    model = tiny_model(grid=4, vocabulary=7)
    monkeypatch.setattr(registry, "resolve", lambda name: tmp_path / name)
    monkeypatch.setattr(registry, "default_sampling", lambda name: model.sampling)
    monkeypatch.setattr(registry, "sizes_of", lambda name: registry.Sizes(4, 4, 16, 7))
    monkeypatch.setattr(registry, "load", lambda *_, **__: model)
    monkeypatch.setattr(jobs, "load", lambda *_, **__: model)
    monkeypatch.setattr(jobs, "resolve", registry.resolve)
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


def test_damaged_images_are_made_again_and_named(tiny):
    arguments = ["generate", "cat", "red dog", "fox", "--model", "x", "--method", "zipar"]
    assert run(app, arguments).exit_code == 0
    files = sorted((tiny / "out").iterdir())
    before = [Image.open(path).tobytes() for path in files]
    files[0].write_bytes(b"")
    files[2].write_bytes(files[2].read_bytes()[:-9])
    again = run(app, arguments)
    assert "1 of 3 images are in out already" in again.output
    assert f"since the files are damaged: {files[0].name}, {files[2].name}" in again.output
    assert [Image.open(path).tobytes() for path in files] == before


@pytest.mark.parametrize(
    ("changed", "images"),
    [
        ([], 1),
        (["--dtype", "float32"], 1),
        (["--dtype", "bfloat16"], 2),
        (["--dtype", "float16"], 2),
        (["--model", "other/x"], 1),
        (["--model", "y"], 2),
        (["--batch-size", "3"], 1),
    ],
)
def test_what_changes_an_image_changes_its_name(tiny, changed, images):
    arguments = ["generate", "cat", "--model", "x", "--method", "zipar"]
    for more in ([], changed):
        assert run(app, [*arguments, *more]).exit_code == 0
    made = [json.loads(Image.open(path).text["pjd"]) for path in (tiny / "out").iterdir()]
    assert len(made) == images == len({(one["model"], one["dtype"]) for one in made})
    assert all(one["made_with"]["device"] in ("cpu", "cuda") for one in made)


def test_other_weights_at_the_same_place_make_other_images(tiny):
    arguments = ["generate", "cat", "--model", "x", "--method", "zipar"]
    (tiny / "x").mkdir()
    for content in ({"w": torch.zeros(9)}, {"w": torch.ones(9)}, {"w": torch.zeros(9)}):
        save_file(content, tiny / "x" / "model.safetensors")
        assert run(app, arguments).exit_code == 0
    assert len(list((tiny / "out").iterdir())) == 2


@pytest.mark.parametrize("command", ["generate", "compare"])
@pytest.mark.parametrize("place", ["file", "file/below", "/proc/none", "/dev/null/below"])
def test_an_output_folder_that_cannot_be_written_is_refused_before_a_model_loads(
    tiny, monkeypatch, command, place
):
    (tiny / "file").touch()
    monkeypatch.setattr(registry, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    monkeypatch.setattr(jobs, "load", registry.load)
    done = run(app, [command, "cat", "-o", place])
    assert isinstance(done.exception, ParameterError), done.output
    assert f"output = '{place}': must be a folder that can be written" in str(done.exception)


def test_a_full_disk_is_found_before_a_model_loads(tiny, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    monkeypatch.setattr(jobs, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    done = run(app, ["generate", "cat", "-o", "out"])
    assert "output = 'out'" in str(done.exception) and "No space left" in str(done.exception)


def test_what_a_killed_process_left_is_removed_once_it_is_old(tiny):
    (tiny / "out").mkdir()
    old, new = (tiny / "out" / f".{name}.partial" for name in ("old", "new"))
    for path in (old, new):
        path.touch()
    os.utime(old, (0, 0))
    assert run(app, ["generate", "cat", "--method", "zipar"]).exit_code == 0
    assert new.exists() and not old.exists()


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
        (["cat", "--batch-size", "0"], "batch_size = 0"),
        (["cat", "--device", "foo"], "device = 'foo': must be one of cpu, cuda"),
        (["cat", "--device", "foo", "--workers", "2"], "device = 'foo': must be one of cpu, cuda"),
        (["red", "caf\udce9"], "prompt = 'caf\\udce9': must be UTF-8"),
        (["cat", "--set", "stand_in"], "--set = 'stand_in'"),
        (["cat", "--set", "stand_in=left"], "stand_in = 'left'"),
        (["cat", "--set", "stand_in=[a"], "stand_in = '[a'"),
        (["cat", "--set", "stand_in=!!int x"], "stand_in = '!!int x'"),
        (["cat", "--set", "method=ar"], "method = 'ar': is no option of a method"),
        (["cat", "--set", "name=x"], "name = 'x': no such option"),
        (["cat", "--set", "layout=raster"], "layout = 'raster': is what a method is made for"),
        (["cat", "--context", "4", "--set", "context=8"], "context = 8: is given twice, also as 4"),
        (["cat", "--set", "rows=2", "--set", "rows=3"], "rows = 3: is given twice, also as 2"),
        (["cat", "--seed", "1", "--set", "seed=5"], "seed = 5: is given twice, also as 1"),
        (["cat", "--set", "guidance=nan"], "guidance = nan: must be a number from 0 to 1000"),
        (["cat", "--guidance", "inf"], "guidance = inf"),
        (["cat", "--temperature", "1e-40"], "temperature = 1e-40"),
        (["cat", "--images", "99999999999"], "images = 99999999999: must be an integer from 1"),
        (["--file", "absent.txt"], "no file absent.txt"),
        (
            ["cat", "dog", "--images", "2", "--seed", str(2**62 - 2)],
            f"seed = {2**62 - 2}: must be at most {2**62 - 3}: 4 images have seeds from it on",
        ),
        (["cat", "--top-k", "8"], "top_k = 8: must be an integer from 0 to 7"),
        (["cat", "--rows", "5"], "rows = 5: must be an integer from 1 to 4"),
        (["cat", "--window", "65"], "window = 65: must be an integer from 1 to 64"),
    ],
)
def test_what_is_not_allowed_is_refused_before_a_model_loads(tiny, monkeypatch, arguments, message):
    monkeypatch.setattr(jobs, "load", lambda *_: pytest.fail("a model was loaded"))
    done = run(app, ["generate", *arguments])
    assert isinstance(done.exception, ParameterError | FileNotFoundError)
    assert message in str(done.exception) and "\n" not in str(done.exception)
    assert not (tiny / "out").exists()


@pytest.mark.parametrize("command", ["generate", "compare"])
def test_an_option_that_only_the_loaded_model_refuses_is_refused_once(tiny, monkeypatch, command):
    # As of an official checkpoint, whose number of codes is in its weights.
    monkeypatch.setattr(registry, "sizes_of", lambda name: registry.Sizes(4, 4))
    done = run(app, [command, "cat", "dog", "--top-k", "8", "--batch-size", "1"])
    assert isinstance(done.exception, ParameterError), done.output
    assert str(done.exception) == "top_k = 8: must be an integer from 0 to 7"
    assert not list((tiny / "out").iterdir()) and done.output == ""


def test_a_comparison_refuses_what_does_not_fit_before_the_model_loads(tiny, monkeypatch):
    monkeypatch.setattr(registry, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    done = run(app, ["compare", "cat", "--top-k", "8"])
    assert "top_k = 8: must be an integer from 0 to 7" in str(done.exception)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["context=3", "top_k=5"], {"context": 3, "top_k": 5}),
        (["guidance=7", "temperature=5e-05"], {"guidance": 7, "temperature": 5e-05}),
        (["seed=9", "window=2", "rows=null"], {"seed": 9, "window": 2, "rows": None}),
        (["stand-in=above", "top_p=0.5"], {"stand_in": "above", "top_p": 0.5}),
    ],
)
def test_an_option_that_has_a_flag_may_be_set_without_it(tiny, given, expected):
    arguments = [word for option in given for word in ("--set", option)]
    done = run(app, ["generate", "cat", *arguments])
    assert done.exit_code == 0, done.output
    (path,) = (tiny / "out").iterdir()
    made = json.loads(Image.open(path).text["pjd"])["config"]
    assert {name: made[name] for name in expected} == expected


def test_a_terminal_without_the_letters_of_a_caption_loses_no_image(tiny):
    # What CliRunner writes to is UTF-8, so this is another process.
    script = """
import pathlib
import sys
from pjd import cli, jobs
from pjd.models import registry
from tests.tiny import tiny_model
model = tiny_model(grid=4, vocabulary=7)
registry.resolve = jobs.resolve = lambda name: pathlib.Path(name)
registry.default_sampling = lambda name: {}
registry.sizes_of = lambda name: registry.Sizes(6, 6)
jobs.load, jobs.weights_of = lambda *_, **__: model, lambda name: "0"
sys.argv = ["pjd", "generate", "--model", "x", "--method", "zipar", "--file", "mine.txt"]
cli.main()
"""
    (tiny / "mine.txt").write_text("\U0001f408\ncaf\xe9\n", encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    environment["PYTHONIOENCODING"] = "latin-1"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"\\U0001f408" in done.stdout and b"caf\xe9" in done.stdout
    assert len(list((tiny / "out").iterdir())) == 2


@pytest.mark.parametrize("command", ["generate", "compare"])
def test_a_gpu_that_is_not_there_is_refused(tiny, monkeypatch, command):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(registry, "load", lambda *_: pytest.fail("a model was loaded"))
    monkeypatch.setattr(jobs, "load", registry.load)
    done = run(app, [command, "cat", "--device", "cuda"])
    assert str(done.exception) == "device = 'cuda': must be cpu: torch finds no such device here"


@pytest.mark.parametrize(
    ("model", "gpu", "asked", "expected"),
    [
        ("emoji", False, [], (64, "cpu")),
        ("emoji", True, [], (64, "cuda")),
        ("anole-7b", True, [], (1, "cuda")),
        ("/elsewhere/anole-7b", True, ["--device", "cpu", "--batch-size", "3"], (3, "cpu")),
        ("/elsewhere/anole-7b", False, [], (1, "cpu")),
        # Ray's GPUs may be on other machines.
        ("emoji", False, ["--device", "cuda", "--workers", "2"], (64, "cuda")),
    ],
)
def test_a_gpu_is_used_if_there_is_one_and_large_models_decode_one_image_at_a_time(
    tiny, monkeypatch, model, gpu, asked, expected
):
    used = []

    def record(*_, batch_size, device, **__):
        used.append((batch_size, device))
        return []

    monkeypatch.setattr(jobs, "run", record)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    done = run(app, ["generate", "cat", "--model", model, *asked])
    assert done.exit_code == 0, done.output
    assert used == [expected]


def test_torch_is_not_imported_for_help_a_list_or_a_refusal():
    script = """
import sys
from typer.main import get_command
from typer.testing import CliRunner
from pjd.cli import app
listed = [["--help"], ["models"], *([name, "--help"] for name in get_command(app).commands)]
refused = [["cat", "--model", "none"], ["cat", "--device", "foo"], ["cat", "--context", "0"], [" "]]
for arguments in (*listed, *(["generate", *more] for more in refused)):
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code == 0) == (arguments in listed), (arguments, done.output)
    assert "torch" not in sys.modules, arguments
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def terminal(monkeypatch):
    """Let rich take what it writes to for a terminal, and draw whatever it is told at once."""
    update = Progress.update
    monkeypatch.setattr(Progress, "update", lambda *to, **what: update(*to, **what, refresh=True))
    for name, value in {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "--method", "zipar", "--batch-size", "2"],
        ["compare", "--methods", "zipar", "--batch-size", "2"],
    ],
)
def test_one_bar_shows_all_images_steps_tokens_per_step_and_time_left(tiny, terminal, command):
    done = run(app, [command[0], "cat", "dog", "red", *command[1:]])
    assert done.exit_code == 0, done.output
    drawn = unstyle(done.stderr)
    # Of a 4x4 grid, with whole rows of context: one code an image in each of 16 steps.
    for shown in (
        "0/3 images -:--:-- left",
        "1/3 images, 8 steps, 1.0 tokens",
        "3/3 images, 16 st",
    ):
        assert shown in drawn
    assert "2/3 images, 15 steps, 1.0 tokens per step 0:00:0" in drawn
    assert "tokens per step" not in done.stdout


def test_without_a_terminal_there_is_no_bar(tiny):
    assert run(app, ["generate", "cat", "--method", "zipar"]).stderr == ""


def test_the_bar_moves_by_images_that_several_workers_finish(tiny, terminal, monkeypatch):
    def remote(name, batches, *_):
        for batch in batches:
            yield batch, RuntimeError("lost")

    monkeypatch.setattr(jobs, "run_remote", remote)
    arguments = ["generate", "cat", "dog", "red", "--workers", "2", "--batch-size", "1"]
    done = run(app, arguments)
    assert done.exit_code == 1
    assert all(f"{count}/3 images" in unstyle(done.stderr) for count in (0, 1, 2, 3))


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


@pytest.mark.parametrize("damaged", ["dog", "red"])
def test_a_damaged_image_is_one_line_and_the_others_are_made(tiny, damaged):
    model = registry.load()
    with torch.no_grad():
        model.word_vectors.weight[model.words.index[damaged]] = float("nan")
    prompts = ["cat", "dog", "red"]
    done = run(app, ["generate", *prompts, "--method", "pjd"])
    assert done.exit_code == 1
    number = prompts.index(damaged)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"pjd: image {number} ({damaged!r}): the image with seed {number}, step")
    assert "logits are not finite numbers" in line
    made = [json.loads(Image.open(path).text["pjd"]) for path in (tiny / "out").iterdir()]
    assert {entry["prompt"] for entry in made} == set(prompts) - {damaged}


def test_a_damaged_model_is_one_line(tiny, monkeypatch, capsys):
    with torch.no_grad():
        registry.load().transformer.layers[0].attention.wo.weight[0, 0] = float("nan")
    for command in (["generate", "cat"], ["compare", "cat", "red"]):
        monkeypatch.setattr(sys, "argv", ["pjd", *command])
        with pytest.raises(SystemExit) as stopped:
            main()
        (line,) = capsys.readouterr().err.splitlines()
        assert stopped.value.code == 1 and "logits are not finite numbers" in line
    assert not list(tiny.glob("out/*"))


def test_methods_are_compared_on_the_same_captions(tiny):
    arguments = ["compare", "cat", "dog", "--methods", "ar,zipar,pjd", "--context", "2"]
    done = run(app, arguments)
    assert done.exit_code == 0, done.output
    (written,) = (tiny / "out").glob("comparison-*.png")
    with Image.open(written) as picture:
        assert picture.width > 100
    # A 4x4 grid: 16 forwards, and 4 + 3 * 2.
    assert "16.0" in done.output and "10.0" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "sjd,ar,sjd"], "methods = 'sjd,ar,sjd': names sjd twice"),
        (["--methods", "ar,sjd", "--context", "3"], "context = 3: method ar has no such option"),
        (["--methods", "ar,x"], "method = 'x': must be one of ar"),
        (["--seed", str(2**62), "--images", "2"], f"seed = {2**62}: must be at most {2**62 - 1}"),
    ],
)
def test_a_comparison_that_would_not_be_what_was_asked_for_is_refused(
    tiny, monkeypatch, arguments, message
):
    monkeypatch.setattr(registry, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    done = run(app, ["compare", "cat", *arguments])
    assert isinstance(done.exception, ParameterError), done.output
    assert message in str(done.exception) and "\n" not in str(done.exception)


def test_table_and_picture_name_the_options_that_were_given(tiny, monkeypatch):
    titles, image_rows = [], figures.image_rows

    def watched(*drawn: object) -> Figure:
        """The figure, whose title is kept once it has one."""
        titles.append(image_rows(*drawn))
        return titles[-1]

    monkeypatch.setattr(figures, "image_rows", watched)
    options = ["--context", "2", "--guidance", "6", "--temperature", "0.5", "--images", "17"]
    options += ["--seed", "12345678"]
    done = run(app, ["compare", "cat", "--methods", "zipar,pjd", *options])
    assert done.exit_code == 0, done.output
    (figure,) = titles
    assert len(figure.axes) == 2 * 16
    told = "seed 12345678, context 2, guidance 6, temperature 0.5, "
    for title in (figure.get_supxlabel(), done.output):
        assert told in " ".join(title.split())
        assert "17 images (the first 16 in the picture)" in " ".join(title.split())
    # Over all images: each has 4 + 3 * 2 steps.
    assert "10.0" in done.output
    assert "top-k" not in done.output


def test_models_and_doctor_name_every_checkpoint(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for command in ("models", "doctor"):
        done = run(app, [command])
        assert done.exit_code == 0
        for name in ("emoji-64", *CATALOGUE):
            assert name in done.output
    # rich would take the name in brackets for a style.
    assert "pjd[int8]" in done.output
    for official in CATALOGUE.values():
        assert (registry.WEIGHTS.parent / official.guide).exists()


def test_models_shows_sizes_and_defaults_and_what_a_folder_lacks(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "400")
    for module in ("paths", "models.registry", "models.listed", "console"):
        monkeypatch.setattr(f"pjd.{module}.WEIGHTS", tmp_path)
    for name in ("anole-7b", "emoji-64", "emoji-96"):
        (tmp_path / name).mkdir()
    (tmp_path / "emoji-64" / "model.json").write_text('{"sampling": {"guidance": 2.5}}')
    save_file({}, tmp_path / "emoji-64" / "model.safetensors")
    lines = run(app, ["models"]).stdout.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:9]] for line in lines if "│" in line]
    own = ["4", "4.5 M", "1 GiB", "MIT"]
    assert ["emoji-64", "yes", "16x16", *own, "guidance 2.5"] in rows
    assert ["emoji-96", "no", "24x24", *own, ""] in rows
    told = {row[0]: row[1:] for row in rows}
    sizes = ["incomplete", "32x32", "8", "7 B", "15 GiB", "Chameleon's, for research"]
    assert told["anole-7b"] == [*sizes, "guidance 3, temperature 0.7, top-p 0.9"]
    lacking = f"{tmp_path / 'anole-7b'} lacks config.json, tokenizer.json or"
    assert any(line.strip().startswith(lacking) for line in lines)
    small = ["no", "32x32", "8", "76 M", "1 GiB", "Apache-2.0", "temperature 1, top-k 40"]
    assert told["imagegpt-small"] == small
    one = run(app, ["models", "anole-7b"]).stdout
    for part in (lacking, "temperature 0.7", "huggingface.co", "docs/checkpoints_chameleon.md"):
        assert part in one
    assert "14.3 GiB (weights 12.6, cache 1.1, image decoder 0.5); with --quantize int8" in one
    assert "dvc pull" in run(app, ["models", "emoji"]).stdout
    assert "must be one of emoji-64, " in str(run(app, ["models", "anole"]).exception)


@pytest.mark.parametrize("columns", [72, 80])
def test_models_fits_a_terminal_and_cuts_no_name(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = run(app, ["models"]).stdout.splitlines()
    assert max(map(len, lines)) <= columns
    rows = [[cell.strip() for cell in line.split("│")] for line in lines if "│" in line]
    assert set(CATALOGUE) <= {row[1] for row in rows}


def test_doctor_says_what_will_not_work_and_why(monkeypatch, tmp_path):
    monkeypatch.setattr("pjd.doctor.WEIGHTS", tmp_path)
    monkeypatch.setattr("pjd.doctor.gpu_memory", lambda: [])
    monkeypatch.setattr("pjd.doctor.main_memory", lambda: 8.0)
    for name in ("anole-7b", "janus-pro-1b"):
        (tmp_path / name).mkdir()
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / "anole-7b" / file).write_text("{}")
    save_file({}, tmp_path / "anole-7b" / "model.safetensors")
    found = {finding.subject: finding for finding in doctor.examine()}
    assert found["packages"].text.startswith(f"Python {sys.version.split()[0]}, pjd ")
    assert "--device cuda is refused" in found["GPU"].text
    anole, janus = found["anole-7b"], found["janus-pro-1b"]
    parts = "needs 14.3 GiB (weights 12.6, cache 1.1, image decoder 0.5)"
    assert not anole.good and f"{parts}, more than 8 here; with --quantize int8" in anole.text
    assert "8.2 GiB (weights 6.6, cache 1.1, image decoder 0.5), more too" in anole.text
    assert not janus.good and "generation_config.json, tokenizer.json, *.safe" in janus.text
    monkeypatch.setattr("pjd.doctor.gpu_memory", lambda: [12.0])
    anole = {finding.subject: finding for finding in doctor.weights()}["anole-7b"]
    assert not anole.good and "image decoder 0.5), which fits" in anole.text
    monkeypatch.setattr("pjd.doctor.gpu_memory", lambda: [8.0, 24.0])
    anole = {finding.subject: finding for finding in doctor.weights()}["anole-7b"]
    assert not anole.good and anole.text.endswith("in main memory, which has 8 GiB")
    monkeypatch.setattr("pjd.doctor.main_memory", lambda: 16.0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"card {number}")
    assert {finding.subject: finding for finding in doctor.weights()}["anole-7b"].good
    assert [finding.text for finding in doctor.gpus()] == ["card 0, 8 GiB", "card 1, 24 GiB"]


def test_a_checkpoint_that_is_not_there_says_where_its_guide_is():
    with pytest.raises(ParameterError, match=r"no folder .*docs/checkpoints_chameleon\.md"):
        registry.resolve("anole-7b")


def test_an_official_folder_under_another_name_is_told_what_to_do(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ParameterError, match="must have its name in `pjd models`") as raised:
        registry.resolve(str(tmp_path))
    assert "dvc pull" not in str(raised.value)


def test_threads_that_wait_sleep_unless_the_user_says_otherwise(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pjd", "methods"])
    for given, expected in ((None, "passive"), ("active", "active")):
        monkeypatch.setenv("OMP_WAIT_POLICY", given or "")
        if given is None:
            monkeypatch.delenv("OMP_WAIT_POLICY")
        with pytest.raises(SystemExit):
            main()
        assert os.environ["OMP_WAIT_POLICY"] == expected
