"""Folders of the pipeline appear whole or not at all."""

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
