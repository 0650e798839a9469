"""The excess of shipped runs: how their tokens differ from AR's draws, whatever the picture.

The gap compares two sets of images, and most of its noise is that images differ. The excess of an
image is its log-likelihood above what AR's own draws would have at the same places on average; it
is 0 for tokens drawn from AR, and differs much less from image to image.
"""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.likelihood import nats_and_excess
from pjd.decoder.config import DecodeConfig
from pjd.errors import check_choice
from pjd.measure.fidelity import bootstrap
from pjd.models.registry import load
from pjd.pipeline.files import read_run, write_json
from pjd.pipeline.params import parameters
from pjd.pipeline.runs import check_weights, column_tensor, provenance, run_folder

RESULTS = Path(__file__).parent / "results" / "excess.json"

CHOSEN = [
    "ar",
    "mc-sjd-64-above-lenient",
    "pjd-4",
    "emoji-128-ar",
    "emoji-128-mc-sjd-128-above",
    "emoji-128-mc-sjd-128-above-lenient",
    "emoji-128-pjd-8",
]
"""What docs/tried.md tells of."""


def measured(run: str) -> dict[str, Any]:
    """The excess of a run of params.yaml that is decoded, in nats per token, and its 95 % interval.

    Args:
        run: its name; it needs ``make runs``.
    """
    decoded = read_run(run_folder(run))
    check_weights(run, decoded)
    table, config = decoded.images, DecodeConfig(**decoded.config)
    sampling = config.guidance, config.temperature
    tokens = column_tensor(table.tokens)
    _, excess = nats_and_excess(load(decoded.model), table.prompt.tolist(), tokens, *sampling)
    interval = bootstrap(excess.numpy())
    numbers = [round(number, 4) for number in (interval.mean, interval.low, interval.high)]
    return {"run": run, "images": len(table), "steps": float(table.steps.mean()), "excess": numbers}


def excess(
    runs: Annotated[list[str] | None, typer.Argument(help="Runs of params.yaml.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON to write.")] = RESULTS,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Measure how the tokens of runs differ from AR's draws (docs/tried.md)."""
    torch.set_num_threads(threads)
    chosen = runs or CHOSEN
    for run in chosen:
        check_choice("runs", run, tuple(parameters()["runs"]))
    done: list[dict[str, Any]] = []
    described = {**provenance(), "cases": done}
    for run in track(chosen, "runs", console=Console(stderr=True)):
        done.append(measured(run))
        write_json(output, described)
    table = Table("run", "images", "steps", "excess, nats per token [95 %]")
    for one in done:
        told = "{:+.4f} [{:+.4f}, {:+.4f}]".format(*one["excess"])
        table.add_row(one["run"], str(one["images"]), f"{one['steps']:.1f}", told)
    Console().print(table)
