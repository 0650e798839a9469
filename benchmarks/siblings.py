"""Siblings at the head of the window, as SJD-PAC has them (arXiv 2603.18599): what they would save.

A simulation that counts steps: what a tree would predict in the same forward pass is predicted in
an iteration of its own, which is not counted. So no mask and no cache of a tree is needed.
"""

import torch
from torch import Tensor

from pjd.decoder.acceptance import likelihood
from pjd.decoder.commit import commit
from pjd.decoder.config import DecodeConfig
from pjd.decoder.grid import RowLayout
from pjd.decoder.noise import Noise
from pjd.decoder.queries import Queries, per_query
from pjd.decoder.sampling import inverse_cdf_sample
from pjd.decoder.schedule import Band, schedule
from pjd.decoder.state import State
from pjd.decoder.verify import Drafts, Verified, verify


def normalised(weights: Tensor) -> Tensor:
    """Weights [..., ids] to distributions; zeros stay zeros."""
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-30)


def one_of_siblings(
    p: Tensor, q: Tensor, rejected: Tensor, width: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Test siblings where a draft was rejected, one after the other.

    Siblings are drawn from q without replacement. Each is accepted with probability
    min(1, p(x) / q(x)); if it is not, p becomes norm(max(0, p - q)), and q loses x. If all fail,
    the token is drawn from what is left of p. So its distribution is p.

    Args:
        p: target distributions, float [rejections, ids].
        q: draft distributions, float [rejections, ids].
        rejected: int64 [rejections], the drafts.
        width: siblings, the rejected draft among them.
        generator: of the siblings and their tests.

    Returns:
        The tokens, int64 [rejections], and whether a sibling was accepted, bool [rejections].
    """
    token, chosen = rejected, rejected
    accepted = torch.zeros_like(rejected, dtype=torch.bool)
    for _ in range(width - 1):
        p = normalised((p - q).clamp(min=0))
        q = normalised(q.scatter(-1, token[:, None], 0.0))
        token = inverse_cdf_sample(q, torch.rand(len(q), generator=generator))
        chance = torch.rand(len(q), generator=generator)
        # A draft that was certain leaves nothing that a sibling could be drawn from.
        is_drawn = likelihood(q, token) > 0
        passes = is_drawn & (chance * likelihood(q, token) < likelihood(p, token))
        chosen = torch.where(passes & ~accepted, token, chosen)
        accepted |= passes
    rest = inverse_cdf_sample((p - q).clamp(min=0), torch.rand(len(q), generator=generator))
    return torch.where(accepted, chosen, rest), accepted


class Siblings:
    """A tree of depth 1 beside the first drafts of the window, whose main branch is the window.

    Where a sibling is accepted, the same forward pass has predicted the token behind it: one token
    more is committed.

    Args:
        width: siblings at a position, the draft among them.
        depths: positions that have siblings, the first ones of the window.

    Attributes:
        beside: bool [images, 1]; which images commit the token behind a sibling now.
        saved: int64 [images]; iterations that are not counted.
    """

    def __init__(self, width: int, depths: int) -> None:
        """Begin with ordinary iterations."""
        self.width, self.depths = width, depths
        self.generator = torch.Generator().manual_seed(0)
        self.beside = torch.zeros(1, 1, dtype=torch.bool)
        self.rescued = self.beside
        self.saved = torch.zeros(1, dtype=torch.long)

    @property
    def fed_beside(self) -> int:
        """Siblings that a forward pass would be fed beside the window."""
        return (self.width - 1) * self.depths

    def schedule(
        self,
        committed: Tensor,
        drafted: Tensor,
        layout: RowLayout,
        n_lanes: int,
        config: DecodeConfig,
    ) -> Band:
        """Behind an accepted sibling, one token is committed and one draft is tested."""
        band = schedule(committed, drafted, layout, n_lanes, config)
        self.beside = self.beside & band.active
        self.saved = self.saved + self.beside[:, 0]
        return band._replace(
            n_drafts=torch.where(self.beside, band.n_drafts.clamp(max=1), band.n_drafts),
            max_commits=torch.where(self.beside, 1, band.max_commits),
        )

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
        """Verify as usual; at the first rejection, test siblings."""
        done = verify(target_probs, drafts, queries, band, noise, config, codebook)
        tested = queries.depth < per_query(band.n_drafts, queries.lane)
        rejected = tested & (queries.depth == per_query(done.accepted, queries.lane))
        rejected &= (queries.depth < self.depths) & ~self.beside
        parts = (part[rejected] for part in (target_probs, drafts.probs, drafts.tokens))
        chosen, accepted = one_of_siblings(*parts, self.width, self.generator)
        tokens = done.drafts.tokens.masked_scatter(rejected, chosen)
        rescued = torch.zeros_like(rejected).masked_scatter(rejected, accepted)
        self.rescued = rescued.any(1, keepdim=True)
        return done._replace(drafts=done.drafts._replace(tokens=tokens))

    def commit(
        self, state: State, band: Band, queries: Queries, verified: Verified, finite: Tensor
    ) -> None:
        """Commit as usual; drafts further behind stay as they are beside the window."""
        others = state.drafted[:, :1] - 1
        commit(state, band, queries, verified, finite)
        state.drafted[:, :1] = torch.where(
            self.beside, torch.maximum(others, state.drafted[:, :1]), state.drafted[:, :1]
        )
        self.beside = self.rescued
