"""What an iteration costs on a GPU: launched one by one, captured, and captured after compiling.

Whole images would take minutes each. An iteration costs nearly the same all along an image, so a
few from its middle are timed, on random weights and with recorded acceptance.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch

from benchmarks.measure import weight_bytes
from pjd.decoder.capture import Captured
from pjd.decoder.config import DecodeConfig
from pjd.decoder.engine import Engine
from pjd.decoder.model import ImageModel
from pjd.decoder.state import State

MODES = ("eager", "captured", "compiled")
"""How an iteration runs: kernel by kernel, as one graph, as one graph of compiled regions."""

SHAPES = ("llamagen-xl", "janus-pro-1b", "lumina-mgpt-7b")
METHODS = ("ar", "sjd", "mc-sjd", "pjd", "pjd-plus")
BATCHES = (1, 8, 16)


class Case(NamedTuple):
    """One measurement.

    Attributes:
        mode: one of :data:`MODES`.
        shape: a key of :data:`benchmarks.shapes.SHAPES`.
        batch: images together.
        method: a preset.
    """

    mode: str
    shape: str
    batch: int
    method: str


def cases(shapes: list[str], methods: list[str], batches: list[int]) -> Iterator[Case]:
    """All cases, those of a single image first: a time limit cuts off the end."""
    for batch, shape, mode in product(batches, shapes, MODES):
        for method in methods:
            yield Case(mode, shape, batch, method)


def middle(engine: Engine) -> State:
    """A state in the middle of an image: half of its tokens, all rows in flight that can be."""
    state, layout = engine.initial_state(), engine.layout
    row = torch.arange(layout.rows, device=state.committed.device)
    half = layout.rows // 2
    lead = layout.columns // 2 + (half - row) * max(layout.context, 1)
    if layout.raster:
        lead = torch.full_like(row, layout.columns // 2)
    state.committed[:, :-1] = lead.clamp(0, layout.columns)
    state.flushed.copy_((state.committed[:, :-1] == layout.columns).sum(1, keepdim=True))
    return state


def milliseconds(function: Callable[[], None], times: int, engine: Engine) -> float:
    """Mean milliseconds of a call, the device's work included."""
    began = engine.now()
    for _ in range(times):
        function()
    return 1000 * (engine.now() - began) / times


@torch.inference_mode()
def measure(
    model: ImageModel, config: DecodeConfig, case: Case, iterations: int, bytes_per_second: float
) -> dict[str, Any]:
    """Time iterations from the middle of an image.

    Args:
        model: of the case's shape; compiled already if the case asks for it.
        config: the method, with recorded acceptance.
        case: what is measured.
        iterations: to time, after some to warm up.
        bytes_per_second: of the device, from :func:`benchmarks.measure.bandwidth`.

    Returns:
        step_ms, forward_ms and rest_ms: milliseconds per iteration, of the model and of all else;
        ready_s: seconds of the first iterations, compilation and capture included; lanes and
        queries that are computed per image; weights_ms, the time to read the weights once;
        tokens: committed per iteration and image; and on a GPU peak_bytes and kernels.
    """
    device = model.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    prompt = model.encode(["cat"] * case.batch, config.guided)
    engine = Engine(model, config, prompt, torch.arange(case.batch), static=True)
    engine.prefill()
    state, trace = middle(engine), engine.empty_trace()
    engine.shapes.look_ahead(state, engine.shapes.iterations_per_look)
    captured = Captured(None if case.mode == "eager" else engine.recorder)
    iterate = partial(captured.run, "step", partial(engine.step, state, trace))
    began = engine.now()
    for _ in range(3):
        iterate()
    ready = engine.now() - began
    before = state.committed_total.double().mean()
    step_ms = milliseconds(iterate, iterations, engine)
    gained = state.committed_total.double().mean() - before
    fed = engine.feed(state)
    forward = partial(captured.run, "forward", partial(engine.forward, fed.inputs))
    for _ in range(3):
        forward()
    forward_ms = milliseconds(forward, iterations, engine)
    return {
        **case._asdict(),
        "step_ms": step_ms,
        "forward_ms": forward_ms,
        "rest_ms": step_ms - forward_ms,
        "ready_s": ready,
        "lanes": engine.shapes.bound,
        "queries": fed.queries.token.shape[1],
        "tokens": float(gained / iterations),
        "weights_ms": 1000 * weight_bytes(model) / bytes_per_second,
        "peak_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "kernels": kernels(engine, iterate),
    }


def kernels(engine: Engine, iterate: Callable[[], None]) -> int | None:
    """Kernels that one iteration runs, as torch's profiler counts them; None on a CPU."""
    if engine.model.device.type != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        iterate()
        engine.now()
    return sum(1 for event in profiled.events() if event.device_type.name == "CUDA")


def line(case: dict[str, Any]) -> str:
    """A case as a line of a table."""
    name = f"{case['shape']:<15} {case['method']:<9} {case['batch']:>3}  {case['mode']:<9}"
    if "error" in case:
        return f"{name} {case['error']}"
    return (
        f"{name} {case['step_ms']:8.2f} ms  forward {case['forward_ms']:8.2f}  "
        f"rest {case['rest_ms']:6.2f}  weights {case['weights_ms']:6.2f}  "
        f"kernels {case['kernels'] or '-':>5}  ready after {case['ready_s']:6.1f} s"
    )
