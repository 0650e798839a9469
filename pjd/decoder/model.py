"""What the engine asks of a model."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pjd.decoder.cache import SlotCache
from pjd.decoder.grid import Grid


class Prompt(NamedTuple):
    """Encoded prompts; with guidance the batch is doubled, conditional branch first.

    Attributes:
        embeddings: [branches * batch, length, dim], right-aligned.
        mask: bool [branches * batch, length], False for padding.
        positions: int64 [branches * batch, length], position ids; the image's follow the last.
    """

    embeddings: Tensor
    mask: Tensor
    positions: Tensor

    def select(self, sequences: Tensor) -> "Prompt":
        """The prompts at ``sequences`` int64 [fewer]."""
        return Prompt(*(field[sequences] for field in self))


class ImageModel(Protocol):
    """A raster-order autoregressive image generator.

    Attributes:
        name: as given to :func:`pjd.load`.
        grid: geometry of the image tokens.
        vocabulary: number of codes, ids 0 to ``vocabulary - 1``; a forced row-end token is the id
            ``vocabulary``.
        sampling: the model's own defaults for options of
            :class:`pjd.decoder.config.DecodeConfig`.
        codebook: vectors of the codes, of length 1, float [vocabulary, width].
        device: where the model is.
        dtype: of its arithmetic.
    """

    name: str
    grid: Grid
    vocabulary: int
    sampling: dict[str, float | int]

    @property
    def codebook(self) -> Tensor:
        """Vectors of the codes, of length 1, float [vocabulary, width]."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's arithmetic."""
        ...

    def encode(self, prompts: list[str], guided: bool) -> Prompt:
        """Encode ``prompts``, and as many unconditional ones if ``guided``."""
        ...

    def cache(self, batch: int, slots: int) -> SlotCache:
        """Allocate a cache for ``batch`` sequences (branches included) of ``slots`` positions."""
        ...

    def embed(self, tokens: Tensor) -> Tensor:
        """Input embeddings [batch, length, dim] of image tokens int64 [batch, length]."""
        ...

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor, cache: SlotCache | None = None
    ) -> Tensor:
        """Logits of the codes [batch, length, vocabulary].

        Args:
            x: input embeddings [batch, length, dim].
            positions: position ids int64 [batch, length].
            mask: bool [batch, 1, length, keys], True = may attend; or in the model's dtype, what
                is added to the scores. ``scaled_dot_product_attention`` takes both.
            cache: slot cache, told the slots of the inputs; None: attend to the inputs only.
        """
        ...

    def decode(self, tokens: Tensor) -> Tensor:
        """Images uint8 [batch, height, width, 3] of codes int64 [batch, R * C]."""
        ...
