"""What a decoder knows of a batch between two iterations."""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from pjd.decoder.grid import RowLayout
from pjd.decoder.noise import streams
from pjd.errors import LogitsError


@dataclass
class State:
    """State of the images that are not finished.

    Attributes:
        images: int64 [batch]; their indices in the whole batch.
        batch_index: int64 [batch, 1]; their indices here, to index other axes beside it.
        streams: int64 [batch, 1, 5]; see :func:`pjd.decoder.noise.streams`.
        iteration: int64 [batch, 1]; iterations done.
        tokens: int64 [batch, R + 1, C + window]; a row's committed tokens, then its drafts. The
            last row and the last columns take the writes of idle lanes.
        committed: int64 [batch, R + 1]; committed tokens per row.
        drafted: int64 [batch, R + 1]; drafts that a row has after them.
        draft_probs: float [batch, lanes + 1, window + 1, ids]; q, what the last committed token
            and those drafts were drawn from. A ring: the token at column j of row r has the entry
            (r mod lanes, j mod (window + 1)); the last lane takes the writes of blanks.
        flushed: int64 [batch, 1]; finished rows whose last token has been fed.
        preview: int64 [batch, R + 1, C + window]; what first drafts may copy: the codes of the
            grid before, each at the places that it stands for; -1 where there is none.
        failed_at: int64 [batch, 1]; the first iteration whose logits were no finite numbers,
            counted from 1; 0: none. The host sees it when it looks at the state.
    """

    images: Tensor
    batch_index: Tensor
    streams: Tensor
    iteration: Tensor
    tokens: Tensor
    committed: Tensor
    drafted: Tensor
    draft_probs: Tensor
    flushed: Tensor
    preview: Tensor
    failed_at: Tensor

    @classmethod
    def initial(
        cls,
        layout: RowLayout,
        seeds: Tensor,
        n_lanes: int,
        window: int,
        preview: Tensor | None = None,
    ) -> "State":
        """The state before the first iteration.

        Args:
            layout: the decoder's.
            seeds: of the images, int64 [batch].
            n_lanes: lanes that have drafts.
            window: the largest one.
            preview: codes that first drafts may copy, int64 [batch, R * C] in raster order; None:
                there are none.
        """
        batch, device = len(seeds), seeds.device
        counts = torch.zeros(batch, layout.rows + 1, dtype=torch.long, device=device)
        images = torch.arange(batch, device=device)
        tokens = counts.new_zeros(batch, layout.rows + 1, layout.columns + window)
        copied = torch.full_like(tokens, -1)
        shape = batch, n_lanes + 1, window + 1, layout.n_ids
        if preview is not None:
            copied[:, :-1, : layout.columns] = layout.rows_of(preview)
        return cls(
            images=images,
            batch_index=images[:, None],
            streams=streams(seeds[:, None]),
            iteration=counts.new_zeros(batch, 1),
            tokens=tokens,
            committed=counts,
            drafted=counts.clone(),
            draft_probs=torch.zeros(shape, dtype=torch.float32, device=device),
            flushed=counts.new_zeros(batch, 1),
            preview=copied,
            failed_at=counts.new_zeros(batch, 1),
        )

    @property
    def n_rows(self) -> int:
        """Rows R; the one after them takes the writes of idle lanes."""
        return self.committed.shape[1] - 1

    @property
    def n_lanes(self) -> int:
        """Lanes that have drafts; the one after them takes the writes of blanks."""
        return self.draft_probs.shape[1] - 1

    @property
    def committed_total(self) -> Tensor:
        """Tokens that each image has committed, int64 [batch]."""
        return self.committed[:, :-1].sum(1)

    def select(self, images: Tensor) -> "State":
        """The images at the indices ``images`` int64 [fewer]."""
        chosen = State(*(getattr(self, field.name)[images] for field in fields(self)))
        return replace(chosen, batch_index=self.batch_index[: len(images)])

    def ring_index(self, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where ``draft_probs`` has the entry of ``column`` in ``row``: image, lane, ring slot."""
        return self.batch_index, row % self.n_lanes, column % self.draft_probs.shape[2]


def logits_error(state: State, seeds: Tensor, dtype: torch.dtype) -> LogitsError:
    """The error of the first image whose logits were no finite numbers.

    Args:
        state: in which at least one image has failed.
        seeds: int64 [batch], of the whole batch.
        dtype: of the model's arithmetic.
    """
    failed = state.failed_at.squeeze(1).cpu()
    index = int((failed > 0).nonzero()[0])
    seed = int(seeds[state.images[index]])
    cause = "a damaged checkpoint, most likely; see `pjd doctor`"
    if dtype == torch.float16:
        cause = "float16 overflows in some models: try bfloat16 or float32"
    return LogitsError(
        f"the image with seed {seed}, step {int(failed[index])}: the model's logits are not finite "
        f"numbers, so no token can be drawn ({cause})"
    )
