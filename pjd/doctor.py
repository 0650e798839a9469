"""What is on this machine: versions, GPUs, memory, weights; and what will not work, and why."""

import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import NamedTuple

import torch

from pjd.models.catalogue import CATALOGUE
from pjd.models.registry import EMOJI, available
from pjd.paths import DATA, ROOT, WEIGHTS

GIB = 2**30


class Finding(NamedTuple):
    """One line.

    Attributes:
        good: whether all is well.
        subject: what was looked at.
        text: what was found or, where it is not good, what to do.
    """

    good: bool
    subject: str
    text: str


def packages() -> Finding:
    """Versions of what results depend on."""
    names = ("torch", "transformers", "torchmetrics", "dvc", "papermill")
    found, missing = [], []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding(False, "packages", f"no {', '.join(missing)}: run `make env`")
    return Finding(True, "packages", ", ".join(found))


def processor() -> Finding:
    """Cores and memory of the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    free = shutil.disk_usage(ROOT).free / GIB
    text = f"{os.cpu_count()} cores, {memory:.0f} GiB memory, {free:.0f} GiB free on disk"
    return Finding(memory >= 4 and free >= 4, "machine", text)


def gpus() -> list[Finding]:
    """CUDA devices; none is no fault, but says what it costs."""
    if not torch.cuda.is_available():
        text = "none: embedded models run on the CPU, a 7B checkpoint would take minutes a forward"
        return [Finding(True, "GPU", text)]
    found = []
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        memory = properties.total_memory / GIB
        fits = "any checkpoint" if memory >= 22 else "no 7B checkpoint in bfloat16 (needs 22 GiB)"
        found.append(Finding(True, "GPU", f"{properties.name}, {memory:.0f} GiB: fits {fits}"))
    return found


def weights() -> list[Finding]:
    """Which models are on disk, and where to get the others."""
    there = available()
    found = [
        Finding(
            bool(there),
            "embedded models",
            f"{', '.join(there)} of {', '.join(EMOJI)}" if there else "none: run `make data`",
        )
    ]
    for name, official in CATALOGUE.items():
        folder = WEIGHTS / name
        beside = [path for path in official.beside.values() if not (WEIGHTS / path).exists()]
        if not folder.is_dir():
            text = f"not there; {official.source}, files: {official.guide}"
            found.append(Finding(True, name, text))
        elif beside:
            text = f"needs {', '.join(beside)} in {WEIGHTS} too: {official.guide}"
            found.append(Finding(False, name, text))
        else:
            found.append(Finding(True, name, f"in {folder}"))
    return found


def pipeline() -> list[Finding]:
    """What `make reproduce` and several workers need."""
    corpus = (DATA / "prompts.json").exists()
    text = "there" if corpus else "missing: run `make data`"
    several = find_spec("ray") is not None
    return [
        Finding(corpus, "corpus", text),
        Finding(
            shutil.which("git") is not None, "git", "provenance stamps name the commit with it"
        ),
        Finding(
            True, "Ray", "there" if several else "not there: one worker; pip install 'pjd[ray]'"
        ),
    ]


def examine() -> list[Finding]:
    """All findings."""
    return [packages(), processor(), *gpus(), *weights(), *pipeline()]
