"""One measurement: decode a whole batch, and time the parts of its iterations."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.shapes import Shape
from pjd.decoder.config import DecodeConfig
from pjd.decoder.engine import Decoded, Engine
from pjd.decoder.model import ImageModel
from pjd.decoder.state import State
from pjd.decoder.trace import Trace
from pjd.decoder.verify import Verified, verify


class Clock:
    """Times parts of a run: on a GPU by events, which do not wait for it, else by wall-clock."""

    def __init__(self, device: torch.device) -> None:
        """Start without any times."""
        self.cuda = device.type == "cuda"
        self.spans: dict[str, list[tuple[Any, Any]]] = defaultdict(list)

    def now(self) -> Any:
        """This moment."""
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what runs within."""
        began = self.now()
        yield
        self.spans[name].append((began, self.now()))

    def milliseconds(self, name: str) -> list[float]:
        """Milliseconds of each run of a part, in order."""
        if self.cuda:
            torch.cuda.synchronize()
            return [began.elapsed_time(ended) for began, ended in self.spans[name]]
        return [1000 * (ended - began) for began, ended in self.spans[name]]

    def seconds(self, name: str) -> float:
        """Total seconds of a part."""
        return sum(self.milliseconds(name)) / 1000


class TimedModel:
    """A model whose forward passes are timed."""

    def __init__(self, model: ImageModel, clock: Clock) -> None:
        """Put a clock on ``model``."""
        self.model, self.clock = model, clock

    def __getattr__(self, name: str) -> Any:
        """Any other attribute of the model."""
        return getattr(self.model, name)

    def forward(self, *arguments: Any) -> Tensor:
        """The model's forward pass, timed."""
        with self.clock.part("forward"):
            return self.model.forward(*arguments)


class TimedEngine(Engine):
    """The engine, with a clock for its parts.

    The part "step" is a whole iteration: from its beginning to that of the next one, or to the end
    of the loop. So it includes the trace and the removal of finished images.

    Args:
        model: as the engine's.
        config: as the engine's.
        prompts: captions.
        seeds: as the engine's.
    """

    def __init__(
        self, model: ImageModel, config: DecodeConfig, prompts: list[str], seeds: Tensor
    ) -> None:
        """Start the clock."""
        self.clock = Clock(model.device)
        self.marks: list[Any] = []
        prompt = model.encode(prompts, config.guided)
        super().__init__(TimedModel(model, self.clock), config, prompt, seeds)
        # Parts of a captured iteration have no times of their own.
        self.recorder = None

    def run(self, progress: Callable[[int, int], None] | None = None) -> Decoded:
        """Decode the batch, and time the verifications too."""

        def timed(*arguments: Any) -> Verified:
            with self.clock.part("verify"):
                return verify(*arguments)

        with patch("pjd.decoder.engine.verify", timed):
            return super().run(progress)

    def prefill(self) -> None:
        """The forward pass of the prompt, timed separately."""
        with self.clock.part("prefill"):
            super().prefill()
        self.clock.spans.pop("forward", None)

    def step(self, state: State, trace: Trace) -> None:
        """One iteration, after noting when it begins."""
        self.marks.append(self.clock.now())
        super().step(state, trace)

    def now(self) -> float:
        """The engine's clock, which it reads before its first iteration and after its last."""
        self.clock.spans["step"] = list(pairwise([*self.marks, self.clock.now()]))
        return super().now()


def bandwidth(device: torch.device, size: int = 2**28) -> float:
    """Bytes per second that the device reads and writes, in the best of several large copies."""
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(5):
        clock = Clock(device)
        with clock.part("copy"):
            target.copy_(source)
        best = min(best, clock.seconds("copy"))
    return 2 * size / best


def weight_bytes(model: ImageModel) -> int:
    """Bytes of weights that every forward pass reads: blocks and output head, not embeddings."""
    transformer = getattr(model, "transformer", None)
    modules = [transformer] if transformer is not None else [model.backbone, model.head]
    return sum(
        parameter.numel() * parameter.element_size()
        for module in modules
        for name, parameter in module.named_parameters()
        if "embed" not in name
    )


def by_quarter(times: list[float]) -> list[float]:
    """Median of each quarter of ``times``, which has at least one entry."""
    bounds = [len(times) * quarter // 4 for quarter in range(5)]
    return [median(times[begin : max(end, begin + 1)]) for begin, end in pairwise(bounds)]


def measure(
    model: ImageModel,
    config: DecodeConfig,
    batch: int,
    repeats: int,
    bytes_per_second: float,
) -> dict[str, Any]:
    """Decode a batch ``repeats`` times after one decoding to warm up.

    Args:
        model: to decode with.
        config: the method.
        batch: images decoded together.
        repeats: timed decodings, at least 1.
        bytes_per_second: the device's, from :func:`bandwidth`.

    Returns:
        Medians over the repeats: seconds of the batch, milliseconds of the prefill, iterations,
        steps and fed tokens per image, milliseconds per iteration (step) and of its parts
        (forward, verify, and prepare: schedule, drafts, mask, probabilities, commit, trace, removal
        of finished images), and milliseconds per iteration in each quarter of the iterations. Then
        images per second; bytes of weights and cache, and on a GPU the peak; the floor in
        milliseconds, which is the time to read weights and cache once, and how many times longer an
        iteration is.
    """
    prompts, seeds = ["cat"] * batch, torch.arange(batch)
    cuda = model.device.type == "cuda"
    runs, quarters = [], []
    for _ in range(repeats + 1):
        if cuda:
            torch.cuda.reset_peak_memory_stats(model.device)
        engine = TimedEngine(model, config, prompts, seeds)
        cache = engine.cache.keys.nbytes + engine.cache.values.nbytes
        decoded = engine.run()
        iterations = len(decoded.trace.fed)
        parts = {
            name: 1000 * engine.clock.seconds(name) / iterations
            for name in ("step", "forward", "verify")
        }
        runs.append(
            {
                "seconds": decoded.seconds,
                "prefill_ms": 1000 * engine.clock.seconds("prefill"),
                "iterations": iterations,
                "steps": decoded.trace.steps.double().mean().item(),
                "fed": decoded.trace.fed.double().mean().item(),
                "step_ms": parts["step"],
                "forward_ms": parts["forward"],
                "verify_ms": parts["verify"],
                "prepare_ms": parts["step"] - parts["forward"] - parts["verify"],
            }
        )
        quarters.append(by_quarter(engine.clock.milliseconds("step")))
        del engine
    measured = {name: median(run[name] for run in runs[1:]) for name in runs[0]}
    measured["quarter_ms"] = [median(times) for times in zip(*quarters[1:], strict=True)]
    measured["images_per_second"] = batch / measured["seconds"]
    measured |= {"weight_bytes": weight_bytes(model), "cache_bytes": cache, "peak_bytes": None}
    read = measured["weight_bytes"] + measured["cache_bytes"]
    measured["floor_ms"] = 1000 * read / bytes_per_second
    measured["times_floor"] = measured["step_ms"] / measured["floor_ms"]
    if cuda:
        measured["peak_bytes"] = torch.cuda.max_memory_allocated(model.device)
    return measured


def transformers_ms(
    like: LlamaConfig, shape: Shape, layers: int | None, device: str, dtype: torch.dtype, codes: int
) -> float:
    """Milliseconds per code of transformers' own eager ``generate`` on a Llama of the same sizes.

    With guidance it runs the two branches one after the other, each with its own cache.
    """
    sizes = {**like.to_dict(), "num_hidden_layers": layers or like.num_hidden_layers}
    with torch.device(device):
        language = LlamaForCausalLM(LlamaConfig(**sizes)).to(dtype).eval()
    ids = torch.ones(1, 32, dtype=torch.long, device=device)
    options = {
        "do_sample": True,
        "top_k": shape.top_k,
        "guidance_scale": shape.guidance,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    language.generate(ids, max_new_tokens=8, **options)
    clock = Clock(ids.device)
    with clock.part("generate"):
        language.generate(ids, max_new_tokens=codes, min_new_tokens=codes, **options)
    return 1000 * clock.seconds("generate") / codes
