"""What the engine asks of a model."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pjd.decoder.cache import KeyValueCache
from pjd.decoder.grid import Grid


class Prompt(NamedTuple):
    """Encoded prompts; with guidance the batch is doubled, conditional branch first.

    Attributes:
        embeddings: [branches * batch, length, dim], right-aligned.
        mask: bool [branches * batch, length], False for padding.
        positions: int64 [branches * batch, length], position ids, or [branches * batch, length,
            axes] where a position has several; the image's follow the last, see
            :meth:`ModelDefaults.image_positions`.
    """

    embeddings: Tensor
    mask: Tensor
    positions: Tensor

    def select(self, sequences: Tensor) -> "Prompt":
        """The prompts at ``sequences`` int64 [fewer]."""
        return Prompt(*(field[sequences] for field in self))


class ModelDefaults:
    """What most models are: a model inherits it, and says where it is otherwise.

    Attributes:
        takes_prompts: whether a prompt says what the image shows; if not, the one prompt is "".
        takes_guidance: whether there is an unconditional branch.
        before: the model of the grid that comes before this one in the same sequence, such as a
            preview: the same transformer with another grid; None: the first grid. It is decoded
            first, and its codes become a part of the prompt, see :mod:`pjd.decoder.grids`. Prompts
            are encoded by the model of the first grid.
        capturable: whether an iteration may be captured as one graph on a GPU, which needs a model
            that is on that GPU as a whole.
    """

    takes_prompts: bool = True
    takes_guidance: bool = True
    before: "ImageModel | None" = None
    capturable: bool = True

    def image_positions(self, last: Tensor, raster: Tensor) -> Tensor:
        """Position ids of an image's tokens: the numbers after the prompt's last one.

        Args:
            last: position ids of the last position of each prompt, int64 [batch, 1, ...].
            raster: int64 [batch, length], the tokens' positions in the image, forced row-end tokens
                counted; -1 is the prompt's last position.

        Returns:
            int64 [batch, length, ...].
        """
        return last + 1 + raster

    def guidance_at(self, guidance: float, raster: Tensor) -> float | Tensor:
        """The guidance scale of tokens: the same for all.

        Args:
            guidance: the option.
            raster: int64 [...], positions in the image of the tokens that are predicted.

        Returns:
            One number, or float [...].
        """
        return guidance


class ImageModel(Protocol):
    """A raster-order autoregressive image generator.

    What most models have in common is in :class:`ModelDefaults`.

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
        takes_prompts: see :class:`ModelDefaults`.
        takes_guidance: see :class:`ModelDefaults`.
        before: see :class:`ModelDefaults`.
        capturable: see :class:`ModelDefaults`.
    """

    name: str
    grid: Grid
    vocabulary: int
    sampling: dict[str, float | int]
    takes_prompts: bool
    takes_guidance: bool

    @property
    def before(self) -> "ImageModel | None":
        """The model of the grid before this one, see :class:`ModelDefaults`."""
        ...

    @property
    def capturable(self) -> bool:
        """Whether an iteration may be captured, see :class:`ModelDefaults`."""
        ...

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

    def image_positions(self, last: Tensor, raster: Tensor) -> Tensor:
        """Position ids of an image's tokens, see :meth:`ModelDefaults.image_positions`."""
        ...

    def guidance_at(self, guidance: float, raster: Tensor) -> float | Tensor:
        """The guidance scale of tokens, see :meth:`ModelDefaults.guidance_at`."""
        ...

    def encode(self, prompts: list[str], guided: bool) -> Prompt:
        """Encode ``prompts``, and as many unconditional ones if ``guided``."""
        ...

    def cache(self, batch: int, slots: int) -> KeyValueCache:
        """Allocate a cache for ``batch`` sequences (branches included) of ``slots`` positions."""
        ...

    def embed(self, tokens: Tensor) -> Tensor:
        """Input embeddings [batch, length, dim] of image tokens int64 [batch, length]."""
        ...

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Logits of the codes [batch, length, vocabulary].

        Args:
            x: input embeddings [batch, length, dim].
            positions: position ids int64 [batch, length], or with an axis more as the prompt's.
            mask: bool [batch, 1, length, keys], True = may attend; or in the model's dtype, what
                is added to the scores. ``scaled_dot_product_attention`` takes both.
            cache: slot cache, told the slots of the inputs; None: attend to the inputs only.
        """
        ...

    def decode(self, tokens: Tensor) -> Tensor:
        """Images uint8 [batch, height, width, 3] of codes int64 [batch, R * C]."""
        ...
