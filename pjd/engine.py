"""The one decoding loop: prepare, predict, verify, redraft.

Every method is this loop under another :class:`pjd.config.DecodeConfig`. All state is tensors of
static shape; every image of a batch advances at its own pace.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pjd.config import DecodeConfig
from pjd.front import Band, band, lanes_needed
from pjd.mask import visible
from pjd.models.base import ImageModel
from pjd.noise import COIN, DRAFT, TOKEN, uniform
from pjd.sampling import guide, probabilities
from pjd.trace import Trace
from pjd.verify import Verdict, verify


class Decoded(NamedTuple):
    """What one batch gave.

    Attributes:
        tokens: int64 [batch, R * C], image codes in raster order.
        seconds: wall-clock of the whole batch, prefill included.
        trace: what happened in each iteration.
    """

    tokens: Tensor
    seconds: float
    trace: Trace


@dataclass
class State:
    """State of a batch between iterations.

    Attributes:
        tokens: int64 [batch, R + 1, C + window]; a row's committed tokens, then its drafts. The
            last row and the last columns take the writes of idle lanes.
        committed: int64 [batch, R + 1]; committed tokens a row.
        drafted: int64 [batch, R + 1]; drafts that a row has after them.
        proposal: float [batch, lanes, window, vocabulary]; what those drafts were drawn from.
        flushed: int64 [batch, 1]; finished rows whose last token has been fed.
        iteration: iterations done.
    """

    tokens: Tensor
    committed: Tensor
    drafted: Tensor
    proposal: Tensor
    flushed: Tensor
    iteration: int = 0


class Drafts(NamedTuple):
    """The tokens of the window of every lane: drafts kept from before, and new ones.

    Attributes:
        place: int64 [batch, lanes, window]; raster places that the tokens are for.
        tokens: int64 [batch, lanes, window].
        proposal: float [batch, lanes, window, vocabulary]; 0 beyond the drafts.
    """

    place: Tensor
    tokens: Tensor
    proposal: Tensor


class Queries(NamedTuple):
    """Inputs of one forward, flat: window places of all lanes, and one token to flush.

    Attributes:
        token: int64 [batch, queries].
        row: int64 [batch, queries]; the row that the prediction is for.
        column: int64 [batch, queries]; column of the token in that row, -1 if it starts the row.
        slot: int64 [batch, queries]; where keys and values go.
        valid: bool [batch, queries]; False for places that nothing is fed at.
    """

    token: Tensor
    row: Tensor
    column: Tensor
    slot: Tensor
    valid: Tensor

    def take(self, order: Tensor) -> "Queries":
        """The queries at ``order`` int64 [batch, fewer]."""
        return Queries(*(field.gather(1, order) for field in self))


class Engine:
    """Decodes one batch.

    Args:
        model: any :class:`pjd.models.base.ImageModel`.
        config: the method and its options.
        prompts: one an image.
        seeds: int64 [batch], one an image.
    """

    def __init__(
        self, model: ImageModel, config: DecodeConfig, prompts: list[str], seeds: Tensor
    ) -> None:
        """Encode the prompts and allocate everything that the loop uses."""
        self.model, self.config = model, config
        grid, device = model.grid, model.device
        if config.view == "raster":
            self.rows, self.columns, self.stride = 1, grid.length, grid.length
        else:
            self.rows, self.columns, self.stride = grid.rows, grid.columns, grid.stride
        self.context = min(config.context or 0, self.columns)
        self.lanes = lanes_needed(self.rows, config.rows)
        self.window = config.window
        self.batch = len(prompts)
        self.branches = 1 if config.guidance == 1 else 2
        self.seeds = seeds.to(device)[:, None, None]
        self.prompt = model.encode(prompts, guided=self.branches == 2)
        self.prefix = self.prompt.mask.shape[1]
        self.scratch = self.prefix + grid.length
        self.slots = self.scratch + self.lanes + 1
        self.cache = model.cache(self.branches * self.batch, self.slots)
        # Ids that the engine handles: the codes and, if the format has one, the row-end token.
        self.vocabulary = model.vocabulary + (grid.row_end is not None)
        place = torch.arange(self.columns + self.window, device=device)
        raster_end = config.view == "raster" and grid.row_end is not None
        self.forced = place % grid.stride >= grid.columns if raster_end else torch.zeros_like(place)
        self.forced = self.forced.bool()
        self.images = torch.arange(self.batch, device=device)[:, None]
        self.lane = torch.arange(self.lanes, device=device)
        self.place = torch.arange(self.window, device=device)

    def start(self) -> State:
        """The state before the first iteration."""
        device = self.model.device
        counts = torch.zeros(self.batch, self.rows + 1, dtype=torch.long, device=device)
        shape = (self.batch, self.lanes, self.window, self.vocabulary)
        return State(
            tokens=counts.new_zeros(self.batch, self.rows + 1, self.columns + self.window),
            committed=counts,
            drafted=counts.clone(),
            proposal=torch.zeros(shape, device=device),
            flushed=counts.new_zeros(self.batch, 1),
        )

    def prefill(self) -> None:
        """Feed the prompt but for its last position, which the first iteration feeds."""
        length = self.prefix - 1
        if length == 0:
            return
        place = torch.arange(length, device=self.model.device)
        keys = torch.arange(self.slots, device=self.model.device)
        shown = F.pad(self.prompt.mask, (0, self.slots - self.prefix))[:, None]
        mask = (shown & (keys <= place[:, None])) | (keys == place[:, None])
        slots = place.expand(self.branches * self.batch, -1)
        self.model.forward(
            self.prompt.embeddings[:, :-1],
            self.prompt.positions[:, :-1],
            mask[:, None],
            self.cache.at(slots),
        )

    def step(self, state: State) -> tuple[Band, Queries, Verdict]:
        """One iteration; updates ``state`` in place."""
        lanes = band(
            state.committed,
            self.columns,
            self.lanes,
            self.window,
            self.context,
            self.config.resample == "every-row",
        )
        lanes = lanes.first(self.lanes_in_use(state, lanes))
        drafts = self.prepare(state, lanes)
        queries = self.queries(state, lanes, drafts)
        target = self.predict(state, lanes, queries)
        verdict = verify(
            target,
            drafts.proposal,
            drafts.tokens,
            lanes.drafts,
            lanes.room,
            lanes.resample,
            uniform(self.seeds, COIN, state.iteration, drafts.place),
            uniform(self.seeds, TOKEN, state.iteration, drafts.place),
        )
        self.redraft(state, lanes, drafts, target, verdict)
        return lanes, queries, verdict

    def prepare(self, state: State, lanes: Band) -> Drafts:
        """Fill the window of every lane: drafts kept, then random codes with one-hot q."""
        column = lanes.start[..., None] + self.place
        place = lanes.row[..., None] * self.stride + column
        tokens = state.tokens[self.images[..., None], lanes.row[..., None], column]
        # A row that must wait for the row above is idle, and its drafts stay as they are.
        kept = state.drafted.gather(1, lanes.row)
        kept = torch.where(lanes.active, torch.minimum(kept, lanes.drafts), kept)[..., None]
        fresh = (self.place >= kept) & (self.place < lanes.drafts[..., None])
        random = uniform(self.seeds, DRAFT, state.iteration, place) * self.model.vocabulary
        random = torch.where(self.forced[column], self.model.vocabulary, random.long())
        tokens = torch.where(fresh, random, tokens)
        missing = lanes.row.shape[1] - state.proposal.shape[1]
        proposal = F.pad(state.proposal, (0, 0, 0, 0, 0, missing))
        proposal = torch.where((self.place < kept)[..., None], proposal, 0.0)
        proposal.scatter_add_(-1, tokens[..., None], fresh[..., None].to(proposal.dtype))
        return Drafts(place, tokens, proposal)

    def queries(self, state: State, lanes: Band, drafts: Drafts) -> Queries:
        """Inputs of the forward: each lane's last committed token and drafts, and the flush."""
        row, start = lanes.row, lanes.start
        last = state.tokens[self.images, row, (start - 1).clamp(min=0)]
        starts = start == 0
        last = torch.where(starts, self.starter(state, row), last)
        token = torch.cat([last[..., None], drafts.tokens[..., :-1]], dim=-1)
        column = start[..., None] + self.place - 1
        slot = self.prefix + drafts.place - 1
        # A stand-in gets a place of its own; a row-end token and the prompt's end have theirs.
        stand_in = starts & (row > 0) & (self.stride == self.columns)
        slot[..., 0] = torch.where(stand_in, self.scratch + self.lane[: row.shape[1]], slot[..., 0])
        valid = lanes.active[..., None] & (self.place <= lanes.drafts[..., None])
        # The last token of a finished row has not been fed yet, for it predicts no code of its
        # row: it is fed once, beside the others.
        top = (state.committed[:, :-1] == self.columns).sum(1, keepdim=True)
        above = (top - 1).clamp(min=0)
        flush = Queries(
            token=state.tokens[self.images, above, self.columns - 1],
            row=above,
            column=torch.full_like(above, self.columns - 1),
            slot=self.prefix + above * self.stride + self.columns - 1,
            valid=(state.flushed < top) & (top < self.rows),
        )
        state.flushed = top
        flat = Queries(
            token.flatten(1),
            row[..., None].expand_as(token).flatten(1),
            column.flatten(1),
            slot.flatten(1),
            valid.flatten(1),
        )
        return Queries(*(torch.cat(pair, dim=1) for pair in zip(flat, flush, strict=True)))

    def starter(self, state: State, row: Tensor) -> Tensor:
        """Input that predicts the first code of each ``row``, int64 as ``row``.

        The forced row-end token; where the format has none, the newest code of the row above,
        which is its true last code once that row is complete (METHODS 2.12, step 2).
        """
        if self.stride > self.columns:
            return torch.full_like(row, self.model.vocabulary)
        above = (row - 1).clamp(min=0)
        newest = (state.committed.gather(1, above) - 1).clamp(min=0)
        return state.tokens[self.images, above, newest]

    def predict(self, state: State, lanes: Band, queries: Queries) -> Tensor:
        """One forward: the distributions p [batch, lanes, window, vocabulary]."""
        total = queries.token.shape[1]
        order = self.packing(queries.valid)
        fed = queries.take(order)
        drafts = torch.zeros_like(state.committed).scatter(1, lanes.row, lanes.drafts)
        image = visible(
            fed.row,
            fed.column,
            state.committed[:, :-1],
            drafts[:, :-1],
            self.columns,
            self.stride,
            self.config.mask,
        )
        # Places that nothing is fed at write to the last slot, and look at nothing else.
        slot = torch.where(fed.valid, fed.slot, self.slots - 1)
        image = image & fed.valid[..., None]
        own = slot[..., None] == torch.arange(self.scratch, self.slots, device=slot.device)
        places = torch.cat([image, own], dim=-1).repeat(self.branches, 1, 1)
        prompt = self.prompt.mask[:, None].expand(-1, places.shape[1], -1)
        x = self.model.embed(fed.token).repeat(self.branches, 1, 1)
        begins = ((fed.row == 0) & (fed.column < 0)).repeat(self.branches, 1)
        x = torch.where(begins[..., None], self.prompt.embeddings[:, -1:], x)
        raster = torch.where(fed.valid, fed.row * self.stride + fed.column, -1)
        positions = self.prompt.positions[:, -1:] + 1 + raster.repeat(self.branches, 1)
        logits = self.model.forward(
            x,
            positions,
            torch.cat([prompt, places], dim=-1)[:, None],
            self.cache.at(slot.repeat(self.branches, 1)),
        )
        if self.branches == 2:
            logits = guide(logits, self.config.guidance)
        target = probabilities(logits, self.config)
        if self.vocabulary > self.model.vocabulary:
            end = F.one_hot(torch.tensor(self.model.vocabulary, device=target.device)).float()
            forced = self.forced[(fed.column + 1).clamp(max=len(self.forced) - 1)]
            target = torch.where(forced[..., None], end, F.pad(target, (0, 1)))
        result = target.new_zeros(self.batch, total, self.vocabulary)
        result[self.images, order] = target
        return result[:, :-1].unflatten(1, (-1, self.window))

    def lanes_in_use(self, state: State, lanes: Band) -> int:
        """Lanes that hold drafts or take part, or all where counting them would cost more.

        Reading a count off the CPU costs nothing and saves most of the work; on a GPU it would
        stall the stream, and shapes stay static.
        """
        if lanes.row.device.type != "cpu":
            return self.lanes
        used = lanes.active | (state.drafted.gather(1, lanes.row) > 0)
        return max(1, int((used * (self.lane + 1)).max()))

    def packing(self, valid: Tensor) -> Tensor:
        """Order int64 [batch, fed] that puts the valid queries first, cut to those on a CPU."""
        order = (~valid).to(torch.int8).argsort(dim=1, stable=True)
        if valid.device.type == "cpu":
            order = order[:, : int(valid.sum(1).max())]
        return order

    def redraft(
        self, state: State, lanes: Band, drafts: Drafts, target: Tensor, verdict: Verdict
    ) -> None:
        """Write the verdict into ``state``; remaining drafts keep the p they were drawn from."""
        active = lanes.active
        written = active[..., None] & (self.place <= lanes.drafts[..., None])
        row = torch.where(written, lanes.row[..., None], self.rows)
        column = lanes.start[..., None] + self.place
        state.tokens[self.images[..., None], row, column] = verdict.tokens
        left = lanes.drafts + 1 - verdict.committed
        row = torch.where(active, lanes.row, self.rows)
        state.drafted.scatter_(1, row, left)
        before = (state.committed[:, :-1] == self.columns).sum(1, keepdim=True)
        state.committed.scatter_add_(1, row, torch.where(active, verdict.committed, 0))
        after = (state.committed[:, :-1] == self.columns).sum(1, keepdim=True)
        # The band moves down when its top row is finished, the windows right by what was
        # committed; an idle lane's drafts stay as they were.
        count = active.shape[1]
        source = (self.lane[:count] + after - before).clamp(max=count - 1)
        kept = torch.where(active[..., None, None], target, drafts.proposal)
        moved = torch.where(active, verdict.committed, 0).gather(1, source)
        place = (self.place + moved[..., None]).clamp(max=self.window - 1)
        state.proposal = kept[self.images[..., None], source[..., None], place]
        state.iteration += 1

    @torch.inference_mode()
    def run(self, progress: Callable[[int], None] | None = None) -> Decoded:
        """Decode the batch.

        Args:
            progress: called now and then with the share of codes committed since the last call,
                in codes.
        """
        device = self.model.device
        began = self.now()
        state = self.start()
        self.prefill()
        total = self.batch * self.rows * self.columns
        trace = Trace.empty(self.rows * self.columns, self.batch, self.rows, device)
        # The host looks at the device only so often: a look on a GPU waits for it.
        every = 1 if device.type == "cpu" else 8
        seen = 0
        while seen < total:
            for _ in range(every):
                if state.iteration == self.rows * self.columns:
                    break
                iteration = state.iteration
                lanes, queries, verdict = self.step(state)
                trace.record(iteration, state.committed, lanes, queries.valid, verdict)
            count = int(state.committed[:, :-1].sum())
            if progress is not None:
                progress(count - seen)
            seen = count
        seconds = self.now() - began
        tokens = state.tokens[:, :-1, : self.columns].flatten(1)
        tokens = tokens[:, ~self.forced[: self.columns].repeat(self.rows)]
        return Decoded(tokens, seconds, trace.cut(state.iteration))

    def now(self) -> float:
        """Seconds on a clock, once the device is idle."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter()
