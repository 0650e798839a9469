"""The one decoding loop: schedule, draft, predict, verify, commit.

Every method is this loop under another :class:`pjd.decoder.config.DecodeConfig`. All state is
tensors; every image of a batch advances at its own pace.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pjd.decoder.cache import SlotMap
from pjd.decoder.config import DecodeConfig
from pjd.decoder.drafts import draft
from pjd.decoder.grid import RowLayout
from pjd.decoder.inputs import Inputs, prefill_inputs, step_inputs
from pjd.decoder.model import ImageModel, Prompt
from pjd.decoder.noise import Noise, verification_noise
from pjd.decoder.queries import Queries, build_queries
from pjd.decoder.redraft import REDRAFT_RULES
from pjd.decoder.sampling import guide, probabilities
from pjd.decoder.schedule import Band, lanes_needed, schedule
from pjd.decoder.shapes import Shapes
from pjd.decoder.state import State
from pjd.decoder.trace import Trace
from pjd.decoder.verify import Verified, proposals, verify


class Decoded(NamedTuple):
    """The outcome of one batch.

    Attributes:
        tokens: int64 [batch, R * C], codes in raster order.
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
        prompt: encoded, one per image; with guidance twice as many, conditional ones first.
        seeds: int64 [batch], one per image.
        static: see :class:`pjd.decoder.shapes.Shapes`; None: on all devices but a CPU.
    """

    def __init__(
        self,
        model: ImageModel,
        config: DecodeConfig,
        prompt: Prompt,
        seeds: Tensor,
        static: bool | None = None,
    ) -> None:
        """Allocate everything that the loop uses."""
        self.model, self.config, self.prompt = model, config, prompt
        self.seeds = seeds.to(model.device)
        self.layout = RowLayout.of(model.grid, config, model.vocabulary)
        n_lanes = lanes_needed(self.layout.rows, config.rows)
        self.slots = SlotMap(n_lanes, prompt.mask.shape[1], model.grid.length)
        self.cache = model.cache(len(prompt.mask), self.slots.total)
        static = model.device.type != "cpu" if static is None else static
        self.shapes = Shapes(self.layout, self.slots, static)

    def initial_state(self) -> State:
        """The state before the first iteration."""
        return State.initial(self.layout, self.seeds, self.slots.n_lanes, self.config.window)

    def prefill(self) -> None:
        """Feed the prompt but for its last position."""
        if self.slots.prompt > 1:
            self.forward(prefill_inputs(self.prompt, self.slots))

    def step(self, state: State) -> tuple[Band, Queries, Verified]:
        """One iteration; updates ``state`` in place."""
        layout, config = self.layout, self.config
        # 1. Schedule: which rows are active, how far each may draft and commit.
        band = schedule(state.committed, state.drafted, layout, self.slots.n_lanes, config)
        band = self.shapes.trim(band)
        # 2. Draft: fill each row's window, and lay all windows side by side.
        windows = draft(state, layout, config, band)
        queries = self.shapes.pack(build_queries(state, layout, self.slots, band, windows))
        # 3. Predict: one forward pass, one mask.
        target_probs = self.predict(state, band, queries)
        # 4. Verify: accept, resample at the first rejection, redraft the rest.
        drafts = proposals(state, layout, config, band, windows, queries)
        noise, codebook = self.noise(state, queries), self.model.codebook
        verified = verify(target_probs, drafts, queries, band, noise, config, codebook)
        # 5. Commit: write tokens, drafts and their distributions.
        state.commit(band, queries, verified)
        return band, queries, verified

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits float [branches * batch, queries, vocabulary]; fills the cache."""
        cache = self.cache.at(inputs.slots, inputs.used)
        return self.model.forward(inputs.x, inputs.positions, inputs.mask, cache)

    def predict(self, state: State, band: Band, queries: Queries) -> Tensor:
        """One forward pass: the target distributions p, float [batch, queries, ids]."""
        layout, config = self.layout, self.config
        logits = self.forward(
            step_inputs(self.model, self.prompt, state, layout, config, band, queries, self.shapes)
        )
        if config.guided:
            logits = guide(logits, config.guidance)
        probs = probabilities(logits, config)
        if layout.n_ids > layout.vocabulary:
            # Where the format forces the row-end token, that token has probability 1.
            forced = layout.forced(queries.column + 1)[..., None]
            probs = F.pad(probs.masked_fill(forced, 0.0), (0, 1))
            probs[..., -1:] += forced
        return probs

    def noise(self, state: State, queries: Queries) -> Noise:
        """The random numbers of this iteration's verification."""
        position = queries.row * self.layout.stride + queries.column + 1
        fixed = REDRAFT_RULES[self.config.redraft].fixed_noise
        return verification_noise(
            state.streams, state.iteration, position, self.layout.n_ids, fixed
        )

    def select(self, state: State, images: Tensor) -> State:
        """Go on with the images at the indices ``images`` int64 [fewer] alone."""
        branches = len(self.prompt.mask) // len(state.images)
        branch = torch.arange(branches, device=images.device)[:, None]
        sequences = (images + len(state.images) * branch).flatten()
        self.prompt, self.cache = self.prompt.select(sequences), self.cache.select(sequences)
        return state.select(images)

    @torch.inference_mode()
    def run(self, progress: Callable[[int, int], None] | None = None) -> Decoded:
        """Decode the batch.

        Args:
            progress: called every few iterations with the tokens committed since the last call,
                all images together, and with the forward passes so far.
        """
        layout, batch = self.layout, len(self.seeds)
        began = self.now()
        state = self.initial_state()
        self.prefill()
        trace = Trace.empty(layout, batch, self.config.window, self.model.device)
        tokens = state.tokens.new_zeros(batch, layout.length)
        committed_total, iteration = 0, 0
        while committed_total < batch * layout.length:
            count = min(self.shapes.iterations_per_look, layout.length - iteration)
            self.shapes.look_ahead(state, count)
            for _ in range(count):
                trace.record(iteration, state, *self.step(state))
                iteration += 1
            tokens[state.images] = state.tokens[:, :-1, : layout.columns].flatten(1)
            own = state.committed_total
            total = int(own.sum()) + (batch - len(own)) * layout.length
            if progress is not None:
                progress(total - committed_total, iteration)
            committed_total = total
            images = self.shapes.images_to_keep(own < layout.length)
            if images is not None and len(images):
                state = self.select(state, images)
        seconds = self.now() - began
        columns = torch.arange(layout.columns, device=tokens.device)
        is_code = ~layout.forced(columns).repeat(layout.rows)
        return Decoded(tokens[:, is_code], seconds, trace.cut(iteration))

    def now(self) -> float:
        """Seconds on a clock, once the device is idle."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter()
