"""What a decoder did in each iteration: integer counts, from which all else follows."""

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from pjd.decoder.grid import RowLayout
from pjd.decoder.queries import Queries
from pjd.decoder.schedule import Band
from pjd.decoder.state import State
from pjd.decoder.verify import Verified

COUNTS = ("committed", "drafted", "accepted", "rejected", "fed", "blocked")
"""Fields of a trace that have entries per iteration and image."""


@dataclass
class Trace:
    """Record of a batch, in the rows of the decoder's own layout of the image.

    Attributes:
        columns: tokens (forced ones included) C per row.
        committed: int16 [iterations, batch, rows]; tokens committed after the iteration.
        drafted: int16 [iterations, batch, rows]; drafts verified in it.
        accepted: int16 [iterations, batch, rows]; of those, accepted.
        rejected: bool [iterations, batch, rows]; whether a rejected draft stopped the row. If not,
            it committed all that it was allowed to, and drafts behind were not put to the test.
        fed: int16 [iterations, batch]; tokens fed to the model.
        blocked: int16 [iterations, batch]; rows that committed all they were allowed to, and were
            kept from more by a row above.
        variation: float32 [batch, window]; total variation between a draft's distribution and the
            one that it is tested against, summed over the drafts at each depth.
    """

    columns: int
    committed: Tensor
    drafted: Tensor
    accepted: Tensor
    rejected: Tensor
    fed: Tensor
    blocked: Tensor
    variation: Tensor

    @classmethod
    def empty(cls, layout: RowLayout, batch: int, window: int, device: torch.device) -> "Trace":
        """Allocate for as many iterations as there can be; what is not recorded is complete."""
        by_row = torch.zeros(layout.length, batch, layout.rows, dtype=torch.int16, device=device)
        by_image = by_row.new_zeros(layout.length, batch)
        return cls(
            columns=layout.columns,
            committed=torch.full_like(by_row, layout.columns),
            drafted=by_row,
            accepted=by_row.clone(),
            rejected=by_row.bool(),
            fed=by_image,
            blocked=by_image.clone(),
            variation=torch.zeros(batch, window, dtype=torch.float32, device=device),
        )

    def record(self, state: State, band: Band, queries: Queries, verified: Verified) -> None:
        """Write one iteration of the images of ``state``, which is as the iteration left it."""
        images, blank = state.images, torch.zeros_like(state.committed)
        iteration = state.iteration.squeeze(1) - 1
        drafts = torch.where(band.active, band.n_drafts, 0)
        accepted = torch.where(band.active, verified.accepted, 0)
        gained = torch.where(band.active, verified.committed, 0)
        limited = (gained == band.max_commits) & (band.committed + band.max_commits < self.columns)
        blocked = band.begun & limited
        rejected = band.active & (accepted < torch.minimum(drafts, band.max_commits))

        def by_row(values: Tensor) -> Tensor:
            return blank.scatter(1, band.row, values)[:, :-1].to(torch.int16)

        self.committed[iteration, images] = state.committed[:, :-1].to(torch.int16)
        self.drafted[iteration, images] = by_row(drafts)
        self.accepted[iteration, images] = by_row(accepted)
        self.rejected[iteration, images] = by_row(rejected.to(drafts.dtype)).bool()
        self.fed[iteration, images] = queries.valid.sum(1).to(torch.int16)
        self.blocked[iteration, images] = blocked.sum(1).to(torch.int16)
        zeros = torch.zeros_like(self.variation[: len(images)])
        self.variation[images] += zeros.scatter_add(1, queries.depth, verified.variation)

    def cut(self, iterations: int) -> "Trace":
        """The first ``iterations``, on the CPU."""
        counts = {name: getattr(self, name)[:iterations].cpu() for name in COUNTS}
        return Trace(columns=self.columns, variation=self.variation.cpu(), **counts)

    @classmethod
    def join(cls, traces: list["Trace"]) -> "Trace":
        """One trace of several batches, padded at the end to the longest."""
        longest = max(len(trace.fed) for trace in traces)

        def joined(name: str) -> Tensor:
            parts = []
            for trace in traces:
                part = getattr(trace, name)
                tail = part[-1:].expand(longest - len(part), *part.shape[1:])
                # A finished image keeps its tokens, and nothing else happens to it.
                tail = tail if name == "committed" else torch.zeros_like(tail)
                parts.append(torch.cat([part, tail]))
            return torch.cat(parts, dim=1)

        variation = torch.cat([trace.variation for trace in traces])
        counts = {name: joined(name) for name in COUNTS}
        return cls(columns=traces[0].columns, variation=variation, **counts)

    @property
    def steps(self) -> Tensor:
        """Forward passes that each image needed, int64 [batch]."""
        done = self.committed[-1].sum(-1)
        return (self.committed.sum(-1) < done).sum(0) + 1

    @property
    def commit_iteration(self) -> Tensor:
        """Iteration that committed each token, int64 [batch, rows, columns]."""
        course = self.committed.permute(1, 2, 0).contiguous().long()
        wanted = torch.arange(1, self.columns + 1).expand(*course.shape[:2], -1).contiguous()
        return torch.searchsorted(course, wanted)

    @property
    def lag(self) -> Tensor:
        """Lag at commit: tokens by which the row above was ahead when a token was committed.

        Returns:
            int64 [batch, rows - 1, columns], for rows 1 and up: tokens that the row above had
            committed before, minus the own column. It is the nominal context c when a row starts,
            and may erode afterwards (docs/method.md, section 3). It cannot exceed C minus the
            column, which is its value once the row above is complete.
        """
        when = self.commit_iteration[:, 1:]
        course = torch.cat([torch.zeros_like(self.committed[:1]), self.committed]).long()
        above = course[:, :, :-1].permute(1, 2, 0).gather(2, when)
        return above - torch.arange(when.shape[2])

    @property
    def tested(self) -> tuple[Tensor, Tensor]:
        """Drafts accepted and drafts rejected at each position, int64 [batch, rows * columns] both.

        Drafts behind the first rejection of a window are neither, nor are those behind what the
        row was allowed to commit.
        """
        before = torch.cat([torch.zeros_like(self.committed[:1]), self.committed[:-1]]).long()
        after = before + self.accepted
        zeros = torch.zeros(*before.shape[1:], self.columns + 1, dtype=torch.long)
        ones = torch.ones_like(before)

        def count(at: Tensor, amount: Tensor) -> Tensor:
            return zeros.scatter_add(2, at.permute(1, 2, 0), amount.permute(1, 2, 0))

        accepted = (count(before, ones) - count(after, ones)).cumsum(2)
        rejected = count(after, self.rejected.long())
        return accepted[..., :-1].flatten(1), rejected[..., :-1].flatten(1)

    @property
    def depths(self) -> pd.DataFrame:
        """One row per draft depth (0: next after the committed tokens), summed over images.

        Columns: depth, drafts, tested (see :attr:`tested`), accepted, variation (total
        variation between the draft's distribution and the one it is tested against, mean over
        the drafts).
        """
        depth = torch.arange(self.variation.shape[1])[:, None, None, None]
        drafts = (self.drafted > depth).sum((1, 2, 3))
        accepted = (self.accepted > depth).sum((1, 2, 3))
        rejected = (self.rejected & (self.accepted == depth)).sum((1, 2, 3))
        columns = {
            "depth": depth.flatten(),
            "drafts": drafts,
            "tested": accepted + rejected,
            "accepted": accepted,
            "variation": self.variation.double().sum(0) / drafts.clamp(min=1),
        }
        table = pd.DataFrame({name: value.numpy() for name, value in columns.items()})
        return table[table.drafts > 0]

    def table(self) -> pd.DataFrame:
        """One row per image and iteration.

        Columns: image, iteration, active (rows that drafted or committed), drafted, accepted,
        committed (in this iteration), fed (tokens), blocked (rows limited by the row above),
        rejected (rows limited by a rejected draft), lag (tokens by which a row trails the one
        above when the iteration is over, mean over rows that have begun below an unfinished one;
        not a number if there is none).
        """
        before = torch.cat([torch.zeros_like(self.committed[:1]), self.committed[:-1]])
        gained = self.committed - before
        iterations, batch = self.fed.shape
        above, below = self.committed[..., :-1].long(), self.committed[..., 1:].long()
        open_ = (above < self.columns) & (below > 0)
        columns = {
            "image": torch.arange(batch).expand(iterations, -1),
            "iteration": torch.arange(iterations)[:, None].expand(-1, batch),
            "active": ((self.drafted > 0) | (gained > 0)).sum(-1),
            "drafted": self.drafted.sum(-1),
            "accepted": self.accepted.sum(-1),
            "committed": gained.sum(-1),
            "fed": self.fed,
            "blocked": self.blocked,
            "rejected": self.rejected.sum(-1),
            "lag": ((above - below) * open_).sum(-1) / open_.sum(-1),
        }
        table = pd.DataFrame({name: value.flatten().numpy() for name, value in columns.items()})
        return table[table.fed > 0].sort_values(["image", "iteration"], ignore_index=True)
