"""What a decoder knows of a batch between two iterations."""

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pjd.decoder.grid import RowLayout
from pjd.decoder.noise import streams
from pjd.decoder.schedule import Band

if TYPE_CHECKING:
    from pjd.decoder.queries import Queries
    from pjd.decoder.verify import Verified


@dataclass
class State:
    """State of the images that are not finished.

    Attributes:
        images: int64 [batch]; their indices in the whole batch.
        batch_index: int64 [batch, 1]; their indices here, to index other axes beside it.
        streams: int64 [batch, 1, 5]; see :func:`pjd.decoder.noise.streams`.
        iteration: int64 [batch, 1]; iterations done.
        tokens: int64 [batch, R + 1, C + window]; a row's committed tokens, then its drafts. The
            last row and the last columns take the writes of idle lanes.
        committed: int64 [batch, R + 1]; committed tokens per row.
        drafted: int64 [batch, R + 1]; drafts that a row has after them.
        draft_probs: float [batch, lanes + 1, window, ids]; q, what those drafts were drawn from.
            A ring: the draft at column j of row r has the entry (r mod lanes, j mod window); the
            last lane takes the writes of blanks.
        flushed: int64 [batch, 1]; finished rows whose last token has been fed.
    """

    images: Tensor
    batch_index: Tensor
    streams: Tensor
    iteration: Tensor
    tokens: Tensor
    committed: Tensor
    drafted: Tensor
    draft_probs: Tensor
    flushed: Tensor

    @classmethod
    def initial(cls, layout: RowLayout, seeds: Tensor, n_lanes: int, window: int) -> "State":
        """The state before the first iteration of images with ``seeds`` int64 [batch]."""
        batch, device = len(seeds), seeds.device
        counts = torch.zeros(batch, layout.rows + 1, dtype=torch.long, device=device)
        images = torch.arange(batch, device=device)
        return cls(
            images=images,
            batch_index=images[:, None],
            streams=streams(seeds[:, None]),
            iteration=counts.new_zeros(batch, 1),
            tokens=counts.new_zeros(batch, layout.rows + 1, layout.columns + window),
            committed=counts,
            drafted=counts.clone(),
            draft_probs=torch.zeros(batch, n_lanes + 1, window, layout.n_ids, device=device),
            flushed=counts.new_zeros(batch, 1),
        )

    @property
    def n_rows(self) -> int:
        """Rows R; the one after them takes the writes of idle lanes."""
        return self.committed.shape[1] - 1

    @property
    def n_lanes(self) -> int:
        """Lanes that have drafts; the one after them takes the writes of blanks."""
        return self.draft_probs.shape[1] - 1

    @property
    def committed_total(self) -> Tensor:
        """Tokens that each image has committed, int64 [batch]."""
        return self.committed[:, :-1].sum(1)

    def select(self, images: Tensor) -> "State":
        """The images at the indices ``images`` int64 [fewer]."""
        chosen = State(*(getattr(self, field.name)[images] for field in fields(self)))
        return replace(chosen, batch_index=self.batch_index[: len(images)])

    def ring_index(self, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where ``draft_probs`` has the entry of ``column`` in ``row``, int64 [batch, ...] both."""
        return self.batch_index, row % self.n_lanes, column % self.draft_probs.shape[2]

    def commit(self, band: Band, queries: "Queries", verified: "Verified") -> None:
        """Write the outcome of an iteration.

        Args:
            band: the rows that took part.
            queries: as they were fed.
            verified: what became of them.
        """
        window = self.draft_probs.shape[2]
        blank = queries.lane == band.row.shape[1]
        column = queries.column + 1
        row = torch.where(blank, self.n_rows, queries.row)
        self.tokens[self.batch_index, row, column] = verified.drafts.tokens
        index, lane, ring_slot = self.ring_index(queries.row, column)
        lane = torch.where(blank, self.n_lanes, lane)
        self.draft_probs[index, lane, ring_slot] = verified.drafts.probs
        row = torch.where(band.active, band.row, self.n_rows)
        remaining = (band.n_drafts + 1).clamp(max=window) - verified.committed
        self.drafted.scatter_(1, row, remaining)
        self.committed.scatter_add_(1, row, torch.where(band.active, verified.committed, 0))
        self.flushed = band.finished
        self.iteration += 1
