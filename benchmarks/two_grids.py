"""A tiny model that writes a preview of 8x8 codes and then the image, and its control without one.

Both go on from the weights of an embedded model, on the same pictures in the same order. Their
weights do not ship: a quarter of an hour on a core makes each of them again.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pjd.decoder.cache import KeyValueCache
from pjd.decoder.grid import Grid
from pjd.decoder.grids import at_same_place, grids_of
from pjd.emoji import corpus
from pjd.emoji.icons import Icons
from pjd.emoji.transformer_training import train_transformer
from pjd.measure.fidelity import log_likelihood
from pjd.models.emoji import EmojiModel
from pjd.models.llamagen import LlamaGen, LlamaGenConfig
from pjd.models.tokenizer import Tokenizer, psnr
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
        """Make the layers."""
        super().__init__(config)
        self.side = side
        prefix, image = self.rotary.split([config.prefix, config.grid**2])
        step = config.grid // side
        places = torch.arange(config.grid**2).view(config.grid, -1)[::step, ::step].flatten()
        self.rotary = torch.cat([prefix, image[places], image])
        drawn = torch.Generator().manual_seed(0)
        self.mark = nn.Parameter(0.1 * torch.randn(config.dim, generator=drawn))

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Run the blocks; ``positions`` index prefix, preview and image, in this order."""
        number = positions - self.config.prefix
        of_preview = (number >= 0) & (number < self.side**2)
        return super().forward(x + of_preview[..., None] * self.mark, positions, mask, cache)


def train(start: EmojiModel, name: str, steps: int, checkpoint: Path, batch: int = 8) -> EmojiModel:
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


def held_out(model: EmojiModel, count: int = 252) -> dict[str, dict[str, float]]:
    """How well a model predicts real pictures, and how alike codes of them are.

    Args:
        model: to measure.
        count: pictures of each split, at most.

    Returns:
        By split: nats per token of each grid, without guidance, and those of the image after the
        preview of another one on the same background; the share of an image's codes that
        equal the one to the left, above, and of the preview at the same place; and the PSNR in dB
        of the tokenizer on previews.
    """
    path, size = DATA / "icons.parquet", Tokenizer.reduction * model.grid.rows
    table, grounds = corpus.load(path), list(corpus.BACKGROUNDS)
    result = {}
    for split in HELD_OUT:
        icons = Icons.load(path, size, split, model.words)
        rows = torch.randperm(len(icons), generator=torch.Generator().manual_seed(0))[:count]
        ground = torch.arange(len(rows)) % len(grounds)
        listed = table[table.split == split].iloc[rows.numpy()]
        prompts = [
            corpus.caption(name, style, grounds[number % len(grounds)])
            for number, (name, style) in enumerate(zip(listed.name, listed["style"], strict=True))
        ]
        images = icons.images(rows, ground)
        small = halved(images)
        codes: list[Tensor] = []
        scores = {}
        for one in grids_of(model):
            own = model.tokenizer.encode(images if one is model else small).flatten(1)
            scores[f"nats, {one.name}"] = nats(one, prompts, own, codes)
            codes.append(own)
        grid = codes[-1].unflatten(1, (model.grid.rows, model.grid.columns))
        scores["equal to the left"] = equal(grid[:, :, 1:], grid[:, :, :-1])
        scores["equal above"] = equal(grid[:, 1:], grid[:, :-1])
        if model.before is not None:
            # Pictures on the same background are as far apart as there are backgrounds.
            others = [codes[0].roll(len(grounds), 0)]
            scores["nats, another preview"] = nats(model, prompts, codes[1], others)
            copied = at_same_place(codes[0], model.before.grid, model.grid)
            scores["equal to the preview"] = equal(copied, codes[-1])
            scores["psnr of previews"] = float(psnr(model.before.decode(codes[0]), small).mean())
        result[split] = scores
    return result


def equal(first: Tensor, second: Tensor) -> float:
    """Share of equal codes."""
    return float((first == second).double().mean())


def nats(model: EmojiModel, prompts: list[str], codes: Tensor, previews: list[Tensor]) -> float:
    """Nats per token of codes, without guidance; see :func:`log_likelihood`."""
    found, _ = log_likelihood(model, prompts, codes, 1.0, 1.0, previews=previews)
    return -float(found.double().mean())
