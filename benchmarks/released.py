"""Steps of the baselines as we have them, and as their authors' released code runs them.

docs/method.md, section 8, explains the differences. Each is a rule that stands in for one of the
engine's while a few images are decoded; no method has them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from unittest.mock import patch

import torch
import typer
from rich.console import Console
from rich.progress import track
from torch import Tensor

from pjd.api import generate
from pjd.decoder.acceptance import AcceptInputs, AcceptRule, likelihood, ratio
from pjd.decoder.config import DecodeConfig
from pjd.decoder.grid import RowLayout
from pjd.decoder.model import ImageModel
from pjd.decoder.schedule import Band, schedule
from pjd.models.registry import load
from pjd.pipeline.files import write_json
from pjd.pipeline.prompts import read
from pjd.pipeline.runs import provenance

Schedule = Callable[[Tensor, Tensor, RowLayout, int, DecodeConfig], Band]


class OneByOne:
    """The first and the last codes of an image are drawn one by one (SJD, GSD; ``raster``).

    The released code decides on a window before it counts what the iteration commits, so it
    speculates up to the code ``last`` before the end of what it had one iteration earlier.

    Args:
        first: codes drawn one by one at the beginning.
        last: codes before the end of the image where no draft may be.
    """

    def __init__(self, first: int, last: int) -> None:
        """Start before the first image."""
        self.first, self.last = first, last
        self.before = 0

    def __call__(
        self,
        committed: Tensor,
        drafted: Tensor,
        layout: RowLayout,
        n_lanes: int,
        config: DecodeConfig,
    ) -> Band:
        """The schedule of a batch of one image."""
        band = schedule(committed, drafted, layout, n_lanes, config)
        now = int(committed[0, 0])
        before, self.before = (0 if now == 0 else self.before), now
        window = layout.columns - self.last - before
        if now < self.first:
            window = 1
        return band._replace(n_drafts=band.n_drafts.clamp(max=max(window - 1, 0)))


def first_row_alone(
    committed: Tensor, drafted: Tensor, layout: RowLayout, n_lanes: int, config: DecodeConfig
) -> Band:
    """No row starts before row 0 is complete (ZipAR for LlamaGen)."""
    band = schedule(committed, drafted, layout, n_lanes, config)
    waits = (band.finished == 0) & (band.row > 0)
    return band._replace(
        active=band.active & ~waits,
        max_commits=band.max_commits.masked_fill(waits, 0),
        may_resample=band.may_resample & ~waits,
    )


def wide_group(vectors: Tensor | None = None) -> AcceptRule:
    """The test of the released GSD: x, the 7 next less likely codes, and the 6 next likelier ones.

    Where fewer than 7 codes are less likely than x, it is the ratio test.

    Args:
        vectors: of the codes, float [vocabulary, width], whose distances count; None: the unit
            vectors of the codebook.
    """

    def accepts(inputs: AcceptInputs) -> Tensor:
        p, q, drafts = inputs.target_probs, inputs.draft_probs, inputs.drafts
        known = inputs.codebook if vectors is None else vectors
        order = p.argsort(dim=-1, stable=True)
        rank = (order == drafts[..., None]).long().argmax(-1)
        neighbour = rank[..., None] + torch.arange(-7, 7, device=p.device)
        ids = order.gather(-1, neighbour.clamp(0, order.shape[-1] - 1))
        alike = (p.gather(-1, ids) - likelihood(p, drafts)[..., None]).abs() < 0.15
        alike &= (known[ids] - known[drafts][..., None, :]).square().sum(-1) < 0.5
        alike &= neighbour < order.shape[-1]
        mass_p, mass_q = ((part.gather(-1, ids) * alike).sum(-1) for part in (p, q))
        return torch.where(rank < 7, ratio(inputs), inputs.uniforms * mass_q < mass_p)

    return AcceptRule(accepts)


class Case(NamedTuple):
    """One way to run a method.

    Attributes:
        name: "ours", or what is done as the released code does it.
        method: a preset.
        options: of the decoder.
        scheduling: stands in for the engine's schedule.
    """

    name: str
    method: str
    options: dict[str, Any]
    scheduling: Schedule = schedule


LUMINA = OneByOne(first=1, last=13)
LLAMAGEN = OneByOne(first=3, last=17)


def cases(model: ImageModel) -> list[Case]:
    """Every comparison, ours first."""
    embeddings = model.embed(torch.arange(model.vocabulary, device=model.device)[None])[0]
    raw = {"accept": wide_group(embeddings)}
    return [
        *(
            Case("ours", method, {"context": context})
            for context in (2, 4, 8)
            for method in ("pjd", "pjd-released")
        ),
        Case("ours", "zipar", {"context": 4}),
        Case("first row alone", "zipar", {"context": 4}, first_row_alone),
        Case("ours", "jacobi", {}),
        Case("drawn afresh", "jacobi", {"redraft": "fresh"}),
        Case("ours", "sjd", {}),
        Case("ends one by one, Lumina-mGPT", "sjd", {}, LUMINA),
        Case("ends one by one, LlamaGen", "sjd", {}, LLAMAGEN),
        Case("ours", "gsd", {}),
        Case("group of 14, code vectors", "gsd", {"accept": wide_group()}),
        Case("group of 14, input embeddings", "gsd", raw),
        Case("the same, ends one by one", "gsd", raw, LUMINA),
    ]


def measured(model: ImageModel, prompts: list[str], case: Case) -> dict[str, Any]:
    """Steps of ``case``: the mean over images, and its standard error; image i has seed i."""
    # OneByOne remembers one image.
    alone = {"batch_size": 1} if isinstance(case.scheduling, OneByOne) else {}
    with patch("pjd.decoder.engine.schedule", case.scheduling):
        result = generate(model, prompts, case.method, **alone, **case.options)
    steps = result.steps.double()
    return {
        "method": case.method,
        "case": case.name,
        "context": case.options.get("context"),
        "steps": float(steps.mean()),
        "standard_error": float(steps.std()) / len(prompts) ** 0.5,
    }


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
    for one in track(cases(loaded), model, console=Console(stderr=True)):
        counted.append(measured(loaded, captions, one))
        write_json(output, described)
