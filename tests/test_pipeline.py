import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import papermill
import pytest
import yaml
from backbones import save_checkpoint, tiny_chameleon
from PIL import Image
from safetensors.torch import save_file

from pjd.config import DecodeConfig
from pjd.models.chameleon import VQ, lumina
from pjd.notebook import NotebookError
from pjd.notebook import run as run_notebook
from pjd.paths import ROOT
from pjd.runs import lay_over


def stages(folder: Path = ROOT) -> dict[str, str]:
    """Commands of all stages, by name, as DVC resolves them."""
    from dvc.repo import Repo

    return {stage.addressing: stage.cmd for stage in Repo(folder).index.stages if stage.cmd}


def calls(folder: Path = ROOT) -> list[tuple[str, Path, dict]]:
    """(stage, notebook, parameters) of every stage that runs a notebook."""
    found = []
    for name, command in stages(folder).items():
        words = shlex.split(command)
        if words[:3] == ["python", "-m", "pjd.notebook"]:
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


def copy_of_the_project(folder: Path, profile: str | None = None) -> None:
    """What git knows or would add, with the parameters of ``profile`` laid over if there is one."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file() and not name.startswith("dvcstore/"):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    if profile is not None:
        lay_over(ROOT / "profiles" / f"{profile}.yaml", folder / "params.yaml")
    (folder / ".dvc" / "config.local").write_text(
        f"['remote \"store\"']\n    url = {ROOT / 'dvcstore'}\n"
    )
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)


def overlay(folder: Path, values: dict) -> None:
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **values}))


def dvc(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def commands(page: str) -> list[str]:
    """Command lines that ``page`` shows, without those that make an environment first."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("make ")]


def shell(folder: Path, command: str) -> subprocess.CompletedProcess:
    """Run a command line in ``folder``, with its code and this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # A table that does not fit loses the names of its columns.
    environment = {**os.environ, "PYTHONPATH": str(folder), "PATH": path, "COLUMNS": "999"}
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )


def test_runs_that_ship_are_those_that_the_pipeline_would_make(tmp_path):
    folder = tmp_path / "project"
    copy_of_the_project(folder)
    environment = Path(sys.prefix)
    done = shell(folder, f"make --assume-old={environment}/stamp VENV={environment} runs")
    assert done.returncode == 0 and "Not everything" not in done.stderr, done.stdout + done.stderr
    # One that is out of date, or not there, costs minutes to decode: all of them hours.
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


@pytest.mark.slow
def test_the_papers_profile_runs_on_a_tiny_checkpoint_of_its_form(tmp_path):
    folder = tmp_path / "project"
    copy_of_the_project(folder, "paper")
    dvc(folder, "pull", "data.dvc", "train@emoji-64")
    model, language = tiny_chameleon(replace(lumina(512, 512), sampling={}))
    save_checkpoint(folder / "weights" / "lumina-mgpt-7b-512", model, language)
    # Its image decoder is the one within Anole's checkpoint.
    (folder / "weights" / "anole-7b").mkdir()
    within = {VQ + name: tensor for name, tensor in model.pixels.state_dict().items()}
    save_file(within, folder / "weights" / "anole-7b" / "model.safetensors")
    prompts = folder / "prompts"
    captions = [{"image_id": 7 * n, "id": n, "caption": "red cat"} for n in range(2)]
    (prompts / "val2017").mkdir(parents=True)
    (prompts / "captions_val2017.json").write_text(json.dumps({"annotations": captions}))
    for number in range(2):
        colour = (120 * number, 50, 90)
        Image.new("RGB", (64, 40), colour).save(prompts / "val2017" / f"{7 * number:012d}.jpg")
    (prompts / "PartiPrompts.tsv").write_text(
        "Prompt\tCategory\tChallenge\tNote\nred cat\tAnimals\tBasic\t\n1\tWorld\tBasic\t\n"
    )
    parti = "prompts: prompts/PartiPrompts.tsv, images: 2"
    model = "lumina-mgpt-7b-512"
    overlay(
        folder,
        {
            "model": model,
            "device": "cpu",
            "dtype": "float32",
            "images": 2,
            "top_k": 5,
            "contexts": [8, 16],
            "sweeps": {
                "pjd-nomask-8": {"group": "mask", "options": "method: pjd-nomask, context: 8"},
                "parti-ar": {"group": "parti", "options": f"method: ar, {parti}"},
                "parti-pjd-8": {"group": "parti", "options": f"method: pjd, context: 8, {parti}"},
            },
            "other_models": [model],
            "other_runs": {
                "other-ar": {"model": model, "run": "ar", "options": "method: ar, top_k: 3"}
            },
            "reader_pictures": 64,
            "sweep_figures": {
                "fig02_attention": {"notebook": "fig02_attention", "options": "images: 1"},
                "fig14_mask": {
                    "notebook": "compared",
                    "options": "runs: [main/context-8, mask/pjd-nomask-8]",
                },
                "table1_methods": {"notebook": "table1_main", "options": ""},
                "table2_held_out": {
                    "notebook": "table2_held_out",
                    "options": "reference: parti/parti-ar, split: false, "
                    "runs: [parti/parti-ar, parti/parti-pjd-8]",
                },
                "table4_mask": {"notebook": "table4_mask", "options": ""},
            },
        },
    )
    dvc(folder, "repro", "report")
    table = pd.read_parquet(folder / "results" / "collected.parquet").set_index("run")
    # A row of this family ends with a token that no code stands for.
    assert table.steps["main/ar"] == 32 * 33 and table.compression["main/ar"] == 1
    assert table.steps["main/context-8"] < table.steps["main/context-16"] < 32 * 33
    assert table[["gap", "frechet_real", "nats"]].notna().all().all()
    assert "coco" in (folder / "figures" / "fig01_pairs" / "fig01_pairs.svg").read_text()
    parti = pd.read_csv(folder / "figures" / "table2_held_out" / "table2_held_out.csv")
    assert parti["steps, all prompts"].tolist()[0] == 32 * 33 and len(parti) == 2
    report = (folder / "reports" / "index.html").read_text()
    assert f"on {model}</h1>" in report and "Credits" not in report
    assert "up to date" in dvc(folder, "repro", "report")
