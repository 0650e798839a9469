"""A tiny random LlamaGen model for tests: real architecture, no weights on disk."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pjd.api import Result
from pjd.models.captions import Words
from pjd.models.emoji import EmojiModel
from pjd.models.llamagen import LlamaGen, LlamaGenConfig
from pjd.models.tokenizer import Tokenizer
from pjd.pipeline import runs


class TinyConfig(LlamaGenConfig):
    """The original rounds its feed-forward width up to a multiple of 256."""

    @property
    def feed_forward(self) -> int:
        """Narrow: most of a tiny model's time would go there."""
        return 2 * self.dim


def tiny_model(
    grid: int = 4,
    vocabulary: int = 7,
    seed: int = 0,
    sharpness: float = 3.0,
    sizes: type[LlamaGenConfig] = TinyConfig,
) -> EmojiModel:
    """A random model whose distributions are neither flat nor one-hot."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = sizes(
            dim=16,
            layers=2,
            heads=2,
            vocabulary=vocabulary,
            grid=grid,
            prefix=4,
            caption_dim=8,
            prefix_rotation="identity",
            dropout=0.0,
        )
        transformer = LlamaGen(config)
        for parameter in transformer.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=sharpness * parameter.shape[1] ** -0.5)
        words = Words(["cat", "dog", "red"], config.prefix)
        vectors = nn.Embedding(len(words), config.caption_dim)
        tokenizer = Tokenizer(codes=vocabulary, channels=(4, 8), blocks=(1, 1))
        return EmojiModel("tiny", transformer, vectors, tokenizer, words, {})


def tiny_stamp(
    result: Result, setting: str | None = None, weights: str | None = "0123"
) -> dict[str, Any]:
    """What run.json says of a run of the tiny model; None: an older one, that has no weights."""
    known = {} if weights is None else {"weights": weights}
    config = result.config.as_dict()
    return {"setting": setting, "model": "tiny", **known, "dtype": "float32", "config": config}


def runs_of_tiny_models(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are saved below ``folder``, and every model has the weights of :func:`tiny_stamp`."""
    monkeypatch.setattr(runs, "RUNS", folder / "runs")
    monkeypatch.setattr(runs, "PROVENANCE", folder / "provenance")
    monkeypatch.setattr(runs, "weights_of", lambda name: "0123")
    monkeypatch.setattr(runs, "resolve", lambda name: folder / name)
