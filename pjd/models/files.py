"""What the files of a model are, without torch: whole or not, and what tells them from others."""

import hashlib
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

AGAIN = "download it again"

POINTER = b"version https://git-lfs"
"""A Git LFS pointer begins with this."""

WHOLE = 64 * 2**20
"""Files up to this size are identified by all their bytes, larger ones by samples."""

SAMPLES, SAMPLE = 1024, 4096
"""Samples of a large file, and bytes of each."""


def fault(path: Path) -> str | None:
    """What is wrong with a file and what to do, by its first bytes and the sizes in its header.

    None if nothing is wrong, as far as that tells: tensors are not read.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not size:
        return f"is empty: {AGAIN}"
    if start.startswith(POINTER):
        return "is a Git LFS pointer and not the file itself: run `git lfs pull`, or " + AGAIN
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return f"is a web page: {AGAIN}"
    if path.suffix == ".safetensors":
        return fault_of_safetensors(path, size)
    if path.suffix == ".json":
        return fault_of_json(path)
    if start.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path):
        return f"is damaged: its end is missing, at {size} bytes: {AGAIN}"
    return None


def fault_of_safetensors(path: Path, size: int) -> str | None:
    """What is wrong with a safetensors file of ``size`` bytes, or None."""
    try:
        header = read_header(path)
        entries = {**json.loads(header), "__metadata__": {"data_offsets": [0, 0]}}.values()
        expected = 8 + len(header) + max(entry["data_offsets"][1] for entry in entries)
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"is damaged: its header cannot be read: {AGAIN}"
    if size != expected:
        return f"is damaged: it has {size} bytes, and its header says {expected}: {AGAIN}"
    return None


def read_header(path: Path) -> bytes:
    """The JSON header of a safetensors file.

    Raises:
        ValueError: if the file is shorter than its header.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size - 8:
            raise ValueError(f"{path} is shorter than its header")
        return file.read(length)


def fault_of_json(path: Path) -> str | None:
    """What is wrong with a JSON file, which must hold an object, or None."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"is damaged: it is no JSON ({error}): {AGAIN}"
    if not isinstance(content, dict):
        return f"holds a {type(content).__name__}, not an object of JSON: {AGAIN}"
    return None


def faults(paths: Iterable[Path]) -> list[str]:
    """A sentence for each of ``paths`` with which something is wrong, see :func:`fault`."""
    return [f"{path} {wrong}" for path in paths if (wrong := fault(path)) is not None]


def check_file(path: Path) -> None:
    """Raise ValueError if something is wrong with a file, see :func:`fault`."""
    for wrong in faults([path]):
        raise ValueError(wrong)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: naming the file, if it is damaged or holds anything else.
    """
    check_file(path)
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def shards(index: Path) -> dict[str, str]:
    """The file of each tensor, by the index of a checkpoint.

    Raises:
        ValueError: naming the index, if it is damaged or does not say it.
    """
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
        raise ValueError(f"{index} has no weight_map from tensors to files: {AGAIN}")
    return found


def identity(files: Iterable[Path]) -> str:
    """A short digest of the content of ``files``, which their folder and dates do not change.

    It covers the names, the sizes, all bytes of files of up to 64 MiB, and of larger ones the
    safetensors header, 1,024 samples of 4 KiB at equal distances, and the end.
    """
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda path: (path.name, str(path))):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= WHOLE:
                digest.update(file.read())
                continue
            if path.suffix == ".safetensors" and fault(path) is None:
                digest.update(read_header(path))
            for number in range(SAMPLES + 1):
                file.seek((size - SAMPLE) * number // SAMPLES)
                digest.update(file.read(SAMPLE))
    return digest.hexdigest()[:16]
