"""The one decoding loop: schedule, draft, predict, verify, commit.

Every method is this loop under another :class:`pjd.decoder.config.DecodeConfig`. All state is
tensors; every image of a batch advances at its own pace.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from pjd.decoder.cache import SlotMap
from pjd.decoder.capture import Captured, Recorder, cuda_recorder
from pjd.decoder.commit import commit
from pjd.decoder.compiled import Compiled, uncompiled
from pjd.decoder.config import DecodeConfig
from pjd.decoder.drafts import Windows, draft
from pjd.decoder.grid import RowLayout
from pjd.decoder.grids import seeds_of_grid
from pjd.decoder.inputs import Inputs, prefill_inputs, step_inputs
from pjd.decoder.model import ImageModel, Prompt
from pjd.decoder.noise import Noise, verification_noise
from pjd.decoder.ordinary import ordinary_state
from pjd.decoder.queries import Queries, build_queries
from pjd.decoder.redraft import REDRAFT_RULES
from pjd.decoder.sampling import guide, has_finite_maximum, probabilities, with_forced_token
from pjd.decoder.schedule import Band, lanes_needed, schedule
from pjd.decoder.shapes import Shapes
from pjd.decoder.state import State, logits_error
from pjd.decoder.trace import Trace
from pjd.decoder.verify import proposals, verify


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


class Fed(NamedTuple):
    """What an iteration feeds.

    Attributes:
        band: the active rows.
        windows: their drafts.
        queries: all windows, side by side.
        inputs: what the model is given.
    """

    band: Band
    windows: Windows
    queries: Queries
    inputs: Inputs


class Engine:
    """Decodes one batch.

    Args:
        model: any :class:`pjd.decoder.model.ImageModel`.
        config: the method and its options.
        prompt: encoded, one per image; with guidance twice as many, conditional ones first.
        seeds: int64 [batch], one per image.
        static: see :class:`pjd.decoder.shapes.Shapes`; None: on all devices but a CPU.
        number: of the grid in its sequence, see :func:`pjd.decoder.grids.seeds_of_grid`.
        preview: codes that first drafts may copy (``initial`` "preview"), int64 [batch, R * C];
            None: there are none.
    """

    def __init__(
        self,
        model: ImageModel,
        config: DecodeConfig,
        prompt: Prompt,
        seeds: Tensor,
        static: bool | None = None,
        number: int = 0,
        preview: Tensor | None = None,
    ) -> None:
        """Allocate everything that the loop uses."""
        self.model, self.config, self.prompt = model, config, prompt
        self.seeds, self.number, self.preview = seeds.to(model.device), number, preview
        self.layout = RowLayout.of(model.grid, config, model.vocabulary)
        n_lanes = lanes_needed(self.layout.rows, config.rows)
        self.slots = SlotMap(n_lanes, prompt.mask.shape[1], model.grid.length)
        self.cache = model.cache(len(prompt.mask), self.slots.total)
        static = model.device.type != "cpu" if static is None else static
        self.shapes = Shapes(self.layout, self.slots, static)
        if self.shapes.static and getattr(model, "compiled", False):
            self.feed = Compiled(self.feed)  # type: ignore[method-assign]
            self.judge = Compiled(self.judge)  # type: ignore[method-assign]
        captures = model.device.type == "cuda" and model.capturable
        self.recorder: Recorder | None = cuda_recorder() if captures else None

    def initial_state(self) -> State:
        """The state before the first iteration."""
        seeds = seeds_of_grid(self.seeds, self.number)
        n_lanes, window = self.slots.n_lanes, self.config.window
        return State.initial(self.layout, seeds, n_lanes, window, self.preview)

    def empty_trace(self) -> Trace:
        """A record that all iterations fit in."""
        return Trace.empty(self.layout, len(self.seeds), self.config.window, self.model.device)

    def prefill(self) -> None:
        """Feed the prompt but for its last position."""
        if self.slots.prompt > 1:
            # Its shape occurs once: it is not worth compiling.
            with uncompiled():
                self.forward(prefill_inputs(self.prompt, self.slots))

    def step(self, state: State, trace: Trace) -> None:
        """One iteration and its record: tensors written in place, and nothing that the host reads.

        So it can be captured as one graph and replayed, see :mod:`pjd.decoder.capture`.
        """
        fed = self.feed(state)
        logits = self.forward(fed.inputs)
        self.judge(state, trace, fed, logits)

    def feed(self, state: State) -> Fed:
        """What an iteration feeds: schedule, draft, and the inputs of the forward pass."""
        layout, config = self.layout, self.config
        # 1. Schedule: which rows are active, how far each may draft and commit.
        band = schedule(state.committed, state.drafted, layout, self.slots.n_lanes, config)
        band = self.shapes.trim(band)
        # 2. Draft: fill each row's window, and lay all windows side by side.
        windows = draft(state, layout, config, band)
        queries = self.shapes.pack(build_queries(state, layout, self.slots, band, windows))
        # 3. Predict: what the one forward pass is given, with its one mask.
        inputs = step_inputs(
            self.model, self.prompt, state, layout, config, band, queries, self.shapes
        )
        return Fed(band, windows, queries, inputs)

    def judge(self, state: State, trace: Trace, fed: Fed, logits: Tensor) -> None:
        """What becomes of the drafts: target distributions, verify, commit, record."""
        layout, config, (band, windows, queries, _) = self.layout, self.config, fed
        # 4. Verify: accept, resample at the first rejection, redraft the rest.
        position = layout.position(queries.row, queries.column + 1)
        target_probs, finite = self.target(logits, queries, position)
        drafts = proposals(state, layout, config, band, windows, queries)
        noise, codebook = self.noise(state, position), self.model.codebook
        verified = verify(target_probs, drafts, queries, band, noise, config, codebook)
        # 5. Commit: write tokens, drafts and their distributions.
        commit(state, band, queries, verified, finite)
        trace.record(state, band, queries, verified)

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits float [branches * batch, queries, vocabulary]; fills the cache."""
        cache = self.cache.at(inputs.slots, inputs.used, inputs.fed)
        return self.model.forward(inputs.x, inputs.positions, inputs.mask, cache)

    def target(self, logits: Tensor, queries: Queries, position: Tensor) -> tuple[Tensor, Tensor]:
        """What tokens are drawn from.

        Args:
            logits: of all guidance branches.
            queries: of the batch.
            position: int64 [batch, queries], where in the image the predicted tokens are.

        Returns:
            The target distributions p, float [batch, queries, ids]; and whether the logits of
            each image were finite, bool [batch, 1].
        """
        layout, config = self.layout, self.config
        if config.guided:
            logits = guide(logits, self.model.guidance_at(config.guidance, position))
        finite = has_finite_maximum(logits, config.temperature) | ~queries.valid
        probs = probabilities(logits, config)
        if layout.n_ids > layout.vocabulary:
            probs = with_forced_token(probs, layout.forced(queries.column + 1))
        return probs, finite.all(1, keepdim=True)

    def noise(self, state: State, position: Tensor) -> Noise:
        """The random numbers of this iteration's verification, by ``position`` as above."""
        fixed_ids = self.layout.n_ids if REDRAFT_RULES[self.config.redraft].fixed_noise else 0
        return verification_noise(state.streams, state.iteration, position, fixed_ids)

    def select(self, state: State, images: Tensor) -> State:
        """Go on with the images at the indices ``images`` int64 [fewer] alone."""
        branches = len(self.prompt.mask) // len(state.images)
        branch = torch.arange(branches, device=images.device)[:, None]
        sequences = (images + len(state.images) * branch).flatten()
        self.prompt, self.cache = self.prompt.select(sequences), self.cache.select(sequences)
        return state.select(images)

    @ordinary_state()
    @torch.inference_mode()
    def run(self, progress: Callable[[int, int], None] | None = None) -> Decoded:
        """Decode the batch.

        Args:
            progress: called every few iterations with the tokens committed since the last call,
                all images together, and with the forward passes so far.

        Raises:
            LogitsError: if the model's logits are no finite numbers.
        """
        layout, batch = self.layout, len(self.seeds)
        began = self.now()
        state = self.initial_state()
        self.prefill()
        trace = self.empty_trace()
        tokens = state.tokens.new_zeros(batch, layout.length)
        committed_total, iteration = 0, 0
        captured = Captured(self.recorder)
        while committed_total < batch * layout.length:
            count = min(self.shapes.iterations_per_look, layout.length - iteration)
            self.shapes.look_ahead(state, count)
            for _ in range(count):
                captured.run(self.shapes.bound, partial(self.step, state, trace))
            iteration += count
            tokens[state.images] = state.tokens[:, :-1, : layout.columns].flatten(1)
            own, failed_at = state.committed_total, state.failed_at.amax()
            # One read for both: on a GPU the host waits for it.
            total, failed = torch.stack([own.sum(), failed_at]).tolist()
            if failed:
                raise logits_error(state, self.seeds, self.model.dtype)
            total += (batch - len(own)) * layout.length
            if progress is not None:
                progress(total - committed_total, iteration)
            committed_total = total
            images = self.shapes.images_to_keep(own < layout.length)
            if images is not None and len(images):
                state = self.select(state, images)
                captured.forget()
        seconds = self.now() - began
        codes = self.model.grid.without_row_ends(tokens).flatten(1)
        return Decoded(codes, seconds, trace.cut(iteration))

    def now(self) -> float:
        """Seconds on a clock, once the device is idle."""
        if self.model.device.type != "cpu":
            torch.accelerator.synchronize(self.model.device)
        return time.perf_counter()
