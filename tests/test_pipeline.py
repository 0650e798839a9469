import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import papermill
import pytest
import yaml
from project import commands, copy_of_the_project, dvc, overlay, shell

from pjd.decoder.config import DecodeConfig
from pjd.paths import ROOT
from pjd.pipeline.notebook import NotebookError
from pjd.pipeline.notebook import run as run_notebook


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
            parameters: dict = {}
            for mapping in words[5:]:
                parameters |= yaml.safe_load(mapping)
            found.append((name, ROOT / words[3], parameters))
    return found


@pytest.mark.parametrize("profile", [None, "smoke", "paper"])
def test_every_parameter_passed_is_one_the_notebook_has(profile, tmp_path):
    if profile is not None:
        copy_of_the_project(tmp_path, profile)
    found = calls(ROOT if profile is None else tmp_path)
    assert len(found) >= 30
    for stage, notebook, parameters in found:
        known = set(papermill.inspect_notebook(str(notebook)))
        assert set(parameters) <= known, stage


def test_the_decode_notebook_and_the_config_agree():
    known = set(papermill.inspect_notebook(str(ROOT / "notebooks" / "03_decode.ipynb")))
    own = {"run", "choices", "model", "prompts", "images"}
    own |= {"batch_size", "device", "dtype", "threads"}
    # The method's other choices pass through `choices`.
    assert known - own <= DecodeConfig.names()
    assert {"context", "window", "rows", "guidance"} <= known & DecodeConfig.names()


def test_parameters_arrive_typed():
    decode = next(p for stage, _, p in calls() if stage == "decode-context@4")
    assert isinstance(decode["context"], int)
    assert isinstance(decode["guidance"], float)
    assert isinstance(decode["top_k"], int)


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
    dvc(folder, "repro", "hash-decoder")
    told = dvc(folder, "status", "decode-sweep", "decode-other")
    assert "up to date" in told, told[-4000:]
    assert len(list((folder / "runs" / "comparison").glob("*/decode/images.parquet"))) > 10


@pytest.mark.slow
def test_smoke_profile_runs_the_whole_pipeline(tmp_path):
    folder = tmp_path / "project"
    copy_of_the_project(folder, "smoke")
    dvc(folder, "pull", "data.dvc", "train@emoji-64")
    dvc(folder, "repro", "report-main")
    table = pd.read_parquet(folder / "results" / "collected.parquet").set_index("run")
    names = ["ar", "ar-repeat", "sjd", "context-4", "context-16"]
    assert list(table.index) == [f"main/{name}" for name in names]
    steps = table.steps.rename(lambda run: run.removeprefix("main/"))
    assert steps["ar"] == steps["ar-repeat"] and table.compression["main/ar"] == 1
    assert steps["sjd"] < steps["ar"] and steps["context-4"] < steps["context-16"]
    assert table.gap["main/ar"] == 0
    assert table[["gap", "frechet_real", "nats"]].notna().all().all()
    report = (folder / "reports" / "main.html").read_text()
    assert report.count("data:image/png") >= 2 and "Table 1" in report
    for name in ("fig01_pairs", "fig06_context_tokens"):
        assert (folder / "figures" / name / f"{name}.png").stat().st_size > 10_000

    assert "up to date" in dvc(folder, "repro", "report-main")
    # Another value of the sweep: its own two stages, the table, the figures and the report.
    overlay(folder, {"contexts": [4, 8]})
    again = dvc(folder, "repro", "report-main")
    ran = {line.split("'")[1] for line in again.splitlines() if line.startswith("Running stage")}
    figures = {f"figure@{name}" for name in ("fig01_pairs", "fig06_context_tokens", "table1_main")}
    assert ran == {"decode-context@8", "evaluate-context@8", "collect", "report-main", *figures}

    # The sweeps build on what is there; the reviewer's path runs them.
    git = ["git", "-c", "user.name=pjd", "-c", "user.email=pjd@example.org"]
    subprocess.run([*git, "add", "--all"], cwd=folder, check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "Run"], cwd=folder, check=True)
    for command in commands("docs/reviewers.md"):
        done = shell(folder, command)
        # So few images are not what the expected results were measured on.
        wanted = 1 if command == "pjd verify" else 0
        assert done.returncode == wanted, (command, (done.stdout + done.stderr)[-4000:])
        if command.startswith("dvc exp show"):
            assert done.stdout.count("context-3") and done.stdout.count("context-5")
    table = pd.read_parquet(folder / "results" / "sweeps.parquet").set_index("run")
    assert (table.steps["comparison/zipar-4"] == 16 + 15 * 4) and table.acceptance.notna().any()
    assert table.steps["comparison/pjd-plus-4"] <= table.steps["comparison/zipar-4"]
    larger = table.loc["emoji-64/ar"]
    # Its own baseline, for its guidance is another.
    assert larger.guidance == 1 and larger.gap == 0 and larger.nats != table.nats["main/ar"]
    report = (folder / "reports" / "index.html").read_text()
    assert report.count("data:image/png") >= 9 and "PJD-plus" in report
