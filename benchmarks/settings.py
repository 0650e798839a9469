"""Times of whole batches by number of threads, by dtype, and with and without compilation."""

from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track

from benchmarks.acceptance import read_record
from benchmarks.measure import bandwidth
from benchmarks.options import check_recorded, counts, names, prepared
from benchmarks.run import case
from benchmarks.shapes import SHAPES
from pjd.decoder.methods import PRESETS
from pjd.errors import check_choice
from pjd.models.registry import DTYPES
from pjd.pipeline.files import write_json
from pjd.pipeline.runs import provenance


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
    recorded = read_record()
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
