"""What an iteration costs on a GPU: launched one by one, captured, and captured after compiling.

Whole images would take minutes each. An iteration costs nearly the same all along an image, so a
few from its middle are timed, on random weights and with recorded acceptance.
"""

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer

from benchmarks.acceptance import read_record
from benchmarks.measure import bandwidth, weight_bytes
from benchmarks.options import check_recorded, counts, names, prepared, replayed
from benchmarks.shapes import SHAPES
from pjd.decoder.capture import Captured
from pjd.decoder.config import DecodeConfig
from pjd.decoder.engine import Engine
from pjd.decoder.methods import PRESETS
from pjd.decoder.model import ImageModel
from pjd.decoder.state import State
from pjd.errors import check_choice
from pjd.models.registry import DTYPES
from pjd.pipeline.files import write_json
from pjd.pipeline.runs import provenance

RESULTS = Path(__file__).parent / "results"

MODES = ("eager", "captured", "compiled")
"""How an iteration runs: kernel by kernel, as one graph, as one graph of compiled regions."""

USUAL_SHAPES = ("llamagen-xl", "janus-pro-1b", "lumina-mgpt-7b")
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


def gpu(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSON to write; named by the device.")
    ] = None,
    shapes: Annotated[str, typer.Option(help="Shapes.")] = ",".join(USUAL_SHAPES),
    methods: Annotated[str, typer.Option(help="Methods.")] = ",".join(METHODS),
    batches: Annotated[str, typer.Option(help="Batch sizes.")] = ",".join(map(str, BATCHES)),
    device: Annotated[str, typer.Option(help="cuda; cpu for a rehearsal.")] = "cuda",
    dtype: Annotated[str, typer.Option(help="Dtype of the arithmetic.")] = "bfloat16",
    layers: Annotated[int | None, typer.Option(help="Fewer layers, for a rehearsal.")] = None,
    iterations: Annotated[int, typer.Option(help="Timed per case.")] = 30,
    seconds: Annotated[float, typer.Option(help="No case begins later.")] = 540.0,
) -> None:
    """Time iterations from the middle of an image: eager, captured, and captured and compiled.

    A case that fails is recorded with its error, and the others go on. The last line is JSON.
    """
    check_choice("dtype", dtype, DTYPES)
    wanted, chosen = names(shapes, "shapes", list(SHAPES)), names(methods, "methods", list(PRESETS))
    recorded = read_record()
    check_recorded(wanted, chosen, recorded)
    where = torch.device(device)
    label = torch.cuda.get_device_name(where) if where.type == "cuda" else device
    path = output or RESULTS / f"{label.lower().replace(' ', '-')}.json"
    speed = bandwidth(where)
    done: list[dict[str, Any]] = []
    described = {
        **provenance(device=label, dtype=dtype, layers=layers, iterations=iterations),
        "bandwidth": speed,
        "cases": done,
    }
    deadline, loaded = time.monotonic() + seconds, None
    for one in cases(wanted, chosen, counts(batches, "batches")):
        if time.monotonic() > deadline:
            done.append({**one._asdict(), "error": f"not begun within {seconds:.0f} seconds"})
            continue
        try:
            # A model that was compiled stays so: each mode has its own.
            if loaded is None or loaded[0] != (one.shape, one.mode):
                loaded = None
                torch.compiler.reset()
                model = prepared(one.shape, device, dtype, layers, one.mode == "compiled")
                loaded = (one.shape, one.mode), model
            config = replayed(loaded[1], one.shape, one.method, recorded)
            done.append(measure(loaded[1], config, one, iterations, speed))
        # Whatever one case fails with, the others are worth their time.
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            done.append({**one._asdict(), "error": reason})
        print(line(done[-1]), flush=True)
        write_json(path, described)
    write_json(path, described)
    failed = sum("error" in case for case in done)
    print(json.dumps({"file": str(path), "cases": len(done), "failed": failed}))
