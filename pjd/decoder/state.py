"""What a decoder knows of a batch between two iterations."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from pjd.decoder.grid import View
from pjd.decoder.noise import streams
from pjd.decoder.queries import Queries
from pjd.decoder.schedule import Band
from pjd.decoder.verify import Verdict


@dataclass
class State:
    """State of the images that are not finished.

    Attributes:
        images: int64 [batch]; their places in the whole batch.
        image: int64 [batch, 1]; their places here, to index other axes beside it.
        streams: int64 [batch, 1, 5]; see :func:`pjd.decoder.noise.streams`.
        iteration: int64 [batch, 1]; iterations done.
        tokens: int64 [batch, R + 1, C + window]; a row's committed tokens, then its drafts. The
            last row and the last columns take the writes of idle lanes.
        committed: int64 [batch, R + 1]; committed tokens a row.
        drafted: int64 [batch, R + 1]; drafts that a row has after them.
        proposal: float [batch, lanes + 1, window, ids]; what those drafts were drawn from. The
            draft at column j of row r has the entry (r mod lanes, j mod window); the last lane
            takes the writes of blanks.
        flushed: int64 [batch, 1]; finished rows whose last token has been fed.
    """

    images: Tensor
    image: Tensor
    streams: Tensor
    iteration: Tensor
    tokens: Tensor
    committed: Tensor
    drafted: Tensor
    proposal: Tensor
    flushed: Tensor

    @classmethod
    def start(cls, view: View, seeds: Tensor, lanes: int, window: int) -> "State":
        """The state before the first iteration of images with ``seeds`` int64 [batch]."""
        batch, device = len(seeds), seeds.device
        counts = torch.zeros(batch, view.rows + 1, dtype=torch.long, device=device)
        images = torch.arange(batch, device=device)
        return cls(
            images=images,
            image=images[:, None],
            streams=streams(seeds[:, None]),
            iteration=counts.new_zeros(batch, 1),
            tokens=counts.new_zeros(batch, view.rows + 1, view.columns + window),
            committed=counts,
            drafted=counts.clone(),
            proposal=torch.zeros(batch, lanes + 1, window, view.ids, device=device),
            flushed=counts.new_zeros(batch, 1),
        )

    def finished(self, columns: int) -> Tensor:
        """Rows that are complete, int64 [batch, 1]: they are the first ones."""
        return (self.committed[:, :-1] == columns).sum(1, keepdim=True)

    def take(self, kept: Tensor) -> "State":
        """The images at ``kept`` int64 [fewer]."""
        taken = State(*(getattr(self, field.name)[kept] for field in fields(self)))
        return replace(taken, image=self.image[: len(kept)])

    def proposed(self, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where ``proposal`` has the entry of ``column`` in ``row``, int64 [batch, ...] both."""
        lanes, window = self.proposal.shape[1] - 1, self.proposal.shape[2]
        return self.image, row % lanes, column % window

    def commit(self, lanes: Band, queries: Queries, verdict: Verdict, columns: int) -> None:
        """Write the outcome of an iteration.

        Args:
            lanes: the rows that took part.
            queries: as they were fed.
            verdict: on them.
            columns: positions C of a row.
        """
        spare, window = self.committed.shape[1] - 1, self.proposal.shape[2]
        blank = queries.lane == lanes.row.shape[1]
        column = queries.column + 1
        row = torch.where(blank, spare, queries.row)
        self.tokens[self.image, row, column] = verdict.drafts.tokens
        image, lane, place = self.proposed(queries.row, column)
        lane = torch.where(blank, self.proposal.shape[1] - 1, lane)
        self.proposal[image, lane, place] = verdict.drafts.proposal
        row = torch.where(lanes.active, lanes.row, spare)
        left = (lanes.drafts + 1).clamp(max=window) - verdict.committed
        self.drafted.scatter_(1, row, left)
        self.committed.scatter_add_(1, row, torch.where(lanes.active, verdict.committed, 0))
        self.iteration += 1
