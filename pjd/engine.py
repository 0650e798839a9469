"""The one decoding loop: prepare, predict, verify, redraft.

Every method is this loop under another :class:`pjd.config.DecodeConfig`. All state is tensors of
static shape; every image of a batch advances at its own pace.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pjd.config import DecodeConfig
from pjd.drafts import misaligned, predecessor, prepare
from pjd.front import Band, band, lanes_needed
from pjd.grid import View
from pjd.mask import causal, drafts_seen, visible
from pjd.models.base import ImageModel, Prompt
from pjd.noise import COIN, FIXED, TOKEN, uniform
from pjd.rules import RULES
from pjd.sampling import guide, probabilities
from pjd.state import State
from pjd.trace import Trace
from pjd.verify import Drafts, Limits, Noise, Verdict, verify


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
        device = model.device
        self.view = View.of(model.grid, config.view == "raster", model.vocabulary)
        self.context = min(config.context or 0, self.view.columns)
        self.lanes = lanes_needed(self.view.rows, config.rows)
        self.branches = 1 if config.guidance == 1 else 2
        self.prompt = model.encode(prompts, guided=self.branches == 2)
        self.prefix = self.prompt.mask.shape[1]
        self.scratch = self.prefix + model.grid.length
        self.slots = self.scratch + self.lanes + 1
        self.cache = model.cache(self.branches * len(prompts), self.slots)
        self.seeds = seeds.to(device)
        self.lane = torch.arange(self.lanes, device=device)
        self.depth = torch.arange(config.window, device=device)

    def start(self) -> State:
        """The state before the first iteration."""
        return State.start(self.view, self.seeds, self.lanes, self.config.window)

    def prefill(self) -> None:
        """Feed the prompt but for its last position, which the first iteration feeds."""
        length = self.prefix - 1
        if length == 0:
            return
        slots = torch.arange(length, device=self.model.device)
        self.model.forward(
            self.prompt.embeddings[:, :-1],
            self.prompt.positions[:, :-1],
            causal(F.pad(self.prompt.mask, (0, self.slots - self.prefix)), length),
            self.cache.at(slots.expand(len(self.prompt.mask), -1)),
        )

    def step(self, state: State, iteration: int) -> tuple[Band, Queries, Verdict]:
        """One iteration; updates ``state`` in place."""
        lanes = band(
            state.committed, state.drafted, self.view.columns, self.lanes, self.context, self.config
        )
        lanes = lanes.first(self.lanes_in_use(state, lanes))
        place = lanes.row[..., None] * self.view.stride + lanes.start[..., None] + self.depth
        drafts = prepare(state, self.view, self.config, lanes, place, iteration)
        last = predecessor(state, self.view, self.config, lanes)
        queries = self.queries(state, lanes, drafts, last, place)
        target = self.predict(state, lanes, queries)
        fed = drafts
        if self.config.finish == "released":
            drafts = misaligned(drafts, last, lanes.drafts, queries.valid[:, -1:])
        verdict = verify(
            target,
            drafts,
            Limits(lanes.drafts, lanes.room, lanes.resample),
            self.noise(state, place, iteration),
            RULES[self.config.accept],
            self.config.redraft,
            self.model.codes,
            self.config.group,
        )
        state.commit(lanes, fed, verdict, self.view.columns)
        return lanes, queries, verdict

    def noise(self, state: State, place: Tensor, iteration: int) -> Noise:
        """The random numbers that verification at ``place`` int64 [batch, lanes, window] uses."""
        fixed = None
        if self.config.redraft == "gumbel":
            token = torch.arange(self.view.ids, device=place.device)
            fixed = uniform(state.seeds[..., None], FIXED, place[..., None], token)
        return Noise(
            uniform(state.seeds, COIN, iteration, place),
            uniform(state.seeds, TOKEN, iteration, place),
            fixed,
        )

    def queries(
        self, state: State, lanes: Band, drafts: Drafts, last: Tensor, place: Tensor
    ) -> Queries:
        """Inputs of the forward: each lane's last committed token and drafts, and the flush."""
        view = self.view
        row = lanes.row[..., None].expand_as(place)
        slot = self.prefix + place - 1
        # A stand-in gets a place of its own; a row-end token and the prompt's end have theirs.
        stand_in = (lanes.start == 0) & (lanes.row > 0) & (view.stride == view.columns)
        own = self.scratch + self.lane[: row.shape[1]]
        slot[..., 0] = torch.where(stand_in, own, slot[..., 0])
        windows = Queries(
            token=torch.cat([last[..., None], drafts.tokens[..., :-1]], dim=-1),
            row=row,
            column=lanes.start[..., None] + self.depth - 1,
            slot=slot,
            valid=lanes.active[..., None] & (self.depth <= lanes.drafts[..., None]),
        )
        # The last token of a finished row has not been fed yet, for it predicts no code of its
        # row: it is fed once, beside the others.
        top = state.finished(view.columns)
        above = (top - 1).clamp(min=0)
        flush = Queries(
            token=state.tokens[state.image, above, view.columns - 1],
            row=above,
            column=torch.full_like(above, view.columns - 1),
            slot=self.prefix + above * view.stride + view.columns - 1,
            valid=(state.flushed < top) & (top < view.rows),
        )
        state.flushed = top
        pairs = zip(windows, flush, strict=True)
        return Queries(*(torch.cat([window.flatten(1), one], dim=1) for window, one in pairs))

    def predict(self, state: State, lanes: Band, queries: Queries) -> Tensor:
        """One forward: the distributions p [batch, lanes, window, vocabulary]."""
        view, total = self.view, queries.token.shape[1]
        order = self.packing(queries.valid)
        fed = queries.take(order)
        blank = torch.zeros_like(state.committed)
        # Of as many drafts as the window is long, the last is tested but not fed.
        drafts = blank.scatter(1, lanes.row, lanes.drafts.clamp(max=self.config.window - 1))[:, :-1]
        active = blank.bool().scatter(1, lanes.row, lanes.active)[:, :-1]
        committed = state.committed[:, :-1]
        unhidden = drafts_seen(
            self.config.mask,
            fed.row,
            fed.column,
            committed,
            drafts,
            active,
            queries.valid[:, -1:].long(),
        )
        lag = self.context if self.config.lag == "fixed" else None
        image = visible(
            fed.row, fed.column, committed, drafts, view.columns, view.stride, unhidden, lag
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
        raster = torch.where(fed.valid, fed.row * view.stride + fed.column, -1)
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
        if view.ids > view.vocabulary:
            forced = view.forced(fed.column + 1)[..., None]
            target = F.pad(target.masked_fill(forced, 0.0), (0, 1))
            target[..., -1:] += forced
        result = target.new_zeros(len(order), total, view.ids)
        result[state.image, order] = target
        return result[:, :-1].unflatten(1, (-1, self.config.window))

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

    def narrow(self, state: State, kept: Tensor) -> State:
        """Go on with the images at ``kept`` int64 [fewer] alone."""
        branch = torch.arange(self.branches, device=kept.device)[:, None]
        sequences = (kept + len(state.images) * branch).flatten()
        self.prompt = Prompt(*(field[sequences] for field in self.prompt))
        self.cache = self.cache.take(sequences)
        return state.take(kept)

    @torch.inference_mode()
    def run(self, progress: Callable[[int], None] | None = None) -> Decoded:
        """Decode the batch.

        Args:
            progress: called now and then with the share of codes committed since the last call,
                in codes.
        """
        view, device, batch = self.view, self.model.device, len(self.seeds)
        began = self.now()
        state = self.start()
        self.prefill()
        length = view.rows * view.columns
        trace = Trace.empty(view.columns, batch, view.rows, self.config.window, device)
        tokens = state.tokens.new_zeros(batch, length)
        # The host looks at the device only so often: a look on a GPU waits for it.
        every = 1 if device.type == "cpu" else 8
        seen, iteration = 0, 0
        while seen < batch * length:
            for _ in range(min(every, length - iteration)):
                lanes, queries, verdict = self.step(state, iteration)
                counts, fed = state.committed, queries.valid
                trace.record(iteration, state.images, counts, lanes, fed, verdict)
                iteration += 1
            counts = state.committed[:, :-1].sum(1)
            unfinished = (counts < length).nonzero().flatten()
            count = int(counts.sum()) + (batch - len(counts)) * length
            if progress is not None:
                progress(count - seen)
            seen = count
            # Finished images cost as much as the others until they are let go.
            if len(unfinished) <= 0.75 * len(counts):
                tokens[state.images] = state.tokens[:, :-1, : view.columns].flatten(1)
                if len(unfinished):
                    state = self.narrow(state, unfinished)
        seconds = self.now() - began
        forced = view.forced(torch.arange(view.columns, device=device)).repeat(view.rows)
        return Decoded(tokens[:, ~forced], seconds, trace.cut(iteration))

    def now(self) -> float:
        """Seconds on a clock, once the device is idle."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter()
