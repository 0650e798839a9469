"""What a decoder did in each iteration: integer counts, from which all else follows."""

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from pjd.front import Band
from pjd.verify import Verdict


@dataclass
class Trace:
    """Record of a batch, in the rows of the decoder's own view of the image.

    Attributes:
        committed: int16 [iterations, batch, rows]; tokens committed after the iteration.
        drafted: int16 [iterations, batch, rows]; drafts verified in it.
        accepted: int16 [iterations, batch, rows]; of those, accepted.
        fed: int16 [iterations, batch]; tokens fed to the model.
    """

    committed: Tensor
    drafted: Tensor
    accepted: Tensor
    fed: Tensor

    @classmethod
    def empty(cls, iterations: int, batch: int, rows: int, device: torch.device) -> "Trace":
        """Allocate for at most ``iterations``."""
        shape = (iterations, batch, rows)
        tensors = [torch.zeros(shape, dtype=torch.int16, device=device) for _ in range(3)]
        fed = torch.zeros(shape[:2], dtype=torch.int16, device=device)
        return cls(*tensors, fed)

    def record(
        self, iteration: int, committed: Tensor, lanes: Band, valid: Tensor, verdict: Verdict
    ) -> None:
        """Write one iteration."""
        blank = torch.zeros_like(committed)
        drafts = torch.where(lanes.active, lanes.drafts, 0)
        accepted = torch.where(lanes.active, verdict.accepted, 0)
        self.committed[iteration] = committed[:, :-1].to(torch.int16)
        self.drafted[iteration] = blank.scatter(1, lanes.row, drafts)[:, :-1].to(torch.int16)
        self.accepted[iteration] = blank.scatter(1, lanes.row, accepted)[:, :-1].to(torch.int16)
        self.fed[iteration] = valid.sum(1).to(torch.int16)

    def cut(self, iterations: int) -> "Trace":
        """The first ``iterations``, on the CPU."""
        fields = (self.committed, self.drafted, self.accepted, self.fed)
        return Trace(*(field[:iterations].cpu() for field in fields))

    @classmethod
    def join(cls, traces: list["Trace"]) -> "Trace":
        """One trace of several batches, padded at the end to the longest."""
        longest = max(len(trace.fed) for trace in traces)

        def pad(tensor: Tensor, repeat: bool) -> Tensor:
            missing = longest - len(tensor)
            tail = tensor[-1:].expand(missing, *tensor.shape[1:])
            return torch.cat([tensor, tail if repeat else torch.zeros_like(tail)])

        return cls(
            torch.cat([pad(trace.committed, True) for trace in traces], dim=1),
            torch.cat([pad(trace.drafted, False) for trace in traces], dim=1),
            torch.cat([pad(trace.accepted, False) for trace in traces], dim=1),
            torch.cat([pad(trace.fed, False) for trace in traces], dim=1),
        )

    @property
    def steps(self) -> Tensor:
        """Forwards each image needed, int64 [batch]."""
        done = self.committed[-1].sum(-1)
        return (self.committed.sum(-1) < done).sum(0) + 1

    @property
    def commit_iteration(self) -> Tensor:
        """Iteration that committed each token, int64 [batch, rows, columns]."""
        columns = int(self.committed[-1].max())
        course = self.committed.permute(1, 2, 0).contiguous().long()
        wanted = torch.arange(1, columns + 1).expand(*course.shape[:2], -1).contiguous()
        return torch.searchsorted(course, wanted)

    @property
    def lag(self) -> Tensor:
        """Context left at commit: codes of the row above committed before, minus own column.

        Returns:
            int64 [batch, rows - 1, columns], for rows 1 and up. It is the nominal context when a
            row starts, and may erode afterwards (METHODS 5.4). It cannot exceed C minus the
            column, which is its value once the row above is complete.
        """
        when = self.commit_iteration[:, 1:]
        course = torch.cat([torch.zeros_like(self.committed[:1]), self.committed]).long()
        above = course[:, :, :-1].permute(1, 2, 0).gather(2, when)
        return above - torch.arange(when.shape[2])

    @property
    def tested(self) -> tuple[Tensor, Tensor]:
        """Drafts accepted and drafts rejected at each place, int64 [batch, rows * columns] both.

        Drafts behind the first rejection of a window are neither.
        """
        columns = int(self.committed[-1].max())
        before = torch.cat([torch.zeros_like(self.committed[:1]), self.committed[:-1]]).long()
        after = before + self.accepted
        place = torch.zeros(*before.shape[1:], columns + 1, dtype=torch.long)
        rejected = (self.accepted < self.drafted).long()
        ones = torch.ones_like(before)

        def count(at: Tensor, amount: Tensor) -> Tensor:
            return place.scatter_add(2, at.permute(1, 2, 0), amount.permute(1, 2, 0))

        accepted = (count(before, ones) - count(after, ones)).cumsum(2)
        return accepted[..., :-1].flatten(1), count(after, rejected)[..., :-1].flatten(1)

    def table(self) -> pd.DataFrame:
        """One row an image and iteration.

        Columns: image, iteration, active (rows that drafted or committed), drafted, accepted,
        committed (in this iteration), fed (tokens).
        """
        before = torch.cat([torch.zeros_like(self.committed[:1]), self.committed[:-1]])
        gained = self.committed - before
        iterations, batch = self.fed.shape
        columns = {
            "image": torch.arange(batch).expand(iterations, -1),
            "iteration": torch.arange(iterations)[:, None].expand(-1, batch),
            "active": ((self.drafted > 0) | (gained > 0)).sum(-1),
            "drafted": self.drafted.sum(-1),
            "accepted": self.accepted.sum(-1),
            "committed": gained.sum(-1),
            "fed": self.fed,
        }
        table = pd.DataFrame({name: value.flatten().numpy() for name, value in columns.items()})
        return table[table.fed > 0].sort_values(["image", "iteration"], ignore_index=True)
