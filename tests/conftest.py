"""Shared fixtures: tiny random models, single-threaded arithmetic."""

import pytest
import torch
from tiny import tiny_model

from pjd.models.emoji import EmojiModel


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Tiny matrices: a second thread costs more than it gives.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model() -> EmojiModel:
    """A 6x6 grid of 11 codes."""
    return tiny_model(grid=6, vocabulary=11)
