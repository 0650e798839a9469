"""What is watched while MC-SJD decodes: first drafts, rejections, and what might predict better.

Nothing that is watched changes what is decoded (benchmarks/exact.py).
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from benchmarks.siblings import normalised
from pjd.api import Result
from pjd.decoder.config import DecodeConfig
from pjd.decoder.drafts import Windows
from pjd.decoder.grid import RowLayout
from pjd.decoder.model import ImageModel
from pjd.decoder.noise import Noise
from pjd.decoder.queries import Queries, per_query
from pjd.decoder.schedule import Band
from pjd.decoder.state import State
from pjd.decoder.verify import Drafts, Verified, proposals, verify

TEMPERATURES = (0.5, 0.7, 0.85, 1.0, 1.15, 1.4)
"""Of the drafts that are compared at the head of the window."""


def overlap(p: Tensor, q: Tensor) -> Tensor:
    """How likely a draft from q is accepted, float [...], of distributions [..., ids]."""
    return torch.minimum(p, q).sum(-1)


class Watch:
    """Sums over the drafts of all iterations, by what was summed."""

    def __init__(self) -> None:
        """Nothing is seen yet."""
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)
        self.carried = torch.empty(0)
        self.nearby: dict[str, Tensor] = {}
        self.first = torch.empty(0)
        self.after: Tensor | None = None
        self.images = torch.empty(0)

    def add(self, name: str, values: Tensor) -> None:
        """Count ``values`` [n] under ``name``."""
        self.sums[name] += float(values.double().sum())
        self.counts[name] += values.numel()

    def proposals(
        self,
        state: State,
        layout: RowLayout,
        config: DecodeConfig,
        band: Band,
        windows: Windows,
        queries: Queries,
    ) -> Drafts:
        """The drafts, unchanged; what first drafts might have been drawn from is kept."""
        self.carried = per_query(windows.carried, queries.lane)
        tested = queries.depth < per_query(band.n_drafts, queries.lane)
        above = queries.column + 1 - layout.grid.stride
        in_window = queries.depth - layout.grid.stride
        known = (above >= 0) & (in_window >= -1) & (in_window < self.carried) & (self.carried > 0)
        self.first = tested & (queries.depth >= self.carried) & known
        image, _ = self.first.nonzero(as_tuple=True)
        above, end = above[self.first], (band.committed + windows.carried - 1)[:, 0][image]
        ring = state.draft_probs.shape[2]
        of_above = state.draft_probs[image, 0, above % ring]
        of_left = state.draft_probs[image, 0, end % ring]
        one_hot = torch.nn.functional.one_hot
        self.nearby = {
            "uniform": torch.full_like(of_above, 1 / layout.vocabulary),
            "token above": one_hot(state.tokens[image, 0, above], layout.vocabulary),
            "token left": one_hot(state.tokens[image, 0, end], layout.vocabulary),
            "distribution above": of_above,
            "distribution left": of_left,
            "half of each": (of_above + of_left) / 2,
        }
        self.images = state.images
        return proposals(state, layout, config, band, windows, queries)

    def verify(
        self,
        target_probs: Tensor,
        drafts: Drafts,
        queries: Queries,
        band: Band,
        noise: Noise,
        config: DecodeConfig,
        codebook: Tensor,
    ) -> Verified:
        """Verify as usual, and look at p and q."""
        done = verify(target_probs, drafts, queries, band, noise, config, codebook)
        n_drafts = per_query(band.n_drafts, queries.lane)
        depth, tested = queries.depth, queries.depth < n_drafts
        for name, nearby in self.nearby.items():
            self.add(f"first: {name}", overlap(target_probs[self.first], nearby))
        for low, high in ((0, 1), (1, 4), (4, 16), (16, 1 << 20)):
            seen = tested & (depth >= low) & (depth < high) & (depth < self.carried)
            p, q = target_probs[seen], drafts.probs[seen]
            # The head in full, a sample of the many drafts behind it.
            p, q = p[:512], q[:512]
            for heat in TEMPERATURES if low in (0, 4) else (1.0,):
                sharp = normalised(q.pow(1 / heat))
                self.add(f"overlap from depth {low}, temperature {heat:g}", overlap(p, sharp))
        accepted = per_query(done.accepted, queries.lane)
        rejected = tested & (depth == accepted)
        self.remember(target_probs, drafts.probs, queries, tested & (depth == 0))
        # Images that are complete stay in the batch for a while, and test nothing.
        active = band.active.any(1)
        self.add("rejections per step", rejected.any(1)[active])
        self.add("head rejected per step", (rejected & (depth == 0)).any(1)[active])
        return done

    def remember(self, p: Tensor, q: Tensor, queries: Queries, head: Tensor) -> None:
        """Compare q at the head with what the model last predicted after the same token.

        After a rejection the draft at the head was predicted from the rejected token. Somewhere
        else in the image the token in its place may have had a prediction already.

        Args:
            p: target distributions, float [batch, queries, ids].
            q: draft distributions, float [batch, queries, ids].
            queries: as fed.
            head: bool [batch, queries]; the first draft of each image.
        """
        ids = p.shape[-1]
        if self.after is None:
            self.after = torch.zeros(len(p), ids, ids)
        image = self.images[:, None].expand_as(queries.token)
        known = self.after[image[head], queries.token[head]]
        own, target = q[head], p[head]
        seen = known.sum(-1) > 0
        known, own, target = known[seen], own[seen], target[seen]
        self.add("head, token seen before: its q", overlap(target, own))
        self.add("head, token seen before: what followed it", overlap(target, known))
        self.add("head, token seen before: half of each", overlap(target, (own + known) / 2))
        valid = queries.valid & (queries.column >= 0)
        self.after[image[valid], queries.token[valid]] = p[valid]

    def found(self, model: ImageModel, prompts: list[str], result: Result) -> dict[str, Any]:
        """The means; of the arguments nothing is needed."""
        seen = {name: count for name, count in self.counts.items() if count}
        means = {name: round(self.sums[name] / count, 4) for name, count in seen.items()}
        return {"watched": means}
