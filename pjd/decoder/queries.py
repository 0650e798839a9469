"""Inputs of one forward, packed: all that an image feeds, side by side."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Queries(NamedTuple):
    """What one forward is fed: the windows of all lanes, and the flush.

    Attributes:
        token: int64 [batch, queries].
        row: int64 [batch, queries]; the row that the prediction is for.
        column: int64 [batch, queries]; column of the token in that row, -1 if it starts the row.
        slot: int64 [batch, queries]; where keys and values go.
        valid: bool [batch, queries]; False for blanks, which fill up an image that feeds less
            than another.
        lane: int64 [batch, queries]; the lane whose window the query is of; the number of lanes
            for blanks and for the flush.
        depth: int64 [batch, queries]; place of the predicted position in that window.
        flush: bool [batch, 1]; whether the last token of a finished row is among them.
    """

    token: Tensor
    row: Tensor
    column: Tensor
    slot: Tensor
    valid: Tensor
    lane: Tensor
    depth: Tensor
    flush: Tensor


def spread(values: Tensor, lane: Tensor) -> Tensor:
    """Give each query its lane's value.

    Args:
        values: [batch, lanes].
        lane: int64 [batch, queries]; see :class:`Queries`.

    Returns:
        [batch, queries]; 0 or False for blanks and for the flush.
    """
    return F.pad(values, (0, 1)).gather(1, lane)
