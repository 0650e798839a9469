"""`pjd profile` replaces values of params.yaml, and nothing that is nowhere else."""

import subprocess
import sys

import pytest

from pjd import cli, upkeep

GIT = ["git", "-c", "user.name=pjd", "-c", "user.email=pjd@example.org"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of its own, with two profiles."""
    monkeypatch.setattr(upkeep, "ROOT", tmp_path)
    (tmp_path / "params.yaml").write_text("images: 512\nmodel: a\nrate: 1\n")
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "small.yaml").write_text("images: 4\n")
    (tmp_path / "profiles" / "other.yaml").write_text("model: b\n")
    return tmp_path


@pytest.fixture
def committed(project):
    """The same, in git."""
    for words in (["init", "-q"], ["add", "--all"], ["commit", "-qm", "Begin"]):
        subprocess.run([*GIT, *words], cwd=project, check=True)
    return project


def profile(name: str) -> int:
    """The exit code of `pjd profile`."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(sys, "argv", ["pjd", "profile", name])
        cli.main()
    return int(stopped.value.code or 0)


def test_a_profile_replaces_what_is_committed(committed, capsys):
    assert profile("small") == 0
    assert "images" in capsys.readouterr().out
    assert (committed / "params.yaml").read_text().startswith("images: 4\n")
    assert not (committed / "params.yaml.before").exists()


@pytest.mark.parametrize("staged", [False, True])
def test_edits_that_are_not_committed_are_not_replaced(committed, capsys, staged):
    edited = "images: 512\nmodel: a\nrate: 7\n"
    (committed / "params.yaml").write_text(edited)
    if staged:
        subprocess.run([*GIT, "add", "--all"], cwd=committed, check=True)
    assert profile("small") != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "params.yaml has edits that are not committed" in line and "git checkout" in line
    assert (committed / "params.yaml").read_text() == edited


def test_a_second_profile_does_not_keep_keys_of_the_first(committed, capsys):
    assert profile("small") == 0
    assert profile("other") != 0
    assert "not committed" in capsys.readouterr().err
    subprocess.run([*GIT, "checkout", "-q", "params.yaml"], cwd=committed, check=True)
    assert profile("other") == 0
    assert (committed / "params.yaml").read_text() == "images: 512\nmodel: b\nrate: 1\n"


def test_where_git_does_not_know_it_a_copy_is_kept(project, capsys):
    before = (project / "params.yaml").read_text()
    assert profile("absent") != 0
    assert not (project / "params.yaml.before").exists()
    assert profile("small") == 0
    assert "params.yaml.before" in capsys.readouterr().out
    assert (project / "params.yaml.before").read_text() == before
    assert profile("other") != 0
    assert "params.yaml.before is what an earlier profile replaced" in capsys.readouterr().err
    assert (project / "params.yaml.before").read_text() == before
