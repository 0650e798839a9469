"""Notebooks run with parameters: what is no parameter, and what the decode notebook refuses."""

import json
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

import pjd
from pjd.errors import ParameterError
from pjd.models.registry import Sizes
from pjd.paths import ROOT, RUNS
from pjd.pipeline import runs
from pjd.pipeline.notebook import THREADS, NotebookError, limit_threads, main, value_of
from pjd.pipeline.notebook import run as run_notebook
from pjd.pipeline.params import lay_over, read_yaml
from pjd.pipeline.runs import run_folder, set_threads

DECODE = ROOT / "notebooks" / "03_decode.ipynb"
CELLS = [cell for cell in json.loads(DECODE.read_text())["cells"] if cell["cell_type"] == "code"]
PARAMETERS, CHECKS = ("".join(cell["source"]) for cell in CELLS[:2])


class LoadedError(Exception):
    """A model would be loaded now."""


def check_decode(**parameters: object) -> None:
    """Run the decode notebook's cells up to where it loads a model.

    Raises:
        LoadedError: if nothing is wrong before.
    """

    def load(*_: object, **__: object) -> None:
        raise LoadedError

    names: dict[str, object] = {}
    exec(PARAMETERS, names)
    assert parameters.keys() <= names.keys()
    names |= {"prompts": "mine.txt", "images": 1, "model": "x", **parameters}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pjd, "load", load, raising=False)
        patch.setattr(runs, "resolve", lambda name: ROOT / name)
        patch.setattr(runs, "weights_of", lambda name: "0123")
        patch.setattr("pjd.models.registry.default_sampling", lambda name: {})
        patch.setattr("pjd.models.registry.sizes_of", lambda name: Sizes(6, 6))
        # The threads of this process are those of all other tests.
        patch.setattr("torch.set_num_threads", lambda threads: None)
        exec(CHECKS, names)


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("cat\ndog\n")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"images": -1}, "images = -1: must be an integer at least 1"),
        ({"images": 2.0}, "images = 2.0: must be an integer"),
        ({"images": 3}, "images = 3: mine.txt has only 2 prompts"),
        ({"images": "2"}, "images = '2': must be an integer"),
        ({"threads": 0}, "threads = 0: must be an integer from 1 to 1024"),
        ({"threads": "two"}, "threads = 'two'"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"run": "../x"}, "run = '../x': must be a folder below runs/"),
        ({"run": 5}, "run = 5: must be a folder"),
        ({"context": 0}, "context = 0"),
        ({"method": "sjd", "context": 8}, "context = 8: method sjd has no such option"),
        ({"mask": "nonne"}, "mask = 'nonne': must be one of"),
        ({"guidance": "5e-05x"}, "guidance = '5e-05x': must be a number"),
        ({"device": "tpu"}, "device = 'tpu'"),
        ({"dtype": "int8"}, "dtype = 'int8'"),
        ({"model": 64}, "model = 64: must be a text"),
        ({"prompts": ["cat"]}, "prompts = ['cat']: must be a text"),
    ],
)
def test_the_decode_notebook_refuses_before_a_model_is_loaded(prompts, parameters, message):
    with pytest.raises(ParameterError) as error:
        check_decode(**parameters)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"context": 8},
        {"mask": "none", "window": 2, "temperature": 5e-05},
    ],
)
def test_the_decode_notebook_takes_what_is_allowed(prompts, parameters):
    with pytest.raises(LoadedError):
        check_decode(**parameters)


def test_the_decode_notebook_overwrites_no_other_run(prompts, monkeypatch):
    seen = []
    monkeypatch.setattr(runs, "check_same", lambda *given: seen.append(given))
    with pytest.raises(LoadedError):
        check_decode(run="mine", context=8)
    ((run, stamp, table),) = seen
    assert run == "mine" and stamp["config"]["context"] == 8 and table.prompt.tolist() == ["cat"]


@pytest.mark.parametrize("name", ["trial", "pjd-4", "ar_64.b", "0"])
def test_a_run_is_a_folder_below_runs(name):
    assert run_folder(name) == RUNS / name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/../..",
        "main/pjd-4",
        "/tmp/x",
        "a//b",
        "a/",
        ".hidden",
        "a b",
        "a\n",
        "é",
        "a\\b",
        "x" * 300,
        5,
        None,
        1.5,
        ["a"],
        True,
    ],
)
def test_no_other_name_is_a_run(name):
    with pytest.raises(ParameterError, match="must be a folder below runs/"):
        run_folder(name)


def test_threads_are_set_or_refused(monkeypatch):
    given = []
    monkeypatch.setattr("torch.set_num_threads", given.append)
    set_threads(3)
    for threads in (0, -2, 1.0, 10**9, None, True):
        with pytest.raises(ParameterError, match="threads = "):
            set_threads(threads)
    assert given == [3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["just text"], "'just text' stands before the first --name"),
        (["{context: 4}"], "stands before the first --name"),
        (["--contxt", "4"], "no parameter 'contxt'"),
        (["--choices", "{context: 4}"], "no parameter 'choices'"),
    ],
)
def test_words_that_are_no_parameters_are_one_line(words, message, tmp_path, capsys):
    assert main([str(DECODE), str(tmp_path / "x.html"), *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pjd: ") and message in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-05", 5e-05),
        ("1e6", 1000000.0),
        ("-2E+3", -2000.0),
        ("2.5e10", 25000000000.0),
        (".5e1", 5.0),
        ("e5", "e5"),
        ("1e", "1e"),
        ("5", 5),
        ("1.5", 1.5),
        ("a5e5", "a5e5"),
        ("true", True),
    ],
)
def test_yaml_has_the_numbers_that_dvc_reads(text, value):
    read = read_yaml(text, "it")
    assert read == value and type(read) is type(value)


def test_a_word_is_a_number_or_a_text():
    words = ["4", "5e-05", "true", "false", "null", "rows", "[a", "", "4.0"]
    assert [value_of(word) for word in words] == [
        *(4, 5e-05, True, False, None, "rows", "[a", "", 4.0)
    ]


@pytest.mark.parametrize("content", ["images: [8", "- 8", "", "images: 8\nimages: 9"])
def test_a_profile_that_is_no_mapping_is_refused_and_changes_nothing(tmp_path, content):
    profile, present = tmp_path / "mine.yaml", tmp_path / "params.yaml"
    profile.write_text(content)
    present.write_text("images: 1\n")
    with pytest.raises(ValueError, match=r"mine\.yaml") as raised:
        lay_over(profile, present)
    assert "\n" not in str(raised.value) and present.read_text() == "images: 1\n"


@pytest.mark.parametrize("name", ["README.md", "params.yaml"])
def test_a_file_that_is_no_notebook_is_refused(name, tmp_path):
    with pytest.raises(NotebookError, match=f"{name} is no notebook") as raised:
        run_notebook(ROOT / name, tmp_path / "x.html", {})
    assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("source", ["print(6 * 7)", "print(6 * 7); raise ValueError('no')"])
def test_no_notebook_is_written_or_removed_and_the_page_is_left(tmp_path, source):
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "x"}}
    notebook, other = tmp_path / "x.ipynb", tmp_path / "y.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(source)], metadata=kernel), notebook)
    other.write_text("mine")
    whole = notebook.read_bytes()
    for html in (tmp_path / "x.html", tmp_path / "y.html"):
        if "raise" in source:
            with pytest.raises(NotebookError, match="ValueError: no"):
                run_notebook(notebook, html, {})
        else:
            run_notebook(notebook, html, {})
        assert "42" in html.read_text()
    assert notebook.read_bytes() == whole and other.read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"x.ipynb", "x.html", "y.ipynb", "y.html"}


def test_a_notebook_is_not_kept_in_the_place_of_one():
    with pytest.raises(NotebookError, match=r"03_decode\.ipynb must end in \.html"):
        run_notebook(DECODE, DECODE, {})


@pytest.mark.parametrize("parameters", [["--threads", "0"], ["--run", "../../x"]])
def test_a_refusal_in_a_kernel_is_one_line_and_writes_no_run(parameters, tmp_path):
    command = [sys.executable, "-m", "pjd.pipeline.notebook", str(DECODE), str(tmp_path / "x.html")]
    done = subprocess.run([*command, *parameters], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("pjd: ")]
    assert "ParameterError: " in line and "Traceback" not in done.stderr
    assert not (ROOT.parent / "x").exists()


def test_notebooks_that_run_side_by_side_take_one_thread_each(monkeypatch):
    monkeypatch.delenv(THREADS, raising=False)
    assert limit_threads({"threads": 2, "seed": 7}) == {"threads": 2, "seed": 7}
    monkeypatch.setenv(THREADS, "1")
    assert limit_threads({"threads": 2, "seed": 7}) == {"threads": 1, "seed": 7}
    assert limit_threads({"seed": 7}) == {"seed": 7}
    monkeypatch.setenv(THREADS, "")
    assert limit_threads({"threads": 2}) == {"threads": 2}


@pytest.mark.parametrize("threads", ["abc", "0", "-1", "1.5", "²"])
def test_a_limit_that_is_no_number_of_threads_is_one_line(monkeypatch, tmp_path, capsys, threads):
    monkeypatch.setenv(THREADS, threads)
    assert main([str(DECODE), str(tmp_path / "x.html"), "--threads", "2"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line
        == f"pjd: {THREADS} = {threads!r}: must be a number of threads, such as 1, or not be set"
    )
    assert not list(tmp_path.iterdir())


def test_threads_that_are_no_number_are_left_to_the_notebook(monkeypatch):
    monkeypatch.setenv(THREADS, "1")
    assert limit_threads({"threads": "two"}) == {"threads": "two"}


def test_the_slowest_import_is_left_out():
    # It takes a second and a half, once per stage, wherever papermill is imported first.
    code = (
        "import sys; from pathlib import Path; from pjd.pipeline.notebook import parameters_of;"
        f"parameters_of(Path({str(DECODE)!r})); sys.exit('lark' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
