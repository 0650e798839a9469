"""Write the outcome of an iteration: tokens, drafts and their distributions."""

import torch
from torch import Tensor

from pjd.decoder.queries import Queries
from pjd.decoder.schedule import Band
from pjd.decoder.state import State
from pjd.decoder.verify import Verified


def commit(state: State, band: Band, queries: Queries, verified: Verified, finite: Tensor) -> None:
    """Update ``state`` in place: a captured iteration finds every field where it was.

    Args:
        state: of the batch.
        band: the rows that took part.
        queries: as they were fed.
        verified: what became of them.
        finite: bool [batch, 1]; whether the logits of each image were finite numbers.
    """
    window = state.draft_probs.shape[2] - 1
    blank = queries.lane == band.row.shape[1]
    column = queries.column + 1
    row = torch.where(blank, state.n_rows, queries.row)
    state.tokens[state.batch_index, row, column] = verified.drafts.tokens
    index, lane, ring_slot = state.ring_index(queries.row, column)
    lane = torch.where(blank, state.n_lanes, lane)
    state.draft_probs[index, lane, ring_slot] = verified.drafts.probs
    row = torch.where(band.active, band.row, state.n_rows)
    remaining = (band.n_drafts + 1).clamp(max=window) - verified.committed
    state.drafted.scatter_(1, row, remaining)
    state.committed.scatter_add_(1, row, torch.where(band.active, verified.committed, 0))
    state.flushed.copy_(band.finished)
    state.iteration += 1
    failed_now = ~finite & (state.failed_at == 0)
    state.failed_at.copy_(torch.where(failed_now, state.iteration, state.failed_at))
