"""What was tried beyond MC-SJD and PJD-plus: steps, fidelity, and the reasons (docs/tried.md).

Each case is a method under options, or with one rule that stands in for the engine's while its
images are decoded. Image i has seed i; every number is a function of the model and the case alone.
"""

import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from unittest.mock import patch

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks.likelihood import nats_and_excess
from benchmarks.retest import Retest
from benchmarks.siblings import Siblings
from benchmarks.stand_ins import FirstDrafts, Redrafted, averaged, sharpened, unchanged
from benchmarks.watch import Watch
from pjd.api import generate
from pjd.decoder.acceptance import AcceptRule, lenient
from pjd.decoder.model import ImageModel
from pjd.measure.fidelity import bootstrap
from pjd.models.registry import load
from pjd.pipeline.files import write_json
from pjd.pipeline.prompts import read
from pjd.pipeline.runs import provenance

RESULTS = Path(__file__).parent / "results" / "exact.json"

REPLACED = ("schedule", "draft", "proposals", "verify", "commit")
"""Functions of the engine that a stand-in may replace, by the names of its methods."""


class Case(NamedTuple):
    """One way to decode.

    Attributes:
        idea: what is tried, the key of its paragraph in docs/tried.md.
        method: a preset.
        options: of the decoder.
        stand_in: whose methods replace the engine's functions of their names; None: no one's.
        label: of the rule that stands in.
    """

    idea: str
    method: str
    options: dict[str, Any]
    stand_in: FirstDrafts | Redrafted | Siblings | Watch | Retest | None = None
    label: str = ""

    @property
    def name(self) -> str:
        """The method, its options and the rule that stands in, in a few words."""
        options = [
            f"{name} {value.accepts.__name__ if isinstance(value, AcceptRule) else value}"
            for name, value in self.options.items()
        ]
        return ", ".join([self.method, *options, *filter(None, [self.label])])


def raster_cases(columns: int) -> list[Case]:
    """What was tried in one row, on a grid with so many columns."""
    two, four = ({"window": rows * columns} for rows in (2, 4))
    return [
        *(Case("window", "mc-sjd", {"window": columns * n}) for n in (1, 2, 3, 4, 8)),
        Case("watch", "mc-sjd", two, Watch(), "watched"),
        Case("first drafts", "mc-sjd", {**two, "initial": "repeat-left"}),
        *(
            Case("first drafts", "mc-sjd", {**size, "initial": "sample-above"})
            for size in (two, four)
        ),
        *(
            Case("first drafts", "mc-sjd", two, FirstDrafts(share), f"drawn, {share:g} above")
            for share in (1.0, 0.5, 0.0)
        ),
        Case("first drafts", "mc-sjd", four, FirstDrafts(1.0), "drawn, 1 above"),
        Case("coupling", "mc-sjd", {**four, "redraft": "gumbel"}),
        Case("redraft", "mc-sjd", two, Redrafted(sharpened(0.85)), "temperature 0.85"),
        Case("redraft", "mc-sjd", two, Redrafted(averaged(0.5)), "averaged"),
        *(
            Case("siblings", "mc-sjd", two, Siblings(3, depths), f"3 siblings at {depths}")
            for depths in (1, 4, 16)
        ),
        *(
            Case("lenience", "mc-sjd", {**four, "accept": lenient(share)}, *rule)
            for rule in ((), (Redrafted(unchanged), "drafts coupled as usual"))
            for share in (0.75, 0.5)
        ),
    ]


def row_cases(columns: int) -> list[Case]:
    """What was tried on several rows, on a grid with so many columns."""
    quarter, eighth = {"context": columns // 4}, {"context": columns // 8}
    return [
        *(Case("window of rows", "pjd-plus", {**quarter, "window": n}) for n in (4, 8, 16, 32)),
        *(
            Case("adaptive start", "pjd-plus", {**context, "start": "adaptive"})
            for context in (eighth, quarter)
        ),
        *(
            Case("drafts seen", "pjd-plus", {**context, "mask": "none", "window": window})
            for context in (eighth, quarter)
            for window in (8, columns)
        ),
        *(
            Case("correcting pass", "pjd-plus", context, Retest(), "retested")
            for context in (eighth, quarter)
        ),
    ]


def cases(columns: int) -> list[Case]:
    """Every case on a grid with so many columns, AR first."""
    return [Case("AR", "ar", {}), *raster_cases(columns), *row_cases(columns)]


def measured(
    model: ImageModel, prompts: list[str], case: Case, baseline: Tensor | None
) -> dict[str, Any]:
    """Decode ``case``, and measure it against AR.

    Args:
        model: an embedded model.
        prompts: one per image; image i has seed i.
        case: what to decode.
        baseline: float64 [images], nats per token of AR's own images; None: this is AR.

    Returns:
        Means over images: steps, their standard error, codes fed per step; gap and excess (see
        :func:`benchmarks.likelihood.nats_and_excess`), each with its 95 % interval; and what was
        watched.
    """
    with ExitStack() as stack:
        # A stand-in that remembers images finds each in its place: none is dropped.
        stack.enter_context(patch("pjd.decoder.shapes.KEEP_SHARE", 0.0))
        for name in REPLACED:
            if hasattr(case.stand_in, name):
                own = getattr(case.stand_in, name)
                stack.enter_context(patch(f"pjd.decoder.engine.{name}", own))
        options = {"batch_size": len(prompts), **case.options}
        result = generate(model, prompts, case.method, **options)
    steps = result.steps.double()
    fed = result.trace.fed.double().sum(0)
    if isinstance(case.stand_in, Siblings):
        steps = steps - case.stand_in.saved
        fed = fed + case.stand_in.fed_beside * steps
    sampling = result.config.guidance, result.config.temperature
    own, beyond = nats_and_excess(model, prompts, result.tokens, *sampling)
    gap = bootstrap((own - (own if baseline is None else baseline)).numpy())
    excess = bootstrap(beyond.numpy())
    found = {
        "idea": case.idea,
        "case": case.name,
        "steps": round(float(steps.mean()), 3),
        "standard_error": round(float(steps.std()) / len(prompts) ** 0.5, 3),
        "compression": round(model.grid.n_codes / float(steps.mean()), 3),
        "fed": round(float((fed / steps).mean()), 2),
        "gap": [round(number, 4) for number in (gap.mean, gap.low, gap.high)],
        "excess": [round(number, 4) for number in (excess.mean, excess.low, excess.high)],
    }
    if baseline is None:
        found["log_likelihood"] = [round(float(one), 5) for one in own]
    if isinstance(case.stand_in, Watch | Retest):
        found |= case.stand_in.found(model, prompts, result)
    return found


def exact(
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON to write.")] = RESULTS,
    model: Annotated[str, typer.Option(help="An embedded model.")] = "emoji-64",
    images: Annotated[int, typer.Option(help="Images per case.")] = 64,
    only: Annotated[str, typer.Option(help="Regular expression on `idea: case`.")] = "",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Count the steps of what was tried beyond MC-SJD and PJD-plus (docs/tried.md).

    A case that the file has already is kept, with the commit that measured it: delete the file to
    measure all anew.
    """
    torch.set_num_threads(threads)
    loaded = load(model)
    every = cases(loaded.grid.columns)
    captions = read("emoji", images).prompt.tolist()
    of_models = json.loads(output.read_text())["models"] if output.exists() else {}
    done = of_models.setdefault(f"{model}, {images} images", {})
    # AR is what all others are measured against.
    chosen = [
        case for case in every if case.idea == "AR" or re.search(only, f"{case.idea}: {case.name}")
    ]
    wanted = [case for case in chosen if case.name not in done]
    made = provenance()
    commit = {"commit": made.pop("commit")}
    for case in track(wanted, model, console=Console(stderr=True)):
        of_ar = done.get("ar", {}).get("log_likelihood")
        baseline = None if of_ar is None else torch.tensor(of_ar, dtype=torch.float64)
        done[case.name] = measured(loaded, captions, case, baseline) | commit
        write_json(output, {**made, "models": of_models})
    show(done)


def show(done: dict[str, Any]) -> None:
    """Print a table of measured cases."""
    heads = ("idea", "case", "steps", "times fewer", "fed per step", "gap [95 %]")
    table = Table(*heads)
    for case in done.values():
        mean, low, high = case["gap"]
        table.add_row(
            case["idea"],
            case["case"],
            f"{case['steps']:.1f} ± {case['standard_error']:.1f}",
            f"{case['compression']:.2f}",
            f"{case['fed']:.1f}",
            f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]",
        )
    Console().print(table)
