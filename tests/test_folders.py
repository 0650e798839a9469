"""Folders of the pipeline appear whole or not at all."""

import subprocess
import sys
from pathlib import Path

import pytest

from pjd.pipeline.files import folder


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(KeyError), folder(tmp_path / "run") as partial:
        (partial / "a").touch()
        raise KeyError
    assert not list(tmp_path.iterdir())
    with folder(tmp_path / "run") as partial:
        (partial / "a").touch()
        assert not (tmp_path / "run").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "a"]


def test_what_a_kill_left_behind_goes_with_the_next_attempt(tmp_path):
    killed, other = tmp_path / ".run.ab12_xyz.partial", tmp_path / ".run.x.ab12_xyz.partial"
    for left in (killed, other):
        (left / "inner").mkdir(parents=True)
    with folder(tmp_path / "run"):
        assert not killed.exists() and other.exists()


def test_blocks_at_a_time_have_a_folder_each(tmp_path):
    with folder(tmp_path / "run") as first:
        (first / "a").touch()
        with folder(tmp_path / "run") as second:
            (second / "b").touch()
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["b"]
        (first / "c").touch()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["a", "c"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_another_process_writes_is_left_until_it_is_killed(tmp_path):
    code = (
        "import pathlib, sys, time; from pjd.pipeline.files import folder\n"
        "with folder(pathlib.Path(sys.argv[1])) as partial:\n"
        "    print(partial, flush=True); time.sleep(99)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            partial = Path(process.stdout.readline().strip())
            with folder(tmp_path / "run"):
                assert partial.exists()
        finally:
            process.kill()
    with folder(tmp_path / "run"):
        assert not partial.exists()
