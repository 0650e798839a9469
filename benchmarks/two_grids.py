"""A tiny model that writes a preview of 8x8 codes and then the image, and its control without one.

Both go on from the weights of an embedded model, on the same pictures in the same order. Their
weights do not ship: some twenty minutes on a core make each of them again.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pjd.decoder.cache import SlotCache
from pjd.decoder.grid import Grid
from pjd.emoji.icons import Icons
from pjd.emoji.transformer_training import train_transformer
from pjd.models.emoji import EmojiModel
from pjd.models.llamagen import LlamaGen, LlamaGenConfig
from pjd.models.tokenizer import Tokenizer
from pjd.paths import DATA

SIDE = 8
"""Rows and columns of codes of a preview."""

WITH, WITHOUT = "with-preview", "without-preview"
"""Names of the two models."""

HELD_OUT = ("unseen-style", "unseen-name")
"""Splits of the corpus that no model is trained on."""


def halved(images: Tensor) -> Tensor:
    """Images of half the size: means of 2x2 pixels.

    Args:
        images: uint8 [batch, H, W, 3].

    Returns:
        uint8 [batch, H / 2, W / 2, 3].
    """
    means = F.avg_pool2d(images.permute(0, 3, 1, 2).float(), 2)
    return means.round().to(torch.uint8).permute(0, 2, 3, 1)


class PreviewTokenizer(Tokenizer):
    """Encodes a picture of half the size first. All codes are of one codebook."""

    def encode(self, images: Tensor) -> Tensor:
        """Codes int64 [batch, R * C / 4 + R * C] of uint8 ``images`` [batch, H, W, 3]."""
        both = [super(PreviewTokenizer, self).encode(part) for part in (halved(images), images)]
        return torch.cat([codes.flatten(1) for codes in both], dim=1)


class PreviewLlamaGen(LlamaGen):
    """A LlamaGen whose sequence is the caption, the codes of a preview, and those of the image.

    The preview lies on the plane of the image: a code of it has the row and column of the first of
    the image's codes that it stands for. A learned vector, added to its input, tells it from those.

    Args:
        config: sizes; ``grid`` is the image's.
        side: rows and columns of the preview.
    """

    def __init__(self, config: LlamaGenConfig, side: int) -> None:
        """Make the layers; the vector begins at zero."""
        super().__init__(config)
        self.side = side
        prefix, image = self.rotary.split([config.prefix, config.grid**2])
        step = config.grid // side
        places = torch.arange(config.grid**2).view(config.grid, -1)[::step, ::step].flatten()
        self.rotary = torch.cat([prefix, image[places], image])
        self.mark = nn.Parameter(torch.zeros(config.dim))

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor, cache: SlotCache | None = None
    ) -> Tensor:
        """Run the blocks; ``positions`` index prefix, preview and image, in this order."""
        number = positions - self.config.prefix
        of_preview = (number >= 0) & (number < self.side**2)
        return super().forward(x + of_preview[..., None] * self.mark, positions, mask, cache)


def train(
    start: EmojiModel, name: str, steps: int, checkpoint: Path, batch: int = 16
) -> EmojiModel:
    """Go on training a model, with a preview before each image or without; resumes.

    Args:
        start: an embedded model.
        name: of the model, :data:`WITH` or :data:`WITHOUT`.
        steps: optimiser steps.
        checkpoint: file that the run saves to, and resumes from.
        batch: pictures per step.
    """
    preview = name == WITH
    config, size = start.transformer.config, start.grid.rows * Tokenizer.reduction
    transformer = PreviewLlamaGen(config, SIDE) if preview else LlamaGen(config)
    transformer.load_state_dict(transformer.state_dict() | start.transformer.state_dict())
    vectors = nn.Embedding.from_pretrained(start.word_vectors.weight.clone(), freeze=False)
    tokenizer = PreviewTokenizer(config.vocabulary) if preview else Tokenizer(config.vocabulary)
    tokenizer.load_state_dict(start.tokenizer.state_dict())
    icons = {
        split: Icons.load(DATA / "icons.parquet", size, split, start.words)
        for split in ("train", *HELD_OUT)
    }
    # Both models are given the same pictures: nothing but their choice draws random numbers.
    torch.manual_seed(0)
    trained, _ = train_transformer(
        transformer,
        vectors,
        tokenizer,
        icons.pop("train"),
        icons,
        checkpoint,
        steps,
        batch=batch,
        rate=1e-3,
        decay=0.5,
    )
    return assembled(name, trained["transformer"], trained["words"], start)


def assembled(
    name: str, transformer: LlamaGen, words: nn.Embedding, start: EmojiModel
) -> EmojiModel:
    """The model of a transformer; that of its preview comes before it, if it writes one.

    Args:
        name: for labels.
        transformer: trained.
        words: word vectors.
        start: has the tokenizer, the vocabulary of words and the sampling options.
    """
    parts = transformer, words, start.tokenizer, start.words, start.sampling
    model = EmojiModel(name, *parts)
    if isinstance(transformer, PreviewLlamaGen):
        before = EmojiModel("preview", *parts)
        before.grid = Grid(transformer.side, transformer.side)
        model.before = before
    return model
