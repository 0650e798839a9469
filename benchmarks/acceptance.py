"""Record the embedded model's acceptance by draft depth, which other shapes replay."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import pjd
from pjd.decoder.methods import PRESETS, configure
from pjd.pipeline.files import write_json
from pjd.pipeline.prompts import read

RECORD = Path(__file__).parent / "acceptance.json"


def tests_drafts(method: str) -> bool:
    """Whether a method ever tests a draft; only then is there an acceptance to replay."""
    config = configure(method)
    # Adaptive ZipAR feeds no drafts, but tests the first token of a row before the row may start.
    return config.window > 1 or config.start == "adaptive"


def record(model: str, images: int, context: int) -> dict[str, list[float]]:
    """Share of the tested drafts that was accepted at each depth, by method that tests drafts.

    Args:
        model: an embedded model.
        images: number of images per method; image i has seed i.
        context: context tokens c of the methods on rows.
    """
    loaded = pjd.load(model)
    captions = read("emoji", images).prompt.tolist()
    shares = {}
    for method, preset in PRESETS.items():
        if not tests_drafts(method):
            continue
        options = {"context": context} if preset.by_rows else {}
        result = pjd.generate(loaded, captions, method=method, progress=True, **options)
        depths = result.trace.depths
        share = depths.accepted / depths.tested.clip(lower=1)
        shares[method] = [round(float(value), 4) for value in share]
    return shares


def read_record() -> dict[str, Any]:
    """What :func:`acceptance` wrote: model, images, context, and shares as :func:`record` says."""
    found: dict[str, Any] = json.loads(RECORD.read_text())
    return found


def acceptance(
    model: Annotated[str, typer.Option(help="An embedded model.")] = "emoji-64",
    images: Annotated[int, typer.Option(help="Images per method.")] = 64,
    context: Annotated[int, typer.Option(help="Context tokens c.")] = 4,
) -> None:
    """Record the embedded model's acceptance by draft depth, which other shapes replay."""
    shares = record(model, images, context)
    write_json(RECORD, {"model": model, "images": images, "context": context, "shares": shares})
