"""Keep dvc.lock whole: DVC rewrites it in place, so that a kill may leave it cut in the middle."""

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from pjd.paths import ROOT

LOCK = ROOT / "dvc.lock"
COPY = ROOT / ".dvc" / "tmp" / "dvc.lock"
"""The last lock that was found whole; git does not track it."""


def is_whole(lock: Path) -> bool:
    """Whether DVC can read ``lock``, and its last line is complete."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        text = lock.read_text(encoding="utf-8")
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(text))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, Invalid):
        return False
    return text.endswith("\n")


def restore(lock: Path = LOCK, copy: Path = COPY) -> str | None:
    """Put a whole lock in the place of a damaged one; copy it where it is whole.

    What ran since the copy is not lost: DVC finds it in its run cache.

    Args:
        lock: the file of DVC.
        copy: where the last whole one is, if there was one.

    Returns:
        What was done, in a line; None if the lock was whole, or there is none.

    Raises:
        FileNotFoundError: if there is no whole lock anywhere.
    """
    if not lock.exists():
        return None
    if is_whole(lock):
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(lock, copy)
        return None
    if is_whole(copy):
        shutil.copyfile(copy, lock)
        return f"{lock.name} was damaged (a kill may do that): put back the last whole one"
    command = ["git", "show", f"HEAD:./{lock.name}"]
    done = subprocess.run(command, cwd=lock.parent, capture_output=True)
    if done.returncode:
        raise FileNotFoundError(f"{lock.name} is damaged, and git has no other: delete it")
    lock.write_bytes(done.stdout)
    return f"{lock.name} was damaged (a kill may do that): put back the committed one"


def main() -> int:
    """Command line: ``python -m pjd.pipeline.lock``."""
    try:
        said = restore()
    except FileNotFoundError as error:
        print(f"pjd: {error}", file=sys.stderr)
        return 1
    if said:
        print(said, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
