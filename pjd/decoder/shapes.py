"""How much is computed: the numbers of lanes, queries, slots and images of one iteration.

On a CPU reading a count is free, so only what is in use is computed. On a GPU the read would
synchronise, so sizes are upper bounds that the host refreshes every few iterations; few different
sizes occur, since each is a graph to capture.
"""

import torch
from torch import Tensor

from pjd.decoder.cache import SlotMap
from pjd.decoder.grid import RowLayout
from pjd.decoder.queries import Queries
from pjd.decoder.schedule import Band
from pjd.decoder.state import State

LOOK_EVERY_RASTER = 8
"""Iterations between two looks of the host at a GPU, in the raster layout: nothing depends on the
look but when finished images are dropped, and a look costs about one small iteration."""

LOOK_EVERY_ROWS = 2
"""The same by rows: every iteration may start one more row, and all that may have started since
the last look are computed."""

KEEP_SHARE = 0.75
"""Finished images are dropped once at most this share of the batch is unfinished: dropping copies
the cache of the others, which pays when it saves a quarter of every later forward pass."""


class Shapes:
    """The sizes of the tensors of one iteration.

    Args:
        layout: the decoder's.
        slots: all cache slots.
        static: keep sizes as the host last saw them fit, as on a GPU.
    """

    def __init__(self, layout: RowLayout, slots: SlotMap, static: bool) -> None:
        """Begin with all lanes."""
        self.layout, self.slots, self.static = layout, slots, static
        self.bound = slots.n_lanes

    @property
    def iterations_per_look(self) -> int:
        """Iterations until the host looks at the state again."""
        if not self.static:
            return 1
        return LOOK_EVERY_RASTER if self.slots.n_lanes == 1 else LOOK_EVERY_ROWS

    def look_ahead(self, state: State, iterations: int) -> None:
        """Bound the lanes of the next ``iterations``: in each, at most one more row starts.

        The bound is rounded up to an even number, so that few sizes occur.
        """
        if not self.static:
            return
        committed = state.committed[:, :-1]
        begun = (committed > 0) & (committed < self.layout.columns)
        most = int(begun.sum(1).max()) + iterations
        self.bound = min(self.slots.n_lanes, most + most % 2)

    def trim(self, band: Band) -> Band:
        """The lanes whose rows have begun or, with static sizes, may have begun."""
        if self.static:
            return band.head(self.bound)
        lane = torch.arange(1, band.row.shape[1] + 1, device=band.row.device)
        return band.head(max(1, int((band.begun * lane).max())))

    def pack(self, queries: Queries) -> Queries:
        """Valid queries first; with sizes that follow use, no more than the fullest image has."""
        order = (~queries.valid).to(torch.int8).argsort(dim=1, stable=True)
        if not self.static:
            order = order[:, : int(queries.valid.sum(1).max())]
        return queries.gather(order)

    def slots_in_use(self, raster: Tensor) -> int:
        """Number of leading cache slots that any query can see.

        A query never sees a slot behind its own. With static sizes: all slots.

        Args:
            raster: int64 [batch, queries], raster positions of the queries, -1 before the image.
        """
        if self.static:
            return self.slots.total
        return self.slots.first_image + int(raster.max()) + 1

    def fed(self, valid: Tensor) -> Tensor | None:
        """The queries that are no blanks, int64 [rows] of batch * queries; None: compute all.

        Args:
            valid: bool [batch, queries].
        """
        if self.static or bool(valid.all()):
            return None
        return valid.flatten().nonzero().squeeze(1)

    def images_to_keep(self, unfinished: Tensor) -> Tensor | None:
        """Indices int64 [fewer] of the images to go on with; None: all, dropping does not pay yet.

        These are the unfinished ones and, with static sizes, finished ones up to the next power
        of two.

        Args:
            unfinished: bool [batch].
        """
        count = int(unfinished.sum())
        if self.static and count:
            count = min(len(unfinished), 1 << (count - 1).bit_length())
        if count > KEEP_SHARE * len(unfinished):
            return None
        return (~unfinished).to(torch.int8).argsort(stable=True)[:count].sort().values
