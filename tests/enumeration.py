"""Exact distributions of tiny models by enumeration: the definition that decoders are held to.

Nothing here uses the engine, its masks or its cache: who sees whom is spelt out pair by pair.
"""

import itertools
import math

import torch
from scipy.stats import chisquare
from torch import Tensor

from pjd.decoder.config import DecodeConfig
from pjd.decoder.engine import Engine
from pjd.decoder.grid import Grid
from pjd.decoder.model import ImageModel
from pjd.decoder.sampling import guide, probabilities
from tests.tiny import tiny_model


class RowEnds:
    """A tiny model whose format forces a token after every row, as Lumina-mGPT's does."""

    def __init__(self, rows: int, columns: int, vocabulary: int, seed: int) -> None:
        """Embed one id more than there are codes; positions count the row ends."""
        side = max(rows, columns + 1)
        self.inner = tiny_model(grid=side, vocabulary=vocabulary + 1, seed=seed)
        self.grid = Grid(rows, columns, row_end=vocabulary)
        self.vocabulary = vocabulary

    def __getattr__(self, name: str) -> object:
        """Everything else is the inner model's."""
        return getattr(self.inner, name)

    @property
    def codebook(self) -> Tensor:
        """Vectors of the codes alone."""
        return self.inner.codebook[: self.vocabulary]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits of the codes alone."""
        return self.inner.forward(*inputs)[..., : self.vocabulary]


def rectangle(rows: int, columns: int, vocabulary: int, seed: int = 0) -> ImageModel:
    """A tiny model with a grid that need not be square."""
    model = tiny_model(grid=max(rows, columns), vocabulary=vocabulary, seed=seed)
    model.grid = Grid(rows, columns)
    return model


def every_image(model: ImageModel) -> Tensor:
    """All images, int64 [vocabulary ** codes, codes]."""
    ids = itertools.product(range(model.vocabulary), repeat=model.grid.n_codes)
    return torch.tensor(list(ids))


def starter(model: ImageModel, config: DecodeConfig, row: int, context: int) -> tuple[int, int]:
    """Place of the code that stands in for the one before ``row``, when row ends are not forced."""
    columns = model.grid.columns
    complete = row - math.ceil(columns / context)
    if context >= columns or config.stand_in == "newest":
        return row - 1, context - 1
    if config.stand_in == "last-column":
        return (complete, columns - 1) if complete >= 0 else (row - 1, context - 1)
    return row - 1, 0


@torch.inference_mode()
def exact(model: ImageModel, config: DecodeConfig, context: int | None = None) -> Tensor:
    """Probability of every image under the staircase model M_c; c = C, the default, is AR itself.

    Args:
        model: a tiny model.
        config: guidance, temperature, truncation and the stand-in.
        context: c.

    Returns:
        float64 [vocabulary ** codes], in the order of :func:`every_image`.
    """
    grid, images = model.grid, every_image(model)
    context = min(context or grid.columns, grid.columns)
    branches = 1 if config.guidance == 1 else 2
    prompt = model.encode(["red cat"], guided=branches == 2)
    prefix = prompt.mask.shape[1]
    # Inputs behind the prompt: every code, and what starts every row but the first.
    inputs = [(row, column) for row in range(grid.rows) for column in range(-1, grid.columns)][1:]
    tokens, positions = [], []
    for row, column in inputs:
        if column >= 0:
            tokens.append(images[:, row * grid.columns + column])
        elif grid.row_end is not None:
            tokens.append(torch.full((len(images),), grid.row_end))
        else:
            above, place = starter(model, config, row, context)
            tokens.append(images[:, above * grid.columns + place])
        positions.append(row * grid.stride + column)

    def sees(query: tuple[int, int], key: tuple[int, int]) -> bool:
        (row, column), (key_row, key_column) = query, key
        if query == key:
            return True
        if key_column < 0:
            # A forced token belongs to the image; a stand-in is its own row's business, once.
            return grid.row_end is not None and key_row <= row
        if key_row == row:
            return key_column <= column
        if key_row > row:
            return False
        hidden = column < 0 and key == (row - 1, grid.columns - 1) and grid.row_end is None
        return key_column < column + 1 + (row - key_row) * context and not hidden

    length = prefix + len(inputs)
    mask = torch.zeros(branches, length, length, dtype=torch.bool)
    for query in range(length):
        for key in range(length):
            if key < prefix:
                mask[:, query, key] = prompt.mask[:, key] & (key <= query)
            elif query >= prefix:
                mask[:, query, key] = sees(inputs[query - prefix], inputs[key - prefix])
        mask[:, query, query] = True
    size = len(images)
    image = model.embed(torch.stack(tokens, 1)).repeat(branches, 1, 1)
    x = torch.cat([prompt.embeddings.repeat_interleave(size, 0), image], dim=1)
    place = prompt.positions[:1, -1:] + 1 + torch.tensor(positions)
    place = torch.cat([prompt.positions[:1], place], dim=1).expand(size * branches, -1)
    logits = model.forward(x, place, mask.repeat_interleave(size, 0)[:, None])
    if branches == 2:
        logits = guide(logits, config.guidance)
    p = probabilities(logits.double(), config).double()
    result = torch.ones(size, dtype=torch.float64)
    for row, column in itertools.product(range(grid.rows), range(grid.columns)):
        before = inputs.index((row, column - 1)) if (row, column) != (0, 0) else -1
        chosen = images[:, row * grid.columns + column]
        result *= p[torch.arange(size), prefix + before, chosen]
    assert abs(result.sum() - 1) < 1e-5
    return result


def decode(model: ImageModel, config: DecodeConfig, count: int, batch: int = 10_000) -> Tensor:
    """How often each image came up among ``count`` decodes, in the order of every_image."""
    weights = model.vocabulary ** torch.arange(model.grid.n_codes - 1, -1, -1)
    total = torch.zeros(model.vocabulary**model.grid.n_codes)
    for first in range(0, count, batch):
        size = min(batch, count - first)
        seeds = config.seed + torch.arange(first, first + size)
        tokens = (
            Engine(model, config, model.encode(["red cat"] * size, config.guided), seeds)
            .run()
            .tokens
        )
        total += torch.bincount((tokens * weights).sum(1), minlength=len(total))
    return total


def p_value(counts: Tensor, expected: Tensor) -> float:
    """Chi-square test of ``counts`` against probabilities, rare images taken together.

    0 if an image came up that cannot.
    """
    expected = expected * counts.sum()
    if counts[expected < 1e-9].any():
        return 0.0
    common = expected >= 5
    observed, wanted = counts[common].double(), expected[common]
    if not common.all():
        observed = torch.cat([observed, counts[~common].sum()[None].double()])
        wanted = torch.cat([wanted, expected[~common].sum()[None]])
    # The rest is summed: rounding must not make the totals differ.
    return float(chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue)
