"""Times of whole batches on models of real shapes."""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track

from benchmarks.acceptance import read_record
from benchmarks.measure import bandwidth, measure, transformers_ms
from benchmarks.options import check_recorded, counts, names, prepared, replayed
from benchmarks.shapes import SHAPES
from pjd.decoder.methods import PRESETS
from pjd.decoder.model import ImageModel
from pjd.errors import ParameterError, check_choice
from pjd.models.registry import DTYPES, EMOJI
from pjd.pipeline.files import write_json
from pjd.pipeline.runs import provenance


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
        recorded: from :func:`benchmarks.acceptance.read_record`.
        bytes_per_second: of the device, from :func:`benchmarks.measure.bandwidth`.
    """
    config = replayed(model, name, method, recorded)
    measured = measure(model, config, batch, repeats, bytes_per_second)
    return {"shape": name, "method": method, "batch": batch, **measured}


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
    recorded = read_record()
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
