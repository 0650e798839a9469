import json
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from pjd.decoder.config import DecodeConfig
from pjd.decoder.methods import configure
from pjd.errors import ParameterError
from pjd.paths import ROOT
from pjd.pipeline.notebook import NotebookError, read_words
from pjd.pipeline.notebook import run as run_notebook
from pjd.pipeline.params import shipped
from pjd.pipeline.settings import SAMPLING, choose
from tests.project import (
    commands,
    copy_of_the_project,
    dvc,
    overlay,
    project_with_data,
    shell,
)


def stages(folder: Path = ROOT) -> dict[str, str]:
    """Commands of all stages, by name, as DVC resolves them."""
    from dvc.repo import Repo

    return {stage.addressing: stage.cmd for stage in Repo(folder).index.stages if stage.cmd}


def calls(folder: Path = ROOT) -> list[tuple[str, Path, dict]]:
    """(stage, notebook, parameters) of every stage that runs a notebook."""
    found = []
    for name, command in stages(folder).items():
        words = shlex.split(command)
        if words[:3] == ["python", "-m", "pjd.pipeline.notebook"]:
            notebook = ROOT / words[3]
            found.append((name, notebook, read_words(words[5:], notebook)))
    return found


@pytest.mark.parametrize("profile", [None, "smoke", "paper"])
def test_every_parameter_passed_is_one_the_notebook_has(profile, tmp_path):
    if profile is not None:
        copy_of_the_project(tmp_path, profile)
    # A parameter that the notebook lacks raises.
    found = calls(ROOT if profile is None else tmp_path)
    assert len(found) >= 30
    settings = yaml.safe_load((tmp_path if profile else ROOT).joinpath("params.yaml").read_text())
    for stage, _, parameters in found:
        if stage.startswith("decode@"):
            setting = settings["settings"][parameters.pop("setting")]
            options = {k: v for k, v in parameters.items() if k in DecodeConfig.names()}
            sampling = {k: v for k, v in setting.items() if k in SAMPLING}
            assert not set(options) & set(SAMPLING), stage
            configure(**options, **sampling)


def test_the_decode_notebook_is_the_menu_of_options():
    known = set(papermill.inspect_notebook(str(ROOT / "notebooks" / "03_decode.ipynb")))
    own = {"run", "setting", "model", "prompts", "images"}
    own |= {"batch_size", "device", "dtype", "threads"}
    assert known - own == DecodeConfig.names() | {"method"}


def test_parameters_arrive_typed():
    by_stage = {stage: parameters for stage, _, parameters in calls()}
    decode = by_stage["decode@past-gap"]
    assert decode["context"] == 4 and isinstance(decode["context"], int)
    assert decode["dtype"] == "float32" and decode["draft_limit"] == "window"
    assert by_stage["draw@fig14_mask"]["runs"] == ["pjd-2", "pjd-nomask-2", "pjd-released-2"]


@pytest.mark.parametrize(
    ("words", "parameters"),
    [
        ("--prompt '7'", {"prompt": "7"}),
        ("--prompt 'a: [b' --seed 5", {"prompt": "a: [b", "seed": 5}),
        ("--runs ar", {"runs": ["ar"]}),
        ("--runs ar sjd --split", {"runs": ["ar", "sjd"], "split": True}),
        ("--no-split --scale 5e-05", {"split": False, "scale": 5e-05}),
        ("--scale -1 --scale 2.5", {"scale": 2.5}),
        ("--scale null", {"scale": None}),
    ],
)
def test_words_are_values_as_the_notebooks_defaults_have_them(tmp_path, words, parameters):
    cell = new_code_cell(
        'prompt = "x"\nseed = 0\nruns: list = None\nsplit = True\nscale = None',
        metadata={"tags": ["parameters"]},
    )
    kernel = {"kernelspec": {"name": "python3", "language": "python", "display_name": "x"}}
    notebook = new_notebook(cells=[cell], metadata=kernel)
    nbformat.write(notebook, tmp_path / "x.ipynb")
    assert read_words(shlex.split(words), tmp_path / "x.ipynb") == parameters


def test_what_a_setting_has_is_not_given_again(monkeypatch):
    for name, value in (("guidance", 2.0), ("top_k", 0)):
        with pytest.raises(ParameterError, match=f"{name} = .*the setting emoji-64 has it"):
            choose("emoji-64", None, None, None, {name: value})
    with pytest.raises(ParameterError, match=r"images = 4.*the setting emoji-64 has it"):
        choose("emoji-64", None, None, 4, {})


def test_a_misspelt_parameter_is_an_error(tmp_path):
    notebook = ROOT / "notebooks" / "03_decode.ipynb"
    with pytest.raises(NotebookError, match="no parameter 'contxt'"):
        run_notebook(notebook, tmp_path / "x.html", {"contxt": 4})
    assert not list(tmp_path.iterdir())


def test_runs_that_ship_are_those_that_the_pipeline_would_make(tmp_path):
    folder = tmp_path / "project"
    copy_of_the_project(folder)
    environment = Path(sys.prefix)
    done = shell(folder, f"make --assume-old={environment}/stamp VENV={environment} runs")
    assert done.returncode == 0 and "Not everything" not in done.stderr, done.stdout + done.stderr
    # One that is out of date, or not there, costs minutes to decode: all of them hours.
    dvc(folder, "repro", "hash-decoder", "hash-measures")
    # By groups, which is faster: a main run does not ship, and a baseline may be one.
    groups = ("prepare", "decode", "fit-probe", "evaluate")
    told = json.loads(dvc(folder, "status", "--json", *groups))
    expected = {one for one in shipped() if not one.startswith("compare@")}
    assert len(expected) > 100 and not expected & set(told), told
    runs = yaml.safe_load((folder / "params.yaml").read_text())["runs"]
    for name, run in runs.items():
        # A reviewer decodes the main ones.
        ships = run["group"] != "main"
        assert (folder / "runs" / name / "decode" / "images.parquet").exists() == ships, name


@pytest.mark.slow
def test_smoke_profile_runs_the_whole_pipeline(tmp_path):
    folder = project_with_data(tmp_path, "smoke")
    done = shell(folder, "python -m pjd.pipeline.reproduce")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert (folder / "reports" / "first_pictures.png").stat().st_size > 10_000
    table = pd.read_parquet(folder / "results" / "runs.parquet").set_index("run")
    planned = yaml.safe_load((folder / "params.yaml").read_text())
    assert list(table.index) == list(planned["runs"])
    assert table.steps["ar"] == table.steps["ar-repeat"] and table.compression["ar"] == 1
    assert table.steps["sjd"] < table.steps["ar"] and table.steps["pjd-4"] < table.steps["pjd-16"]
    assert table.gap["ar"] == 0 and abs(table.frechet_ar["ar"]) < 1e-6
    assert table[["gap", "frechet_real", "nats"]].notna().all().all()
    assert (table.steps["zipar-4"] == 16 + 15 * 4) and table.acceptance.notna().any()
    assert table.steps["pjd-plus-4"] <= table.steps["zipar-4"]
    # Its own baseline, for its guidance is another.
    other = table.loc["other-ar"]
    assert other.guidance == 1 and other.gap == 0 and other.nats != table.nats["ar"]
    report = (folder / "reports" / "index.html").read_text()
    assert report.count("data:image/png") >= 9 and "PJD-plus" in report and "Table 1" in report
    for name in ("fig01_pairs", "fig06_context_tokens"):
        assert (folder / "figures" / name / f"{name}.png").stat().st_size > 10_000

    assert "up to date" in dvc(folder, "repro", "report")
    # Another value: the run, what was measured on it, the table; figures are drawn anew. One of
    # them is enough from here on.
    figure = "fig06_context_tokens"
    planned["figures"] = {figure: planned["figures"][figure]}
    overlay(folder, planned)
    git = ["git", "-c", "user.name=pjd", "-c", "user.email=pjd@example.org"]
    subprocess.run([*git, "add", "--all"], cwd=folder, check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "Run"], cwd=folder, check=True)
    planned["runs"]["pjd-4"]["options"]["context"] = 5
    overlay(folder, planned)
    told = json.loads(dvc(folder, "status", "--json", "--with-deps", "collect"))
    assert {"decode@pjd-4", "collect"} <= set(told) and "decode@sjd" not in told, told
    for command in commands("docs/reviewers.md"):
        done = shell(folder, command)
        # So few images are not what the expected results were measured on.
        wanted = 1 if command == "pjd verify" else 0
        assert done.returncode == wanted, (command, (done.stdout + done.stderr)[-4000:])
        if command.startswith("dvc exp show"):
            assert "Experiment" in done.stdout


@pytest.mark.slow
def test_what_is_out_of_date_is_what_depends_on_an_edit(tmp_path):
    folder = project_with_data(tmp_path, "smoke")
    prompts = folder / "prompts.txt"
    prompts.write_text("cat face, noto, on teal\nnerd face, noto, on pink\n")
    values = yaml.safe_load((folder / "params.yaml").read_text())
    values["settings"]["emoji-64-guidance-1"] |= {"prompts": "prompts.txt", "images": 2}
    overlay(folder, values)
    stages = ["decode@ar", "decode@other-ar"]
    dvc(folder, "repro", *stages)

    def out_of_date() -> set[str]:
        told = json.loads(dvc(folder, "status", "--json", "--with-deps", *stages))
        return {stage for stage in told if stage.startswith(("prepare@", "decode@"))}

    assert not out_of_date()
    prompts.write_text("cat face, noto, on teal\nnerd face, noto, on blue\n")
    assert out_of_date() == {"prepare@emoji-64-guidance-1"}
    dvc(folder, "repro", "prepare@emoji-64-guidance-1")
    assert out_of_date() == {"decode@other-ar"}
    dvc(folder, "repro", *stages)
    # The text of an adapter: prepared again, with the same result; its code: decoded again.
    adapter = folder / "pjd" / "models" / "llamagen.py"
    adapter.write_text(adapter.read_text() + "\n# A comment.\n")
    dvc(folder, "repro", "prepare")
    assert not out_of_date()
    adapter.write_text(adapter.read_text() + "\nADDED = 1\n")
    dvc(folder, "repro", "prepare")
    assert out_of_date() == set(stages)
