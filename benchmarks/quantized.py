"""What weights in 8 bits cost: how likely their images are under the model as it was trained.

Every case decodes the same prompts by AR, image i with seed i, and is measured under the model in
single precision. Image by image it is compared with AR in single precision, whose own noise is
that of other seeds.
"""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from benchmarks.likelihood import nats_and_excess
from pjd.api import generate
from pjd.decoder.model import ImageModel
from pjd.measure.fidelity import bootstrap, code_logits
from pjd.models.quantize import blocks_of, stored_bytes
from pjd.models.registry import load
from pjd.pipeline.files import write_json
from pjd.pipeline.prompts import read
from pjd.pipeline.runs import provenance

RESULTS = Path(__file__).parent / "results" / "quantized.json"


class Case(NamedTuple):
    """What a model computes with.

    Attributes:
        name: for the table.
        dtype: of its arithmetic.
        quantize: what its weights are rounded to, see :func:`pjd.load`.
        other_seeds: whether image i has another seed than i.
    """

    name: str
    dtype: str
    quantize: str | None = None
    other_seeds: bool = False


CASES = (
    Case("float32", "float32"),
    Case("float32, other seeds", "float32", other_seeds=True),
    Case("float32, int8", "float32", "int8"),
    Case("bfloat16", "bfloat16"),
    Case("bfloat16, int8", "bfloat16", "int8"),
)
"""What is measured, that which all others are compared with first."""


def weight_bytes(model: Any) -> int:
    """Bytes of the weights of a model's blocks."""
    return sum(map(stored_bytes, blocks_of(model).parameters()))


def differences(
    exact: ImageModel, other: ImageModel, prompts: list[str], tokens: Tensor
) -> dict[str, float]:
    """How two models' distributions of the next code differ, after the same codes.

    Args:
        exact: a model.
        other: the same model in other numbers.
        prompts: one per image.
        tokens: codes int64 [images, R * C].

    Returns:
        Means over codes: total variation, whether the likeliest code is another, and the
        Kullback-Leibler divergence of the second from the first in nats.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    sampling = exact.sampling.get("guidance", 1.0), exact.sampling.get("temperature", 1.0)
    parts = (code_logits(one, prompts, tokens, *sampling) for one in (exact, other))
    for (_, first), (_, second) in zip(*parts, strict=True):
        logs, others = (logits.double().log_softmax(-1) for logits in (first, second))
        probs = logs.exp()
        variation = (probs - others.exp()).abs().sum() / 2
        top = (logs.argmax(-1) != others.argmax(-1)).sum()
        sums += torch.stack([variation, top, (probs * (logs - others)).sum()])
    names = ("total_variation", "other_likeliest", "divergence")
    return {n: round(float(mean), 6) for n, mean in zip(names, sums / tokens.numel(), strict=True)}


def measured(
    exact: ImageModel, case: Case, prompts: list[str], name: str, baseline: Tensor | None
) -> tuple[dict[str, Any], Tensor]:
    """Decode a case, and measure it.

    Args:
        exact: the model in single precision.
        case: what to decode with.
        prompts: one per image.
        name: of the model.
        baseline: codes int64 [images, R * C] of the first case; None: this is it.

    Returns:
        What was found, and the codes int64 [images, R * C]. Gap and excess are in nats per token,
        with their 95 % intervals; see :func:`benchmarks.likelihood.nats_and_excess`.
    """
    model: Any = load(name, dtype=case.dtype, quantize=case.quantize)
    images = len(prompts)
    first = images if case.other_seeds else 0
    result = generate(model, prompts, "ar", seeds=range(first, first + images))
    sampling = result.config.guidance, result.config.temperature
    codes = result.tokens if baseline is None else baseline
    nats, excess = nats_and_excess(exact, prompts, result.tokens, *sampling)
    of_baseline, _ = nats_and_excess(exact, prompts, codes, *sampling)
    found: dict[str, Any] = {"case": case.name, "block_bytes": weight_bytes(model)}
    for key, values in (("gap", nats - of_baseline), ("excess", excess)):
        interval = bootstrap(values.numpy())
        found[key] = [round(number, 4) for number in (interval.mean, interval.low, interval.high)]
    found["equal_codes"] = round(float((result.tokens == codes).double().mean()), 4)
    found["seconds"] = round(result.seconds, 1)
    if not case.other_seeds:
        found |= differences(exact, model, prompts, codes)
    return found, result.tokens


def quantized(
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON to write.")] = RESULTS,
    model: Annotated[str, typer.Option(help="An embedded model.")] = "emoji-128",
    images: Annotated[int, typer.Option(help="Images per case.")] = 32,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Measure what weights in 8 bits, and arithmetic in 16, cost (docs/performance.md)."""
    torch.set_num_threads(threads)
    exact = load(model)
    captions = read("emoji", images).prompt.tolist()
    done: list[dict[str, Any]] = []
    described = {**provenance(model=model, images=images), "cases": done}
    baseline = None
    for case in track(CASES, model, console=Console(stderr=True)):
        found, tokens = measured(exact, case, captions, model, baseline)
        baseline = tokens if baseline is None else baseline
        done.append(found)
        write_json(output, described)
    table = Table("case", "MB", "gap [95 %]", "excess [95 %]", "total variation", "other likeliest")
    for one in done:
        intervals = ("{:+.3f} [{:+.3f}, {:+.3f}]".format(*one[key]) for key in ("gap", "excess"))
        shares = (f"{one.get(key, 0):.2%}" for key in ("total_variation", "other_likeliest"))
        table.add_row(one["case"], f"{one['block_bytes'] / 1e6:.1f}", *intervals, *shares)
    Console().print(table)
