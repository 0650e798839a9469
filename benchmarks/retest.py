"""What a correcting pass over finished rows would reject (benchmarks/exact.py)."""

from typing import Any

import torch
from torch import Tensor

from pjd.api import Result
from pjd.decoder.acceptance import likelihood
from pjd.decoder.commit import commit
from pjd.decoder.model import ImageModel
from pjd.decoder.queries import Queries, per_query
from pjd.decoder.schedule import Band
from pjd.decoder.state import State
from pjd.decoder.verify import Verified
from pjd.measure.fidelity import code_probs


class Retest:
    """Keeps the distributions that tokens are committed under, and tests the tokens once more."""

    def __init__(self) -> None:
        """Nothing is committed yet."""
        self.probs = torch.empty(0)

    def commit(
        self, state: State, band: Band, queries: Queries, verified: Verified, finite: Tensor
    ) -> None:
        """Commit as usual; keep p of what is committed, float [images, R + 1, C + window, ids]."""
        drafts = verified.drafts
        if not len(self.probs):
            shape = (*state.tokens.shape, drafts.probs.shape[-1])
            self.probs = torch.zeros(shape)
        committed = queries.depth < per_query(verified.committed, queries.lane)
        image = state.images[state.batch_index].expand_as(queries.row)[committed]
        row, column = queries.row[committed], queries.column[committed] + 1
        self.probs[image, row, column] = drafts.probs[committed]
        commit(state, band, queries, verified, finite)

    def found(self, model: ImageModel, prompts: list[str], result: Result) -> dict[str, Any]:
        """Test every token against AR's own distribution, as if all before it were final.

        Returns:
            Means over images: tokens rejected, rows with a rejection, and tokens from the first
            rejection of a row to its end, which would have to be decoded again.
        """
        grid = model.grid
        under = self.probs[:, : grid.rows, : grid.columns].flatten(1, 2)
        fails = []
        exact = code_probs(model, prompts, result.tokens, result.config)
        for image, p in enumerate(torch.cat([probs for _, probs in exact])):
            chosen = result.tokens[image]
            q = likelihood(under[image], chosen).clamp(min=1e-30)
            fails.append(1 - (likelihood(p, chosen) / q).clamp(max=1))
        chance = torch.stack(fails).unflatten(1, (grid.rows, grid.columns))
        alive = (1 - chance).cumprod(2)
        means = {
            "tokens rejected": chance.sum((1, 2)),
            "rows with a rejection": (1 - alive[..., -1]).sum(1),
            "tokens to decode again": (1 - alive).sum((1, 2)),
        }
        return {"retested": {name: round(float(one.mean()), 3) for name, one in means.items()}}
