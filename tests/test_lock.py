import subprocess

import pytest

from pjd.pipeline.lock import restore

WHOLE = "schema: '2.0'\nstages:\n  decode@ar:\n    cmd: python\n    outs:\n    - path: runs/ar\n"


DAMAGED = ["", "stages: [\n", WHOLE[:40], WHOLE[:60], WHOLE[:-8], WHOLE[:-8] + "[", "\x00" * 9]


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_lock_is_put_back_from_the_last_whole_one(tmp_path, damage):
    lock, copy = tmp_path / "dvc.lock", tmp_path / "tmp" / "dvc.lock"
    lock.write_text(WHOLE)
    assert restore(lock, copy) is None and copy.read_text() == WHOLE
    lock.write_text(damage)
    assert "put back the last whole one" in restore(lock, copy)
    assert lock.read_text() == WHOLE


def test_without_a_copy_the_committed_lock_is_put_back(tmp_path):
    lock, copy = tmp_path / "dvc.lock", tmp_path / "copy"
    lock.write_text("stages: [")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=pjd", "-c", "user.email=pjd@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    with pytest.raises(FileNotFoundError, match=r"dvc.lock is damaged"):
        restore(lock, copy)
    lock.write_text(WHOLE)
    subprocess.run([*git, "add", "dvc.lock"], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    lock.write_text(WHOLE[:40])
    assert "put back the committed one" in restore(lock, copy)
    assert lock.read_text() == WHOLE and not copy.exists()


def test_no_lock_is_no_damage(tmp_path):
    assert restore(tmp_path / "dvc.lock", tmp_path / "copy") is None
