"""Does a preview help the rows? Steps and fidelity of the image's grid, with one and without.

Both models of :mod:`benchmarks.two_grids` decode the same held-out captions. The preview is AR's in
all cases, so that only the grid after it differs.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pandas as pd
import torch
import typer
from torch import Tensor

import pjd
from benchmarks.likelihood import nats_and_excess
from benchmarks.two_grids import HELD_OUT, WITH, WITHOUT, held_out, train
from pjd.api import generate
from pjd.decoder.config import DecodeConfig, Initial
from pjd.decoder.engine import Decoded, Engine
from pjd.decoder.grids import at_same_place, encode_after, grids_of
from pjd.decoder.methods import configure
from pjd.measure.fidelity import bootstrap
from pjd.models.emoji import EmojiModel
from pjd.paths import DATA, ROOT
from pjd.pipeline.files import read_table, write_json
from pjd.pipeline.runs import provenance, set_threads

OTHER_SEED = 1_000_000
"""Of the first image of the second run of AR, which shows how much is chance."""


class Case(NamedTuple):
    """What is decoded with both models.

    Attributes:
        name: in the table.
        method: a preset.
        context: context tokens c; None: the method has none.
        seed: of the first image.
    """

    name: str
    method: str
    context: int | None = None
    seed: int = 0


CASES = [
    Case("AR", "ar"),
    Case("AR, other seeds", "ar", seed=OTHER_SEED),
    Case("SJD", "sjd"),
    Case("MC-SJD", "mc-sjd"),
    Case("ZipAR, c = 4", "zipar", 4),
    *(Case(f"PJD, c = {context}", "pjd", context) for context in (2, 4, 8)),
    Case("PJD-plus, c = 4", "pjd-plus", 4),
]


def first_drafts(case: Case, preview: bool) -> tuple[Initial, ...]:
    """What first drafts of a case may be, after a preview or without one."""
    if configure(case.method).window == 1:
        return ("random",)
    return ("random", "repeat-left", "preview") if preview else ("random", "repeat-left")


def captions(count: int) -> list[str]:
    """Evaluation prompts that no model is trained on: a held-out style and name in turn."""
    listed = json.loads((DATA / "prompts.json").read_text(encoding="utf-8"))
    pairs = zip(*(listed[split] for split in HELD_OUT), strict=True)
    return [caption for pair in pairs for caption in pair][:count]


def last_grid(
    model: EmojiModel,
    prompts: list[str],
    previews: list[Tensor],
    config: DecodeConfig,
    seeds: Tensor,
) -> Decoded:
    """Decode a model's last grid after the grids before it.

    Args:
        model: of the last grid.
        prompts: one per image.
        previews: codes of the grids before the last, each int64 [images, R * C].
        config: the method and its options.
        seeds: of the images, int64 [images].
    """
    preview = None
    if model.before is not None:
        preview = at_same_place(previews[-1], model.before.grid, model.grid)
    prompt = encode_after(model, prompts, previews, config.guided)
    return Engine(model, config, prompt, seeds, number=len(previews), preview=preview).run()


def measured(
    model: EmojiModel, prompts: list[str], start: int, done: set[tuple[str, str]]
) -> Iterator[pd.DataFrame]:
    """Decode a batch by every case, and with every kind of first drafts.

    Args:
        model: to decode with.
        prompts: of the batch.
        start: number of its first image, which is its seed too.
        done: name and first drafts of what need not be decoded again.

    Yields:
        One row per image: model, name, initial, image, steps, and nats and excess, see
        :func:`benchmarks.likelihood.nats_and_excess`.
    """
    images = start + torch.arange(len(prompts))
    before = grids_of(model)[:-1]
    previews = [generate(one, prompts, "ar", seeds=images.tolist()).tokens for one in before]
    for case in CASES:
        options = {"context": case.context, **model.sampling}
        plain = configure(case.method, columns=model.grid.columns, **options)
        for initial in first_drafts(case, bool(before)):
            if (case.name, initial) in done:
                continue
            config = replace(plain, initial=initial)
            decoded = last_grid(model, prompts, previews, config, case.seed + images)
            nats, excess = nats_and_excess(
                model, prompts, decoded.tokens, config.guidance, previews=previews
            )
            yield pd.DataFrame(
                {
                    "model": model.name,
                    "name": case.name,
                    "initial": initial,
                    "image": images.numpy(),
                    "steps": decoded.trace.steps.numpy(),
                    "nats": nats.numpy(),
                    "excess": excess.numpy(),
                }
            )


def known(table: pd.DataFrame, model: str, image: int) -> set[tuple[str, str]]:
    """Name and first drafts of the cases of a model that have the image with this number."""
    if table.empty:
        return set()
    rows = table[(table.model == model) & (table.image == image)]
    return set(zip(rows.name, rows.initial, strict=True))


def preview_steps(model: EmojiModel, prompts: list[str]) -> dict[str, dict[str, float]]:
    """Steps of the preview itself, by case: what an image costs more with one."""
    (before,) = grids_of(model)[:-1]
    results = {
        case.name: generate(before, prompts, case.method, context=case.context, seed=case.seed)
        for case in CASES
    }
    steps = {name: result.steps.double().numpy() for name, result in results.items()}
    return intervals(pd.DataFrame(steps))


def intervals(values: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Mean and bootstrap 95 % interval of each column, which has one row per image."""
    found = {column: asdict(bootstrap(values[column].to_numpy())) for column in values}
    return {
        column: {name: round(number, 4) for name, number in one.items()}
        for column, one in found.items()
    }


def summary(table: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    """Intervals of what :func:`measured` yielded for all images.

    Returns:
        "cases": steps, gap to AR of the same model and excess, both in nats per token.
        "differences" of them, image by image: what the preview before an image changes
        ("context"), and what first drafts that copy it change where they were random ("drafts")
        or copies of the code to the left ("drafts, left").
    """
    columns = ["model", "name", "initial"]
    of = {key: rows.set_index("image").sort_index() for key, rows in table.groupby(columns)}
    values = {
        key: rows[["steps", "excess"]].assign(gap=rows.nats - of[key[0], "AR", "random"].nats)
        for key, rows in of.items()
    }
    cases = [dict(zip(columns, key, strict=True)) | intervals(one) for key, one in values.items()]
    differences = []
    for case in CASES:
        random = WITH, case.name, "random"
        pairs = {"context": (random, (WITHOUT, case.name, "random"))}
        if (copied := (WITH, case.name, "preview")) in of:
            pairs["drafts"] = copied, random
            pairs["drafts, left"] = copied, (WITH, case.name, "repeat-left")
        for what, (new, old) in pairs.items():
            compared = intervals(values[new] - values[old])
            differences.append({"name": case.name, "what": what, **compared})
    return {"cases": cases, "differences": differences}


def shown(case: dict[str, Any]) -> str:
    """A line of the table."""
    parts = [f"{case['name']:16} {case.get('initial') or case['what']:12}"]
    for column, form in {"steps": "6.1f", "gap": "+.3f", "excess": "+.3f"}.items():
        mean, low, high = (f"{case[column][name]:{form}}" for name in ("mean", "low", "high"))
        parts.append(f"{column} {mean} [{low}, {high}]")
    return "  ".join(parts)


def preview(
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON to write.")],
    start: Annotated[str, typer.Option(help="The embedded model to go on from.")] = "emoji-64",
    steps: Annotated[int, typer.Option(help="Steps of training, 8 pictures each.")] = 1200,
    images: Annotated[int, typer.Option(min=2, help="Images per case.")] = 96,
    batch: Annotated[int, typer.Option(min=1, help="Images decoded together.")] = 32,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Train a model with a preview before each image and one without, and compare them; resumes.

    What is done so far is in a folder of checkpoints/; the JSON is written after each batch.
    """
    set_threads(threads)
    folder = ROOT / "checkpoints" / f"preview-{start}-{steps}"
    path = folder / "measured.parquet"
    first, models, trained = pjd.load(start), [], {}
    for name in (WITH, WITHOUT):
        models.append(train(first, name, steps, folder / f"{name}.pt"))
        trained[name] = held_out(models[-1])
        print(name, trained[name], flush=True)
    of_previews = preview_steps(models[0], captions(batch))
    table = read_table(path) if path.exists() else pd.DataFrame()
    for begin in range(0, images, batch):
        prompts = captions(min(begin + batch, images))
        for model in models:
            done = known(table, model.name, begin)
            for rows in measured(model, prompts[begin:], begin, done):
                table = pd.concat([table, rows], ignore_index=True)
                table.to_parquet(path, index=False)
                print(model.name, *rows.iloc[0, 1:4], rows.steps.mean(), flush=True)
        count = len(prompts)
        found = summary(table[table.image < count])
        described: dict[str, Any] = {
            "start": start,
            "steps": steps,
            "images": count,
            "batch": batch,
            "seed": 0,
        }
        described |= {"threads": threads, "trained": trained, "preview_steps": of_previews}
        write_json(output, provenance(**described, **found))
    for case in found["cases"]:
        print(f"{case['model']:16}", shown(case))
    for difference in found["differences"]:
        print(f"{'difference':16}", shown(difference))
