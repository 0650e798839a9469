"""The one decoding loop: prepare, predict, verify, redraft.

Every method is this loop under another :class:`pjd.config.DecodeConfig`. All state is tensors of
static shape; every image of a batch advances at its own pace.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pjd.config import DecodeConfig
from pjd.front import Band, band, lanes_needed
from pjd.mask import causal, drafts_seen, visible
from pjd.models.base import ImageModel, Prompt
from pjd.noise import COIN, DRAFT, FIXED, TOKEN, uniform
from pjd.rules import RULES
from pjd.sampling import guide, probabilities
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


@dataclass
class State:
    """State of the images that are not finished, between iterations.

    Attributes:
        images: int64 [batch]; their places in the whole batch.
        tokens: int64 [batch, R + 1, C + window]; a row's committed tokens, then its drafts. The
            last row and the last columns take the writes of idle lanes.
        committed: int64 [batch, R + 1]; committed tokens a row.
        drafted: int64 [batch, R + 1]; drafts that a row has after them.
        proposal: float [batch, lanes, window, vocabulary]; what those drafts were drawn from.
        flushed: int64 [batch, 1]; finished rows whose last token has been fed.
    """

    images: Tensor
    tokens: Tensor
    committed: Tensor
    drafted: Tensor
    proposal: Tensor
    flushed: Tensor

    def take(self, kept: Tensor) -> "State":
        """The images at ``kept`` int64 [fewer]."""
        return State(*(getattr(self, field.name)[kept] for field in fields(self)))


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
        self.image = torch.arange(self.batch, device=device)[:, None]
        self.lane = torch.arange(self.lanes, device=device)
        self.place = torch.arange(self.window, device=device)

    def start(self) -> State:
        """The state before the first iteration."""
        device = self.model.device
        counts = torch.zeros(self.batch, self.rows + 1, dtype=torch.long, device=device)
        shape = (self.batch, self.lanes, self.window, self.vocabulary)
        return State(
            images=self.image.flatten(),
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
        slots = torch.arange(length, device=self.model.device)
        self.model.forward(
            self.prompt.embeddings[:, :-1],
            self.prompt.positions[:, :-1],
            causal(F.pad(self.prompt.mask, (0, self.slots - self.prefix)), length),
            self.cache.at(slots.expand(self.branches * self.batch, -1)),
        )

    def step(self, state: State, iteration: int) -> tuple[Band, Queries, Verdict]:
        """One iteration; updates ``state`` in place."""
        lanes = band(
            state.committed, state.drafted, self.columns, self.lanes, self.context, self.config
        )
        lanes = lanes.first(self.lanes_in_use(state, lanes))
        place = lanes.row[..., None] * self.stride + lanes.start[..., None] + self.place
        drafts = self.prepare(state, lanes, place, iteration)
        queries = self.queries(state, lanes, drafts, place)
        target = self.predict(state, lanes, queries)
        if self.config.finish == "released":
            drafts = self.misaligned(state, lanes, drafts, queries)
        verdict = verify(
            target,
            drafts,
            Limits(lanes.drafts, lanes.room, lanes.resample),
            self.noise(place, iteration),
            RULES[self.config.accept],
            self.config.redraft,
            self.model.codes,
            self.config.group,
        )
        self.redraft(state, lanes, drafts, verdict)
        return lanes, queries, verdict

    def noise(self, place: Tensor, iteration: int) -> Noise:
        """The random numbers that verification at ``place`` int64 [batch, lanes, window] uses."""
        fixed = None
        if self.config.redraft == "gumbel":
            token = torch.arange(self.vocabulary, device=place.device)
            fixed = uniform(self.seeds[..., None], FIXED, place[..., None], token)
        return Noise(
            uniform(self.seeds, COIN, iteration, place),
            uniform(self.seeds, TOKEN, iteration, place),
            fixed,
        )

    def prepare(self, state: State, lanes: Band, place: Tensor, iteration: int) -> Drafts:
        """Fill the window of every lane: drafts kept from before, then new ones."""
        column = lanes.start[..., None] + self.place
        tokens = state.tokens[self.image[..., None], lanes.row[..., None], column]
        missing = lanes.row.shape[1] - state.proposal.shape[1]
        proposal = F.pad(state.proposal, (0, 0, 0, 0, 0, missing))
        # A row that must wait for the row above is idle, and its drafts stay as they are.
        kept = state.drafted.gather(1, lanes.row)
        kept = torch.where(lanes.active, torch.minimum(kept, lanes.drafts), kept)
        fresh = (self.place >= kept[..., None]) & (self.place < lanes.drafts[..., None])
        new = self.initial(state, lanes, tokens, proposal, kept, place, iteration)
        forced = self.forced[column]
        new = torch.where(forced, self.model.vocabulary, new)
        proposal = torch.where((self.place < kept[..., None])[..., None], proposal, 0.0)
        if self.config.initial == "uniform":
            share = fresh & ~forced
            level = share[..., None] / self.model.vocabulary
            proposal[..., : self.model.vocabulary] += level.to(proposal.dtype)
            certain = fresh & forced
        else:
            certain = fresh
        proposal.scatter_add_(-1, new[..., None], certain[..., None].to(proposal.dtype))
        return Drafts(torch.where(fresh, new, tokens), proposal)

    def initial(
        self,
        state: State,
        lanes: Band,
        tokens: Tensor,
        proposal: Tensor,
        kept: Tensor,
        place: Tensor,
        iteration: int,
    ) -> Tensor:
        """New drafts int64 [batch, lanes, window], for places that have none (METHODS 2.4)."""
        codes = self.model.vocabulary
        random = (uniform(self.seeds, DRAFT, iteration, place) * codes).long()
        choice = self.config.initial
        if choice in ("random", "uniform"):
            return random
        if choice == "repeat-above":
            if self.config.view == "raster":
                row, column = torch.zeros_like(place), place - self.model.grid.stride
            else:
                row = (lanes.row - 1)[..., None].expand_as(place)
                column = lanes.start[..., None] + self.place
            known = (row >= 0) & (column >= 0)
            row, column = row.clamp(min=0), column.clamp(min=0)
            known = known & (state.committed[self.image[..., None], row] > column)
            source = state.tokens[self.image[..., None], row, column]
        else:
            last = state.tokens[self.image, lanes.row, (lanes.start - 1).clamp(min=0)]
            end = (kept - 1).clamp(min=0)[..., None]
            source = tokens.gather(-1, end).squeeze(-1)
            if choice == "sample-left":
                left = proposal.gather(2, end[..., None].expand(-1, -1, -1, self.vocabulary))
                source = left.squeeze(2).argmax(-1)
            source = torch.where(kept > 0, source, last)[..., None].expand_as(random)
            known = (kept + lanes.start > 0)[..., None]
        return torch.where(known & (source < codes), source, random)

    def queries(self, state: State, lanes: Band, drafts: Drafts, place: Tensor) -> Queries:
        """Inputs of the forward: each lane's last committed token and drafts, and the flush."""
        row, start = lanes.row, lanes.start
        last = self.last(state, lanes)
        token = torch.cat([last[..., None], drafts.tokens[..., :-1]], dim=-1)
        column = start[..., None] + self.place - 1
        slot = self.prefix + place - 1
        # A stand-in gets a place of its own; a row-end token and the prompt's end have theirs.
        stand_in = (start == 0) & (row > 0) & (self.stride == self.columns)
        slot[..., 0] = torch.where(stand_in, self.scratch + self.lane[: row.shape[1]], slot[..., 0])
        valid = lanes.active[..., None] & (self.place <= lanes.drafts[..., None])
        # The last token of a finished row has not been fed yet, for it predicts no code of its
        # row: it is fed once, beside the others.
        top = (state.committed[:, :-1] == self.columns).sum(1, keepdim=True)
        above = (top - 1).clamp(min=0)
        flush = Queries(
            token=state.tokens[self.image, above, self.columns - 1],
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

    def last(self, state: State, lanes: Band) -> Tensor:
        """The token before each lane's drafts, int64 [batch, lanes].

        It is the last one committed. In a row that has none: the forced row-end token or, where
        the format has none, a stand-in for the last code above, which is that code itself once
        the row above is complete (METHODS 2.12, step 2, and 8, finding 1).
        """
        row, start = lanes.row, lanes.start
        newest = state.tokens[self.image, row, (start - 1).clamp(min=0)]
        if self.stride > self.columns:
            return torch.where(start == 0, self.model.vocabulary, newest)
        above = (row - 1).clamp(min=0)
        if self.config.lag == "fixed":
            # What the target M_c may see does not depend on how far other rows have come.
            known = torch.full_like(row, self.context)
            complete = row - math.ceil(self.columns / max(self.context, 1))
        else:
            known = state.committed.gather(1, above)
            complete = (state.committed[:, :-1] == self.columns).sum(1, keepdim=True) - 1
            complete = complete.expand_as(row)
        source, column = above, (known - 1).clamp(min=0)
        if self.config.stand_in == "last-column":
            source = torch.where(complete < 0, above, complete)
            column = torch.where(complete < 0, column, self.columns - 1)
        elif self.config.stand_in == "above":
            column = torch.where(known == self.columns, column, 0)
        return torch.where(start == 0, state.tokens[self.image, source, column], newest)

    def predict(self, state: State, lanes: Band, queries: Queries) -> Tensor:
        """One forward: the distributions p [batch, lanes, window, vocabulary]."""
        total = queries.token.shape[1]
        order = self.packing(queries.valid)
        fed = queries.take(order)
        blank = torch.zeros_like(state.committed)
        # Of as many drafts as the window is long, the last is tested but not fed.
        drafts = blank.scatter(1, lanes.row, lanes.drafts.clamp(max=self.window - 1))[:, :-1]
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
            fed.row, fed.column, committed, drafts, self.columns, self.stride, unhidden, lag
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
        result = target.new_zeros(len(order), total, self.vocabulary)
        result[self.image, order] = target
        return result[:, :-1].unflatten(1, (-1, self.window))

    def misaligned(self, state: State, lanes: Band, drafts: Drafts, queries: Queries) -> Drafts:
        """Drafts one place on in images that flush a token (METHODS 3.3).

        The distribution after a lane's last committed token is then tested against that very
        token, here declared as certain, and so on.
        """
        last = self.last(state, lanes)[..., None]
        certain = F.one_hot(last, self.vocabulary).to(drafts.proposal.dtype)
        shifted = queries.valid[:, -1, None, None] & (lanes.drafts > 0)[..., None]
        tokens = torch.cat([last, drafts.tokens[..., :-1]], dim=-1)
        proposal = torch.cat([certain, drafts.proposal[..., :-1, :]], dim=-2)
        beyond = (self.place >= lanes.drafts[..., None])[..., None]
        return Drafts(
            torch.where(shifted, tokens, drafts.tokens),
            torch.where(shifted[..., None] & ~beyond, proposal, drafts.proposal),
        )

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

    def redraft(self, state: State, lanes: Band, drafts: Drafts, verdict: Verdict) -> None:
        """Write the verdict into ``state``."""
        active = lanes.active
        written = active[..., None] & (self.place <= lanes.drafts[..., None])
        row = torch.where(written, lanes.row[..., None], self.rows)
        column = lanes.start[..., None] + self.place
        state.tokens[self.image[..., None], row, column] = verdict.drafts.tokens
        left = (lanes.drafts + 1).clamp(max=self.window) - verdict.committed
        row = torch.where(active, lanes.row, self.rows)
        state.drafted.scatter_(1, row, left)
        before = (state.committed[:, :-1] == self.columns).sum(1, keepdim=True)
        state.committed.scatter_add_(1, row, torch.where(active, verdict.committed, 0))
        after = (state.committed[:, :-1] == self.columns).sum(1, keepdim=True)
        # The band moves down when its top row is finished, the windows right by what was
        # committed; an idle lane's drafts stay as they were.
        count = active.shape[1]
        source = (self.lane[:count] + after - before).clamp(max=count - 1)
        kept = torch.where(active[..., None, None], verdict.drafts.proposal, drafts.proposal)
        moved = torch.where(active, verdict.committed, 0).gather(1, source)
        place = (self.place + moved[..., None]).clamp(max=self.window - 1)
        state.proposal = kept[self.image[..., None], source[..., None], place]

    def narrow(self, state: State, kept: Tensor) -> State:
        """Go on with the images at ``kept`` int64 [fewer] alone."""
        both = (
            kept + len(self.image) * torch.arange(self.branches, device=kept.device)[:, None]
        ).flatten()
        self.prompt = Prompt(*(field[both] for field in self.prompt))
        self.cache = self.cache.take(both)
        self.seeds = self.seeds[kept]
        self.image = torch.arange(len(kept), device=kept.device)[:, None]
        return state.take(kept)

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
        length = self.rows * self.columns
        trace = Trace.empty(self.columns, self.batch, self.rows, self.window, device)
        tokens = state.tokens.new_zeros(self.batch, length)
        # The host looks at the device only so often: a look on a GPU waits for it.
        every = 1 if device.type == "cpu" else 8
        seen, iteration = 0, 0
        while seen < self.batch * length:
            for _ in range(min(every, length - iteration)):
                lanes, queries, verdict = self.step(state, iteration)
                trace.record(
                    iteration, state.images, state.committed, lanes, queries.valid, verdict
                )
                iteration += 1
            counts = state.committed[:, :-1].sum(1)
            unfinished = (counts < length).nonzero().flatten()
            count = int(counts.sum()) + (self.batch - len(counts)) * length
            if progress is not None:
                progress(count - seen)
            seen = count
            # Finished images cost as much as the others until they are let go.
            if len(unfinished) <= 0.75 * len(counts):
                tokens[state.images] = state.tokens[:, :-1, : self.columns].flatten(1)
                if len(unfinished):
                    state = self.narrow(state, unfinished)
        seconds = self.now() - began
        tokens = tokens[:, ~self.forced[: self.columns].repeat(self.rows)]
        return Decoded(tokens, seconds, trace.cut(iteration))

    def now(self) -> float:
        """Seconds on a clock, once the device is idle."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter()
