"""Does an image depend on the batch that it is decoded in? Through rounding alone, and how often.

An image's random numbers depend on its seed. But a matrix product of other rows may sum in another
order, and a draw that is nearly a tie falls otherwise; all that follows it then differs.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pjd.api import generate
from pjd.decoder.model import ImageModel
from pjd.models.registry import load
from pjd.pipeline.files import write_json
from pjd.pipeline.prompts import read
from pjd.pipeline.runs import provenance

RESULTS = Path(__file__).parent / "results" / "batches.json"

METHODS: dict[str, dict[str, Any]] = {
    "ar": {},
    "jacobi": {},
    "sjd": {},
    "mc-sjd": {},
    "pjd": {"context": 4},
    "pjd-plus": {"context": 4},
}
"""What is decoded, and its options."""

DTYPES = ("float32", "bfloat16")


def compared(
    model: ImageModel, method: str, prompts: list[str], sizes: list[int]
) -> Iterator[dict[str, Any]]:
    """Decode the same images in batches of other sizes; image i has seed i.

    Args:
        model: what decodes.
        method: one of :data:`METHODS`.
        prompts: one per image; the reference is one batch of all.
        sizes: of the other batches.

    Yields:
        Per size: how many images have the very codes of the reference, and the share of codes.
    """

    def tokens(batch: int) -> torch.Tensor:
        seeds = range(len(prompts))
        options = METHODS[method]
        return generate(model, prompts, method, seeds=seeds, batch_size=batch, **options).tokens

    reference = tokens(len(prompts))
    for size in sizes:
        equal = tokens(size) == reference
        yield {
            "method": method,
            "batch": size,
            "equal_images": int(equal.all(1).sum()),
            "equal_codes": round(float(equal.double().mean()), 4),
        }


def batches(
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON to write.")] = RESULTS,
    model: Annotated[str, typer.Option(help="An embedded model.")] = "emoji-64",
    images: Annotated[int, typer.Option(help="Images per case, in one batch at first.")] = 32,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Count the images that another size of the batch changes (docs/performance.md)."""
    torch.set_num_threads(threads)
    prompts = read("emoji", images).prompt.tolist()
    done: list[dict[str, Any]] = []
    described = {**provenance(model=model, images=images), "cases": done}
    models = {dtype: load(model, dtype=dtype) for dtype in DTYPES}
    cases = list(product(DTYPES, METHODS))
    for dtype, method in track(cases, model, console=Console(stderr=True)):
        for found in compared(models[dtype], method, prompts, [max(1, images // 4), 1]):
            done.append({"dtype": dtype, **found})
        write_json(output, described)
    table = Table("dtype", "method", "batch", "equal images", "equal codes")
    for one in done:
        equal = f"{one['equal_images']} of {images}", f"{one['equal_codes']:.1%}"
        table.add_row(one["dtype"], one["method"], str(one["batch"]), *equal)
    Console().print(table)
