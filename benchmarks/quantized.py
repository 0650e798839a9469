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


def block_bytes(model: Any) -> int:
    """Bytes of the weights of a model's blocks."""
    return sum(map(stored_bytes, blocks_of(model).parameters()))


class Baseline(NamedTuple):
    """The first case, which all others are compared with.

    Attributes:
        codes: int64 [images, R * C].
        nats: log-likelihood of each image, per token, float64 [images].
        logits: what each code is drawn from, per batch float [batch, R * C, vocabulary].
    """

    codes: Tensor
    nats: Tensor
    logits: list[Tensor]


def differences(baseline: Baseline, model: ImageModel, prompts: list[str]) -> dict[str, float]:
    """How a model's distributions of the next code differ from the baseline's, on its codes.

    Args:
        baseline: of the same model in other numbers.
        model: the model.
        prompts: one per image.

    Returns:
        Means over codes: total variation, whether the likeliest code is another, and the
        Kullback-Leibler divergence from the baseline in nats.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    sampling = model.sampling.get("guidance", 1.0), model.sampling.get("temperature", 1.0)
    parts = code_logits(model, prompts, baseline.codes, *sampling)
    for first, (_, second) in zip(baseline.logits, parts, strict=True):
        for one, other in zip(first, second, strict=True):
            logs, others = one.double().log_softmax(-1), other.double().log_softmax(-1)
            probs = logs.exp()
            variation = (probs - others.exp()).abs().sum() / 2
            top = (logs.argmax(-1) != others.argmax(-1)).sum()
            sums += torch.stack([variation, top, (probs * (logs - others)).sum()])
    means = sums / baseline.codes.numel()
    names = ("total_variation", "other_likeliest", "divergence")
    return {name: round(float(mean), 6) for name, mean in zip(names, means, strict=True)}


def measured(
    exact: ImageModel, case: Case, prompts: list[str], name: str, baseline: Baseline | None
) -> tuple[dict[str, Any], Baseline]:
    """Decode a case, and measure it.

    Args:
        exact: the model in single precision.
        case: what to decode with.
        prompts: one per image.
        name: of the model.
        baseline: the first case; None: this is it.

    Returns:
        What was found, and the baseline. Gap and excess are in nats per token, with their 95 %
        intervals; see :func:`benchmarks.likelihood.nats_and_excess`.
    """
    model: Any = load(name, dtype=case.dtype, quantize=case.quantize)
    images = len(prompts)
    first = images if case.other_seeds else 0
    result = generate(model, prompts, "ar", seeds=range(first, first + images))
    sampling = result.config.guidance, result.config.temperature
    nats, excess = nats_and_excess(exact, prompts, result.tokens, *sampling)
    found: dict[str, Any] = {"case": case.name, "block_bytes": block_bytes(model)}
    if baseline is None:
        logits = [one for _, one in code_logits(exact, prompts, result.tokens, *sampling)]
        baseline = Baseline(result.tokens, nats, logits)
    for key, values in (("gap", nats - baseline.nats), ("excess", excess)):
        interval = bootstrap(values.numpy())
        found[key] = [round(number, 4) for number in (interval.mean, interval.low, interval.high)]
    equal = (result.tokens == baseline.codes).double().mean()
    found |= {"equal_codes": round(float(equal), 4), "seconds": round(result.seconds, 1)}
    if (case.dtype, case.quantize) != ("float32", None):
        found |= differences(baseline, model, prompts)
    return found, baseline


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
        found, baseline = measured(exact, case, captions, model, baseline)
        done.append(found)
        write_json(output, described)
    table = Table("case", "MB", "gap [95 %]", "excess [95 %]", "total variation", "other likeliest")
    for one in done:
        intervals = ("{:+.3f} [{:+.3f}, {:+.3f}]".format(*one[key]) for key in ("gap", "excess"))
        shares = (f"{one.get(key, 0):.2%}" for key in ("total_variation", "other_likeliest"))
        table.add_row(one["case"], f"{one['block_bytes'] / 1e6:.1f}", *intervals, *shares)
    Console().print(table)
