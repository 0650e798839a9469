"""Findings about this machine: versions, GPUs, memory, weights, and what will not work, and why."""

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import NamedTuple

import torch

import pjd
from pjd.models.catalogue import CATALOGUE
from pjd.models.embedded import embedded_files
from pjd.models.files import faults
from pjd.models.memory import needs
from pjd.models.registry import EMOJI, available
from pjd.paths import DATA, ROOT, WEIGHTS

GIB = 2**30


class Finding(NamedTuple):
    """One line of ``pjd doctor``.

    Attributes:
        good: whether there is no problem.
        subject: what was examined.
        text: what was found and, if there is a problem, what to do.
    """

    good: bool
    subject: str
    text: str


def packages() -> Finding:
    """Versions of the packages that results depend on."""
    names = ("torch", "transformers", "torchmetrics", "dvc", "papermill")
    found, missing = [f"Python {platform.python_version()}", f"pjd {pjd.__version__}"], []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding(False, "packages", f"no {', '.join(missing)}: run `make env`")
    return Finding(True, "packages", ", ".join(found))


def main_memory() -> float:
    """GiB of the machine's memory, without GPUs."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


def gpu_memory() -> list[float]:
    """GiB of memory of each CUDA device."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_properties(n).total_memory / GIB for n in range(count)]


def processor() -> Finding:
    """Cores and memory of the machine."""
    memory = main_memory()
    free = shutil.disk_usage(ROOT).free / GIB
    text = f"{os.cpu_count()} cores, {memory:.0f} GiB memory, {free:.0f} GiB free on disk"
    return Finding(memory >= 4 and free >= 4, "machine", text)


def gpus() -> list[Finding]:
    """CUDA devices. Having none is no problem; the finding says why, and what it costs."""
    found = [
        Finding(True, "GPU", f"{torch.cuda.get_device_name(number)}, {memory:.0f} GiB")
        for number, memory in enumerate(gpu_memory())
    ]
    if found:
        return found
    cpu_only = torch.version.cuda is None
    why = f"torch {torch.__version__} is built for the CPU" if cpu_only else "torch finds none"
    costs = "--device cuda is refused, and a 7B checkpoint would take minutes per forward pass"
    return [Finding(True, "GPU", f"none ({why}): {costs}")]


def room(name: str, memory: float) -> str:
    """What an official checkpoint needs, and in 8 bits too where that may decide.

    Args:
        name: of the checkpoint.
        memory: GiB of the machine, or of its largest GPU.
    """
    plain, rounded = needs(name), needs(name, "int8")
    if plain.total <= memory:
        return str(plain)
    fits = "which fits" if rounded.total <= memory else "more too"
    return f"{plain}, more than {memory:.0f} here; with --quantize int8 {rounded}, {fits}"


def weights() -> list[Finding]:
    """Models on disk, with what they need and lack, and where to get the others."""
    embedded = available()
    found = [
        Finding(
            bool(embedded),
            "embedded models",
            f"{', '.join(embedded)} of {', '.join(EMOJI)}; any memory is enough"
            if embedded
            else "none: run `make data`",
        )
    ]
    for name in EMOJI:
        wrong = faults(embedded_files(WEIGHTS / name))
        if wrong:
            found.append(Finding(False, name, "; ".join(wrong)))
    basis = "what official models need is computed from sizes, for one image at a time"
    found.append(Finding(True, "memory", f"{basis}; `--quantize int8` needs pjd[int8]"))
    main, cards = main_memory(), gpu_memory()
    memory = max(cards, default=main)
    for name, official in CATALOGUE.items():
        folder = WEIGHTS / name
        missing, wrong = official.missing(folder), official.faults(folder)
        fits, needed = needs(name).total <= memory, f"needs {room(name, memory)}"
        if cards and needs(name).weights > main:
            fits = False
            needed += f"; weights are read in main memory, which has {main:.0f} GiB"
        if not folder.is_dir():
            text = f"not there; {needed}; {official.source}, files: {official.guide}"
            found.append(Finding(True, name, text))
        elif missing:
            text = f"no {', '.join(missing)} in {folder}: {official.guide}; {needed}"
            found.append(Finding(False, name, text))
        elif not wrong:
            found.append(Finding(fits, name, f"in {folder}; {needed}"))
        if wrong and folder.is_dir():
            found.append(Finding(False, name, "; ".join(wrong)))
    return found


def pipeline() -> list[Finding]:
    """Needs of `make reproduce` and of several workers."""
    corpus = (DATA / "prompts.json").exists()
    text = "there" if corpus else "missing: run `make data`"
    several = find_spec("ray") is not None
    return [
        Finding(corpus, "corpus", text),
        Finding(shutil.which("git") is not None, "git", "names the commit in run.json"),
        Finding(
            True,
            "Ray",
            "there"
            if several
            else "not there: --workers 2 or more is refused; pip install 'pjd[ray]'",
        ),
    ]


def examine() -> list[Finding]:
    """All findings."""
    return [packages(), processor(), *gpus(), *weights(), *pipeline()]
