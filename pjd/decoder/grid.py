"""Geometry of an image's token grid: rows, columns, forced row-end tokens, raster order."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The token grid of one image, in raster order.

    Args:
        rows: token rows R of the image.
        columns: image codes C in a row.
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
        """Sequence positions a row takes: its codes and its forced row-end token, if any."""
        return self.columns + (self.row_end is not None)

    @property
    def codes(self) -> int:
        """Image codes R * C."""
        return self.rows * self.columns

    @property
    def length(self) -> int:
        """Sequence positions of the image, forced tokens included."""
        return self.rows * self.stride


@dataclass(frozen=True)
class View:
    """How a decoder sees a grid: as rows of codes, or as one row of all of them.

    Args:
        rows: rows R of the view.
        columns: positions C of a row that the decoder fills; forced tokens only in one long row.
        stride: sequence positions a row.
        grid: what is seen.
        vocabulary: image codes; the id ``vocabulary`` is the forced row-end token.
    """

    rows: int
    columns: int
    stride: int
    grid: Grid
    vocabulary: int

    @classmethod
    def of(cls, grid: Grid, raster: bool, vocabulary: int) -> "View":
        """The view of ``grid`` as one row (``raster``) or as its rows."""
        if raster:
            return cls(1, grid.length, grid.length, grid, vocabulary)
        return cls(grid.rows, grid.columns, grid.stride, grid, vocabulary)

    @property
    def raster(self) -> bool:
        """Whether the whole grid is one row."""
        return self.columns == self.grid.length

    @property
    def ids(self) -> int:
        """Ids that occur: the codes and, if the format has one, the row-end token."""
        return self.vocabulary + (self.grid.row_end is not None)

    def forced(self, column: Tensor) -> Tensor:
        """Where the token at ``column`` int64 [...] is the row-end token, known in advance."""
        return (column < self.columns) & (column % self.grid.stride >= self.grid.columns)
