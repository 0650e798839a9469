"""Rules that stand in for the engine's while images are decoded (benchmarks/exact.py).

They are for the embedded models in the raster layout: one row, no forced row-end tokens.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from pjd.decoder.config import DecodeConfig
from pjd.decoder.drafts import Windows, draft
from pjd.decoder.grid import RowLayout
from pjd.decoder.noise import DRAFT, Noise, uniform
from pjd.decoder.queries import Queries, per_query
from pjd.decoder.sampling import inverse_cdf_sample
from pjd.decoder.schedule import Band
from pjd.decoder.state import State
from pjd.decoder.verify import Drafts, Verified, proposals, verify


class FirstDrafts:
    """First drafts drawn from distributions that are known nearby, and declared as drawn so.

    Exact: the distributions depend on tokens before the position alone, and the draws are fresh.

    Args:
        above: share of the distribution one grid row above; the rest is that of the last draft
            carried over. Where a distribution is not known any more, the other one is all.
    """

    def __init__(self, above: float) -> None:
        """Nothing is drawn yet."""
        self.above = above
        self.probs = torch.empty(0)

    def draft(self, state: State, layout: RowLayout, config: DecodeConfig, band: Band) -> Windows:
        """The windows, with other first drafts."""
        windows = draft(state, layout, config, band)
        depth = torch.arange(config.window, device=band.row.device)
        column, carried = band.committed + depth, windows.carried
        self.probs = self.mixed(state, layout, band, carried, column, depth)
        position = layout.position(band.row, column)
        noise = uniform(state.iteration, position, state=state.streams[..., DRAFT])
        drawn = inverse_cdf_sample(self.probs, noise)
        first = (depth >= carried) & (depth < band.n_drafts)
        tokens = torch.where(first, drawn, windows.drafts[:, 0])
        return windows._replace(drafts=tokens[:, None])

    def mixed(
        self,
        state: State,
        layout: RowLayout,
        band: Band,
        carried: Tensor,
        column: Tensor,
        depth: Tensor,
    ) -> Tensor:
        """What a first draft at ``column`` int64 [batch, window] is drawn from, [..., ids]."""
        above = column - layout.grid.stride
        offset = depth - layout.grid.stride
        known = (above >= 0) & (offset >= -1) & (offset < carried)
        share = self.above * known
        end = (band.committed + carried - 1).clamp(min=0).expand_as(column)
        of_above = state.draft_probs[state.ring_index(band.row, above.clamp(min=0))]
        of_left = state.draft_probs[state.ring_index(band.row, end)]
        mixture = share[..., None] * of_above + (1 - share[..., None]) * of_left
        # At the start of an image nothing is known.
        return torch.where(mixture.sum(-1, keepdim=True) > 0, mixture, 1 / layout.vocabulary)

    def proposals(
        self,
        state: State,
        layout: RowLayout,
        config: DecodeConfig,
        band: Band,
        windows: Windows,
        queries: Queries,
    ) -> Drafts:
        """The drafts, and what they were drawn from."""
        tokens, probs = proposals(state, layout, config, band, windows, queries)
        first = queries.depth >= per_query(windows.carried, queries.lane)
        first &= queries.depth < per_query(band.n_drafts, queries.lane)
        drawn_from = self.probs[state.batch_index, queries.depth]
        return Drafts(tokens, torch.where(first[..., None], drawn_from, probs))


Toward = Callable[[Tensor, Tensor], Tensor]
"""From p and q, float [batch, queries, ids] both, to what a redraft is to be distributed as."""


def sharpened(temperature: float) -> Toward:
    """Drafts of another temperature than the tokens that are committed."""

    def toward(p: Tensor, q: Tensor) -> Tensor:
        powers = p.pow(1 / temperature)
        return powers / powers.sum(-1, keepdim=True)

    return toward


def averaged(share: float) -> Toward:
    """Drafts that keep up to ``share`` of q, as much of it as p and q have in common."""

    def toward(p: Tensor, q: Tensor) -> Tensor:
        kept = share * torch.minimum(p, q).sum(-1, keepdim=True)
        return (1 - kept) * p + kept * q

    return toward


def unchanged(p: Tensor, q: Tensor) -> Tensor:
    """Drafts of the distribution p, as usual."""
    return p


class Redrafted:
    """Coupled drafts whose distribution is not p, but one that it leads to.

    Exact, if the option ``accept`` is: it depends on tokens before the position alone, and is what
    the draft is declared as. The coupling is by the ratio test, whatever ``accept`` says of the
    drafts in front.

    Args:
        toward: gives that distribution.
    """

    def __init__(self, toward: Toward) -> None:
        """Nothing is drafted yet."""
        self.toward = toward

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
        """Commit as usual; redraft what is behind, coupled to the other distribution."""
        done = verify(target_probs, drafts, queries, band, noise, config, codebook)
        other_probs = self.toward(target_probs, drafts.probs)
        by_ratio = replace(config, accept="ratio")
        other = verify(other_probs, drafts, queries, band, noise, by_ratio, codebook)
        behind = queries.depth >= per_query(done.committed, queries.lane)
        next_drafts = Drafts(
            torch.where(behind, other.drafts.tokens, done.drafts.tokens),
            torch.where(behind[..., None], other.drafts.probs, done.drafts.probs),
        )
        return done._replace(drafts=next_drafts)
