"""The one decoding loop: prepare, predict, verify, redraft.

Every method is this loop under another :class:`pjd.decoder.config.DecodeConfig`. All state is
tensors of static shape; every image of a batch advances at its own pace.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pjd.decoder.acceptance import RULES
from pjd.decoder.config import DecodeConfig
from pjd.decoder.drafts import Windows, declare, prepare
from pjd.decoder.grid import View
from pjd.decoder.mask import causal, drafts_seen, visible
from pjd.decoder.model import ImageModel, Prompt
from pjd.decoder.noise import COIN, FIXED, TOKEN, uniform
from pjd.decoder.queries import Queries
from pjd.decoder.sampling import guide, probabilities
from pjd.decoder.schedule import Band, band, lanes_needed
from pjd.decoder.state import State
from pjd.decoder.trace import Trace
from pjd.decoder.verify import Drafts, Limits, Noise, Verdict, verify


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


class Engine:
    """Decodes one batch.

    Args:
        model: any :class:`pjd.decoder.model.ImageModel`.
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
        # Slots: one for blanks, one for each lane's stand-in, the prompt, the image.
        self.scratch = 1 + self.lanes
        self.prefix = self.scratch + self.prompt.mask.shape[1]
        self.slots = self.prefix + model.grid.length
        self.cache = model.cache(self.branches * len(prompts), self.slots)
        self.seeds = seeds.to(device)
        # Reading a count off the CPU costs nothing and saves most of the work. On a GPU it would
        # stall the stream at every iteration: there shapes stay as the host last saw them fit.
        self.static = device.type != "cpu"
        self.bound = self.lanes
        self.lane = torch.arange(self.lanes, device=device)
        self.depth = torch.arange(config.window, device=device)

    def start(self) -> State:
        """The state before the first iteration."""
        return State.start(self.view, self.seeds, self.lanes, self.config.window)

    def prefill(self) -> None:
        """Feed the prompt but for its last position, which the first iteration feeds."""
        shown = self.prompt.mask[:, :-1]
        length = shown.shape[1]
        if length == 0:
            return
        slots = self.scratch + torch.arange(length, device=self.model.device)
        self.model.forward(
            self.prompt.embeddings[:, :-1],
            self.prompt.positions[:, :-1],
            F.pad(causal(shown, length), (self.scratch, 0)),
            self.cache.at(slots.expand_as(shown), self.prefix - 1),
        )

    def step(self, state: State) -> tuple[Band, Queries, Verdict]:
        """One iteration; updates ``state`` in place."""
        lanes = band(
            state.committed, state.drafted, self.view.columns, self.lanes, self.context, self.config
        )
        lanes = lanes.first(self.lanes_in_use(lanes))
        windows = prepare(state, self.view, self.config, lanes)
        queries = self.queries(state, lanes, windows)
        target = self.predict(state, lanes, queries)
        drafts = declare(state, self.view, self.config, lanes, windows, queries)
        verdict = self.judge(state, lanes, queries, target, drafts)
        state.commit(lanes, queries, verdict, self.view.columns)
        return lanes, queries, verdict

    def judge(
        self,
        state: State,
        lanes: Band,
        queries: Queries,
        target: Tensor,
        drafts: Drafts,
    ) -> Verdict:
        """Test ``drafts`` against the distributions ``target`` by the method's rule."""
        return verify(
            target,
            drafts,
            queries.lane,
            queries.depth,
            Limits(lanes.drafts, lanes.room, lanes.resample),
            self.noise(state, queries),
            RULES[self.config.accept],
            self.config.redraft,
            self.model.codes,
            self.config.group,
        )

    def noise(self, state: State, queries: Queries) -> Noise:
        """The random numbers that verification uses at the places of ``queries``."""
        place = queries.row * self.view.stride + queries.column + 1
        fixed = None
        if self.config.redraft == "gumbel":
            token = torch.arange(self.view.ids, device=place.device)
            fixed = uniform(place[..., None], token, state=state.streams[..., FIXED, None])
        both = state.streams[..., COIN : TOKEN + 1]
        coins, tokens = uniform(state.iteration[..., None], place[..., None], state=both).unbind(-1)
        return Noise(coins, tokens, fixed)

    def queries(self, state: State, lanes: Band, windows: Windows) -> Queries:
        """Inputs of the forward: each lane's last committed token and drafts, and the flush."""
        view, count = self.view, lanes.row.shape[1]
        column = lanes.start[..., None] + self.depth - 1
        slot = self.prefix + lanes.row[..., None] * view.stride + column
        # A stand-in gets a place of its own; a row-end token and the prompt's end have theirs.
        stand_in = (lanes.start == 0) & (lanes.row > 0) & (view.stride == view.columns)
        slot[..., 0] = torch.where(stand_in, 1 + self.lane[:count], slot[..., 0])
        # The last token of a finished row has not been fed yet, for it predicts no code of its
        # row: it is fed once, beside the others.
        top = state.finished(view.columns)
        above = (top - 1).clamp(min=0)
        end = torch.full_like(above, view.columns - 1)
        flush = (state.flushed < top) & (top < view.rows)
        state.flushed = top
        pairs = (
            (
                torch.cat([windows.last[..., None], windows.tokens[..., :-1]], dim=-1),
                state.tokens[state.image, above, end],
            ),
            (lanes.row[..., None].expand_as(column), above),
            (column, end),
            (slot, self.prefix + above * view.stride + end),
            (lanes.active[..., None] & (self.depth <= lanes.drafts[..., None]), flush),
        )
        # Nothing comes after the end of the only row.
        flushes = int(view.rows > 1)
        fields = [torch.cat([window.flatten(1), one[:, :flushes]], dim=1) for window, one in pairs]
        order = self.packing(fields[-1])
        token, row, column, slot, valid = (field.gather(1, order) for field in fields)
        lane = torch.where(valid, order // self.config.window, count)
        slot = torch.where(valid, slot, 0)
        depth = order % self.config.window
        return Queries(token, row, column, slot, valid, lane, depth, flush)

    def predict(self, state: State, lanes: Band, queries: Queries) -> Tensor:
        """One forward: the distributions p [batch, queries, ids]."""
        view = self.view
        blank = torch.zeros_like(state.committed)
        # Of as many drafts as the window is long, the last is tested but not fed.
        drafts = blank.scatter(1, lanes.row, lanes.drafts.clamp(max=self.config.window - 1))[:, :-1]
        active = blank.bool().scatter(1, lanes.row, lanes.active)[:, :-1]
        committed = state.committed[:, :-1]
        row, column = queries.row, queries.column
        unhidden = drafts_seen(
            self.config.mask, row, column, committed, drafts, active, queries.flush.long()
        )
        lag = self.context if self.config.lag == "fixed" else None
        image = visible(row, column, committed, drafts, view.columns, view.stride, unhidden, lag)
        # A blank sees the prompt and itself.
        image = (image & queries.valid[..., None]).repeat(self.branches, 1, 1)
        slot = queries.slot.repeat(self.branches, 1)
        own = slot[..., None] == torch.arange(self.scratch, device=slot.device)
        prompt = self.prompt.mask[:, None].expand(-1, slot.shape[1], -1)
        raster = torch.where(queries.valid, row * view.stride + column, -1)
        used = self.slots_in_use(raster)
        mask = torch.cat([own, prompt, image], dim=-1)[:, None, :, :used]
        x = self.model.embed(queries.token).repeat(self.branches, 1, 1)
        begins = ((row == 0) & (column < 0)).repeat(self.branches, 1)
        x = torch.where(begins[..., None], self.prompt.embeddings[:, -1:], x)
        positions = self.prompt.positions[:, -1:] + 1 + raster.repeat(self.branches, 1)
        logits = self.model.forward(
            x,
            positions,
            mask,
            self.cache.at(slot, used),
        )
        if self.branches == 2:
            logits = guide(logits, self.config.guidance)
        target = probabilities(logits, self.config)
        if view.ids > view.vocabulary:
            forced = view.forced(column + 1)[..., None]
            target = F.pad(target.masked_fill(forced, 0.0), (0, 1))
            target[..., -1:] += forced
        return target

    def lanes_in_use(self, lanes: Band) -> int:
        """Lanes whose rows have begun, or as many as there may be of them."""
        if self.static:
            return self.bound
        return max(1, int((lanes.begun * (self.lane + 1)).max()))

    def slots_in_use(self, raster: Tensor) -> int:
        """Slots that queries at the places ``raster`` look at: no later ones, as a rule of order.

        All if shapes are static.
        """
        if self.static:
            return self.slots
        return self.prefix + int(raster.max()) + 1

    def packing(self, valid: Tensor) -> Tensor:
        """Order int64 [batch, fed] that puts the valid queries first, and cuts the rest."""
        order = (~valid).to(torch.int8).argsort(dim=1, stable=True)
        if not self.static:
            order = order[:, : int(valid.sum(1).max())]
        return order

    def look_ahead(self, state: State, iterations: int) -> None:
        """Bound the lanes of the next ``iterations``: at most one more row begins in each.

        Their number is even, so that few shapes occur.
        """
        begun = (state.committed[:, :-1] > 0) & (state.committed[:, :-1] < self.view.columns)
        most = int(begun.sum(1).max()) + iterations
        self.bound = min(self.lanes, most + most % 2)

    def worth_keeping(self, going_on: Tensor) -> Tensor:
        """Places int64 [fewer] of the images to go on with: those that ``going_on`` bool [batch].

        If shapes are static, some finished ones fill their number up to a power of two.
        """
        count = int(going_on.sum())
        if self.static and count:
            count = min(len(going_on), 1 << (count - 1).bit_length())
        return (~going_on).to(torch.int8).argsort(stable=True)[:count].sort().values

    def narrow(self, state: State, kept: Tensor) -> State:
        """Go on with the images at ``kept`` int64 [fewer] alone."""
        branch = torch.arange(self.branches, device=kept.device)[:, None]
        sequences = (kept + len(state.images) * branch).flatten()
        self.prompt = Prompt(*(field[sequences] for field in self.prompt))
        self.cache = self.cache.take(sequences)
        return state.take(kept)

    @torch.inference_mode()
    def run(self, progress: Callable[[int, int], None] | None = None) -> Decoded:
        """Decode the batch.

        Args:
            progress: called now and then with the codes committed since the last call, of all
                images, and with the forwards done.
        """
        view, device, batch = self.view, self.model.device, len(self.seeds)
        began = self.now()
        state = self.start()
        self.prefill()
        length = view.rows * view.columns
        trace = Trace.empty(view.columns, batch, view.rows, self.config.window, device)
        tokens = state.tokens.new_zeros(batch, length)
        # A look of the host at a GPU waits for it; every row that may have begun since is fed.
        every = 1 if not self.static else 8 if self.lanes == 1 else 2
        seen, iteration = 0, 0
        while seen < batch * length:
            if self.static:
                self.look_ahead(state, every)
            for _ in range(min(every, length - iteration)):
                lanes, queries, verdict = self.step(state)
                trace.record(iteration, state.images, state.committed, lanes, queries, verdict)
                iteration += 1
            counts = state.committed[:, :-1].sum(1)
            count = int(counts.sum()) + (batch - len(counts)) * length
            if progress is not None:
                progress(count - seen, iteration)
            seen = count
            # Finished images cost as much as the others until they are let go.
            kept = self.worth_keeping(counts < length)
            if len(kept) <= 0.75 * len(counts):
                tokens[state.images] = state.tokens[:, :-1, : view.columns].flatten(1)
                if len(kept):
                    state = self.narrow(state, kept)
        seconds = self.now() - began
        forced = view.forced(torch.arange(view.columns, device=device)).repeat(view.rows)
        return Decoded(tokens[:, ~forced], seconds, trace.cut(iteration))

    def now(self) -> float:
        """Seconds on a clock, once the device is idle."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter()
