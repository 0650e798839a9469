"""Shared fixtures: tiny random models, single-threaded arithmetic, no network."""

import os
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from pjd.models.emoji import EmojiModel
from pjd.pipeline.notebook import import_faster
from tests.tiny import tiny_model

import_faster()

# A run of pytest by itself behaves as `make test` does: what a test starts (dvc, papermill, the
# kernel, called `python`) comes from this environment, asks no hub and reports to nobody.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
os.environ["DVC_NO_ANALYTICS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"

# The same examples in every run, and no failure for a machine that is slow or busy.
settings.register_profile("pjd", deadline=None, derandomize=True)
settings.load_profile("pjd")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first, on each of two workers: a worker begins with one half of the list."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in items if not item.get_closest_marker("slow")]
    middle = len(others) // 2
    items[:] = [*slow[::2], *others[:middle], *slow[1::2], *others[middle:]]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Tiny matrices: a second thread costs more than it gives.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model() -> EmojiModel:
    """A 6x6 grid of 11 codes."""
    return tiny_model(grid=6, vocabulary=11)
