"""What a decoder knows of a batch between two iterations."""

from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from pjd.front import Band
from pjd.grid import View
from pjd.verify import Drafts, Verdict


@dataclass
class State:
    """State of the images that are not finished.

    Attributes:
        images: int64 [batch]; their places in the whole batch.
        seeds: int64 [batch, 1, 1]; of their random numbers.
        tokens: int64 [batch, R + 1, C + window]; a row's committed tokens, then its drafts. The
            last row and the last columns take the writes of idle lanes.
        committed: int64 [batch, R + 1]; committed tokens a row.
        drafted: int64 [batch, R + 1]; drafts that a row has after them.
        proposal: float [batch, lanes, window, ids]; what those drafts were drawn from.
        flushed: int64 [batch, 1]; finished rows whose last token has been fed.
    """

    images: Tensor
    seeds: Tensor
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
        return cls(
            images=torch.arange(batch, device=device),
            seeds=seeds[:, None, None],
            tokens=counts.new_zeros(batch, view.rows + 1, view.columns + window),
            committed=counts,
            drafted=counts.clone(),
            proposal=torch.zeros(batch, lanes, window, view.ids, device=device),
            flushed=counts.new_zeros(batch, 1),
        )

    @cached_property
    def image(self) -> Tensor:
        """Index int64 [batch, 1] of the images, to index other axes beside it."""
        return torch.arange(len(self.images), device=self.images.device)[:, None]

    def finished(self, columns: int) -> Tensor:
        """Rows that are complete, int64 [batch, 1]: they are the first ones."""
        return (self.committed[:, :-1] == columns).sum(1, keepdim=True)

    def take(self, kept: Tensor) -> "State":
        """The images at ``kept`` int64 [fewer]."""
        return State(*(getattr(self, field.name)[kept] for field in fields(self)))

    def commit(self, lanes: Band, drafts: Drafts, verdict: Verdict, columns: int) -> None:
        """Write the outcome of an iteration.

        Args:
            lanes: the rows that took part.
            drafts: as they were fed.
            verdict: on them.
            columns: positions C of a row.
        """
        active, window = lanes.active, drafts.tokens.shape[-1]
        depth = torch.arange(window, device=active.device)
        spare = self.committed.shape[1] - 1
        written = active[..., None] & (depth <= lanes.drafts[..., None])
        row = torch.where(written, lanes.row[..., None], spare)
        column = lanes.start[..., None] + depth
        self.tokens[self.image[..., None], row, column] = verdict.drafts.tokens
        row = torch.where(active, lanes.row, spare)
        left = (lanes.drafts + 1).clamp(max=window) - verdict.committed
        self.drafted.scatter_(1, row, left)
        before = self.finished(columns)
        gained = torch.where(active, verdict.committed, 0)
        self.committed.scatter_add_(1, row, gained)
        # The band moves down when its top row is finished, the windows right by what was
        # committed; an idle lane's drafts stay as they were.
        count = active.shape[1]
        lane = torch.arange(count, device=active.device)
        source = (lane + self.finished(columns) - before).clamp(max=count - 1)
        kept = torch.where(active[..., None, None], verdict.drafts.proposal, drafts.proposal)
        place = (depth + gained.gather(1, source)[..., None]).clamp(max=window - 1)
        self.proposal = kept[self.image[..., None], source[..., None], place]
