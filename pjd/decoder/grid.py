"""Geometry of an image's token grid: rows, columns, forced row-end tokens, raster order."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from pjd.decoder.config import DecodeConfig


@dataclass(frozen=True)
class Grid:
    """The token grid of one image, in raster order.

    Args:
        rows: token rows R of the image.
        columns: codes C per row.
        row_end: id of the token that the format forces after every row (Lumina-mGPT's and
            Emu3's end-of-line token), or None. It is known in advance: never drafted, never
            sampled.

    Raises:
        ValueError: if a size is not a positive integer.
    """

    rows: int
    columns: int
    row_end: int | None = None

    def __post_init__(self) -> None:
        """Check the sizes."""
        for name, value in (("rows", self.rows), ("columns", self.columns)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"grid {name} must be a positive integer, got {value!r}")

    @property
    def stride(self) -> int:
        """Sequence positions per row: its codes and its forced row-end token, if any."""
        return self.columns + (self.row_end is not None)

    @property
    def n_codes(self) -> int:
        """Codes R * C of an image."""
        return self.rows * self.columns

    @property
    def length(self) -> int:
        """Sequence positions of the image, forced tokens included."""
        return self.rows * self.stride

    def is_row_end(self, raster: Tensor) -> Tensor:
        """Where the tokens at ``raster`` positions int64 [...] are forced row ends, bool [...]."""
        return raster % self.stride >= self.columns

    def without_row_ends(self, values: Tensor) -> Tensor:
        """What ``values`` have for the codes, [n, R, C].

        Args:
            values: of the positions that a decoder fills, [n, ...] in raster order: of all tokens
                in the raster layout, else of the codes alone.
        """
        return values.reshape(len(values), self.rows, -1)[..., : self.columns]

    def with_row_ends(self, codes: Tensor, row_end: int) -> Tensor:
        """All tokens of images, [n, length].

        Args:
            codes: [n, R * C].
            row_end: what stands for the forced row-end tokens, if the format has them.
        """
        rows = codes.unflatten(1, (self.rows, self.columns))
        return F.pad(rows, (0, self.stride - self.columns), value=row_end).flatten(1)


@dataclass(frozen=True)
class RowLayout:
    """How a decoder lays out a grid: as its rows, or as one row of all tokens.

    Args:
        rows: rows R of the layout.
        columns: positions C of a row that the decoder fills. They include forced tokens only in
            the raster layout.
        stride: sequence positions per row.
        context: tokens that the row above must have before a row starts, at most C.
        grid: the grid that is laid out.
        vocabulary: number of codes; the id ``vocabulary`` is the forced row-end token.
    """

    rows: int
    columns: int
    stride: int
    context: int
    grid: Grid
    vocabulary: int

    @classmethod
    def of(cls, grid: Grid, config: DecodeConfig, vocabulary: int) -> "RowLayout":
        """The layout of ``grid`` that ``config`` asks for."""
        rows, columns, stride = grid.rows, grid.columns, grid.stride
        if config.layout == "raster":
            rows, columns, stride = 1, grid.length, grid.length
        return cls(rows, columns, stride, min(config.context or 0, columns), grid, vocabulary)

    @property
    def raster(self) -> bool:
        """Whether the whole grid is one row."""
        return self.columns == self.grid.length

    @property
    def row_ends(self) -> bool:
        """Whether the input that starts a row is a forced row-end token, known in advance."""
        return self.stride > self.columns

    @property
    def length(self) -> int:
        """Positions of the image that the decoder fills."""
        return self.rows * self.columns

    @property
    def n_ids(self) -> int:
        """Number of token ids: the codes and, if the format has one, the row-end token."""
        return self.vocabulary + (self.grid.row_end is not None)

    def position(self, row: Tensor, column: Tensor) -> Tensor:
        """Raster positions int64 [...] of the tokens at ``row`` and ``column`` int64 [...]."""
        return row * self.stride + column

    def rows_of(self, codes: Tensor) -> Tensor:
        """Tokens int64 [batch, R, C] of ``codes`` int64 [batch, R * C of the grid]; else -1."""
        tokens = self.grid.with_row_ends(codes, -1) if self.raster else codes
        return tokens.unflatten(1, (self.rows, self.columns))

    def forced(self, column: Tensor) -> Tensor:
        """Where the token at ``column`` int64 [...] is the row-end token, bool [...]."""
        return (column < self.columns) & self.grid.is_row_end(column)
