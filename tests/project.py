"""Copies of the project to run the pipeline in, and how to run it there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from pjd.paths import ROOT
from pjd.pipeline.params import lay_over


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
        # No profile has the runs that ship: DVC would only read and write them at every stage.
        lock = yaml.safe_load((folder / "dvc.lock").read_text())
        stages = lock["stages"].items()
        lock["stages"] = {name: stage for name, stage in stages if name.startswith("train@")}
        (folder / "dvc.lock").write_text(yaml.safe_dump(lock))
    (folder / ".dvc" / "config.local").write_text(
        f"['remote \"store\"']\n    url = {ROOT / 'dvcstore'}\n"
    )
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)


def project_with_data(tmp_path: Path, profile: str) -> Path:
    """A folder with a copy of the project under ``profile``, its corpus and its small model."""
    folder = tmp_path / "project"
    copy_of_the_project(folder, profile)
    dvc(folder, "pull", "data.dvc", "train@emoji-64")
    return folder


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
