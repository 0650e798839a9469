"""``python -m benchmarks``: decode batches on models of real shapes, and record their times."""

import json
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track

from benchmarks import gpu as on_gpu
from benchmarks.acceptance import RECORD, record, tests_drafts
from benchmarks.batches import batches
from benchmarks.decoders import decoders
from benchmarks.exact import exact
from benchmarks.excess import excess
from benchmarks.measure import bandwidth, measure, transformers_ms
from benchmarks.operations import counts as operation_counts
from benchmarks.preview import preview
from benchmarks.quantized import quantized
from benchmarks.released import cases as released_cases
from benchmarks.released import measured as released_steps
from benchmarks.shapes import SHAPES
from pjd.decoder.compiled import compile_model
from pjd.decoder.config import DecodeConfig
from pjd.decoder.methods import PRESETS, configure
from pjd.decoder.model import ImageModel
from pjd.errors import ParameterError, check_choice
from pjd.measure.replay import replay
from pjd.models.registry import DTYPES, EMOJI, load
from pjd.pipeline.files import write_json
from pjd.pipeline.prompts import read
from pjd.pipeline.runs import provenance

RESULTS = Path(__file__).parent / "results"

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
app.command()(exact)
app.command()(preview)
app.command()(quantized)
app.command()(decoders)
app.command()(batches)
app.command()(excess)


def names(text: str, option: str, known: Sequence[str]) -> list[str]:
    """Split a comma-separated list of names, each one of ``known``."""
    chosen = [name.strip() for name in text.split(",")]
    for name in chosen:
        check_choice(option, name, tuple(known))
    return chosen


def counts(text: str, option: str) -> list[int]:
    """Split a comma-separated list of numbers, at least 1 each."""
    for count in text.split(","):
        if not (count.strip().isdecimal() and int(count) > 0):
            raise ParameterError(option, count, "must be numbers, at least 1 each, as in 1,8,64")
    return [int(count) for count in text.split(",")]


def check_recorded(shapes: list[str], methods: list[str], recorded: dict[str, Any]) -> None:
    """Raise :class:`ParameterError` if a method needs a recorded acceptance and there is none."""
    if set(shapes) <= set(EMOJI):
        return
    known = [name for name in PRESETS if name in recorded["shares"] or not tests_drafts(name)]
    names(",".join(methods), "methods", known)


def prepared(name: str, device: str, dtype: str, layers: int | None, compiled: bool) -> ImageModel:
    """A model of the shape ``name``; the arguments are options of :func:`run`."""
    model = SHAPES[name].make(device, getattr(torch, dtype), layers)
    return compile_model(model) if compiled else model


def case(
    model: ImageModel,
    name: str,
    method: str,
    batch: int,
    repeats: int,
    recorded: dict[str, Any],
    bytes_per_second: float,
) -> dict[str, Any]:
    """Measure one method at one batch size.

    Args:
        model: of the shape ``name``.
        name: a key of :data:`benchmarks.shapes.SHAPES`.
        method: a preset.
        batch: images decoded together.
        repeats: timed decodings.
        recorded: what :func:`acceptance` wrote.
        bytes_per_second: of the device, from :func:`benchmarks.measure.bandwidth`.
    """
    config = replayed(model, name, method, recorded)
    measured = measure(model, config, batch, repeats, bytes_per_second)
    return {"shape": name, "method": method, "batch": batch, **measured}


def replayed(model: ImageModel, name: str, method: str, recorded: dict[str, Any]) -> DecodeConfig:
    """The usual options of a shape; without trained weights, with recorded acceptance.

    Args:
        model: of the shape.
        name: a key of :data:`benchmarks.shapes.SHAPES`.
        method: a preset.
        recorded: what :func:`acceptance` wrote.
    """
    shape = SHAPES[name]
    options: dict[str, Any] = {"guidance": shape.guidance, "top_k": shape.top_k}
    if PRESETS[method].by_rows:
        options["context"] = shape.context
    if name not in EMOJI and tests_drafts(method):
        shares, rule = recorded["shares"][method], configure(method).accept
        options["accept"] = replay(shares, model.device, rule)
    return configure(method, **options)


@app.command()
def acceptance(
    model: Annotated[str, typer.Option(help="An embedded model.")] = "emoji-64",
    images: Annotated[int, typer.Option(help="Images per method.")] = 64,
    context: Annotated[int, typer.Option(help="Context tokens c.")] = 4,
) -> None:
    """Record the embedded model's acceptance by draft depth, which other shapes replay."""
    shares = record(model, images, context)
    write_json(RECORD, {"model": model, "images": images, "context": context, "shares": shares})


@app.command()
def run(
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON to write.")],
    shapes: Annotated[str, typer.Option(help="Shapes.")] = "emoji-64",
    methods: Annotated[str, typer.Option(help="Methods.")] = "ar,sjd,pjd,pjd-plus",
    batches: Annotated[str, typer.Option(help="Batch sizes.")] = "1,8",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Dtype of the arithmetic.")] = "float32",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    repeats: Annotated[int, typer.Option(help="Timed decodings, after one to warm up.")] = 3,
    layers: Annotated[int | None, typer.Option(help="Fewer layers, for a trial.")] = None,
    compiled: Annotated[bool, typer.Option("--compiled", help="Compile the models.")] = False,
    beside: Annotated[bool, typer.Option(help="Time transformers' generate too.")] = True,
) -> None:
    """Measure every shape, method and batch size; an interruption keeps the results so far.

    --shapes, --methods and --batches take lists, separated by commas.
    """
    torch.set_num_threads(threads)
    check_choice("dtype", dtype, DTYPES)
    chosen = names(methods, "methods", list(PRESETS))
    wanted = names(shapes, "shapes", list(SHAPES))
    sizes = counts(batches, "batches")
    recorded = json.loads(RECORD.read_text())
    trained = [name for name in wanted if name in EMOJI]
    if trained and layers is not None:
        raise ParameterError("layers", layers, f"must not be given: {trained[0]} is trained")
    check_recorded(wanted, chosen, recorded)
    cases: list[dict[str, Any]] = []
    described = {
        **provenance(
            device=device,
            dtype=dtype,
            threads=threads,
            repeats=repeats,
            layers=layers,
            compiled=compiled,
        ),
        "acceptance": {key: recorded[key] for key in ("model", "images", "context")},
        "bandwidth": bandwidth(torch.device(device)),
        "transformers_ms": {},
        "cases": cases,
    }
    for name in wanted:
        shape = SHAPES[name]
        model = prepared(name, device, dtype, layers, compiled)
        for batch in sizes:
            for method in track(chosen, f"{name}, batch {batch}", console=Console(stderr=True)):
                speed = described["bandwidth"]
                cases.append(case(model, name, method, batch, repeats, recorded, speed))
                write_json(output, described)
        if beside and shape.like is not None:
            described["transformers_ms"][name] = transformers_ms(
                shape.like, shape, layers, device, getattr(torch, dtype), codes=64
            )
            write_json(output, described)


@app.command()
def settings(
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON to write.")],
    shape: Annotated[str, typer.Option(help="The shape.")] = "emoji-64",
    methods: Annotated[str, typer.Option(help="Methods.")] = "ar,pjd",
    batches: Annotated[str, typer.Option(help="Batch sizes.")] = "1,8",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    dtypes: Annotated[str, typer.Option(help="Dtypes.")] = "float32,bfloat16",
    threads: Annotated[str, typer.Option(help="Numbers of CPU threads.")] = "1,2",
    repeats: Annotated[int, typer.Option(help="Timed decodings, after one to warm up.")] = 3,
) -> None:
    """Measure every combination of threads and dtypes, with and without compilation.

    --methods, --batches, --dtypes and --threads take lists, separated by commas.
    """
    chosen = names(methods, "methods", list(PRESETS))
    check_choice("shape", shape, tuple(SHAPES))
    sizes = counts(batches, "batches")
    recorded = json.loads(RECORD.read_text())
    check_recorded([shape], chosen, recorded)
    kinds = names(dtypes, "dtypes", DTYPES)
    cases: list[dict[str, Any]] = []
    described = {**provenance(device=device, repeats=repeats), "cases": cases}
    combinations = list(product((False, True), kinds, counts(threads, "threads")))
    for compiled, dtype, number in track(combinations, shape, console=Console(stderr=True)):
        torch.set_num_threads(number)
        # Graphs of another combination are of no more use.
        torch.compiler.reset()
        setting = {"threads": number, "dtype": dtype, "compiled": compiled}
        speed = bandwidth(torch.device(device))
        model = prepared(shape, device, dtype, None, compiled)
        for batch, method in product(sizes, chosen):
            measured = case(model, shape, method, batch, repeats, recorded, speed)
            cases.append({**setting, "bandwidth": speed, **measured})
            write_json(output, described)


@app.command()
def released(
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON to write.")],
    model: Annotated[str, typer.Option(help="An embedded model.")] = "emoji-64",
    images: Annotated[int, typer.Option(help="Images per case.")] = 64,
) -> None:
    """Count the steps of the baselines, ours and as released (docs/method.md, section 8)."""
    loaded = load(model)
    captions = read("emoji", images).prompt.tolist()
    counted: list[dict[str, Any]] = []
    described = {**provenance(model=model, images=images), "cases": counted}
    for one in track(released_cases(loaded), model, console=Console(stderr=True)):
        counted.append(released_steps(loaded, captions, one))
        write_json(output, described)


@app.command()
def gpu(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSON to write; named by the device.")
    ] = None,
    shapes: Annotated[str, typer.Option(help="Shapes.")] = ",".join(on_gpu.SHAPES),
    methods: Annotated[str, typer.Option(help="Methods.")] = ",".join(on_gpu.METHODS),
    batches: Annotated[str, typer.Option(help="Batch sizes.")] = ",".join(map(str, on_gpu.BATCHES)),
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
    recorded = json.loads(RECORD.read_text())
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
    for one in on_gpu.cases(wanted, chosen, counts(batches, "batches")):
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
            done.append(on_gpu.measure(loaded[1], config, one, iterations, speed))
        # Whatever one case fails with, the others are worth their time.
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            done.append({**one._asdict(), "error": reason})
        print(on_gpu.line(done[-1]), flush=True)
        write_json(path, described)
    write_json(path, described)
    failed = sum("error" in case for case in done)
    print(json.dumps({"file": str(path), "cases": len(done), "failed": failed}))


@app.command()
def operations(
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON to write.")],
    methods: Annotated[str, typer.Option(help="Methods.")] = "ar,sjd,mc-sjd,pjd,pjd-plus",
) -> None:
    """Count what an iteration asks a device to do, without a device (docs/performance.md)."""
    counted = {}
    for method in names(methods, "methods", list(PRESETS)):
        context = {"context": 4} if PRESETS[method].by_rows else {}
        config = configure(method, guidance=2.5, top_k=16, **context)
        counted[method] = operation_counts(config)
        print(method, counted[method], flush=True)
        write_json(output, provenance(methods=counted))


if __name__ == "__main__":
    try:
        app(standalone_mode=True)
    except ParameterError as error:
        raise SystemExit(str(error)) from error
