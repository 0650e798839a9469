"""Geometry of an image's token grid: rows, columns, forced row-end tokens, raster order."""

from dataclasses import dataclass


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
