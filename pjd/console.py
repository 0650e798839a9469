"""Input and output of the command line: captions, options, the progress bar, tables."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pjd.errors import ParameterError, check_integer, check_prompts
from pjd.paths import WEIGHTS

if TYPE_CHECKING:
    # It imports torch, which the command line must not wait for.
    from pjd.api import Result


def parse_option(text: str) -> dict[str, Any]:
    """The option of a decoder that a ``name=value`` gives, by its name.

    Raises:
        ParameterError: if there is no such pair.
    """
    from pjd.pipeline.notebook import value_of

    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ParameterError("--set", text, "must be name=value, such as stand_in=above")
    return {name.replace("-", "_"): value_of(value)}


def read_captions(prompts: list[str] | None, file: Path | None) -> list[str]:
    """Captions of the command line, then those of a file.

    Raises:
        ParameterError: if there are none, or naming one that is blank or not UTF-8.
        FileNotFoundError: if there is no such file.
    """
    listed = list(prompts or [])
    if file is not None:
        from pjd.pipeline.prompts import read

        listed += list(read(str(file)).prompt)
    if not listed:
        raise ParameterError("prompts", listed, "give one, or a file of them with --file")
    check_prompts(listed)
    return listed


def images_together(model: str, batch_size: int | None) -> int:
    """Images to decode together: ``batch_size`` or, if it is None, a number that suits the model.

    Raises:
        ParameterError: if it is less than 1.
    """
    from pjd.models.registry import official

    if batch_size is None:
        # One more image of an official checkpoint may take gigabytes.
        return 1 if official(model) else 64
    check_integer("batch_size", batch_size, 1)
    return batch_size


def check_common(
    model: str,
    prompts: list[str] | None,
    file: Path | None,
    batch_size: int | None,
    device: str | None,
    dtype: str | None,
) -> tuple[int, list[str]]:
    """Check what `generate` and `compare` share, before a model is loaded.

    Returns:
        The batch size, and all captions.

    Raises:
        ParameterError: naming the parameter, its value and what is allowed.
    """
    from pjd.models.registry import check_device, check_dtype, resolve

    together = images_together(model, batch_size)
    check_dtype(dtype)
    check_device(device)
    captions = read_captions(prompts, file)
    resolve(model)
    return together, captions


@contextmanager
def progress_bar(
    images: int,
) -> Iterator[tuple[Callable[[float, int, float], None], Callable[[int], None]]]:
    """One bar for all images of a command, where there is a terminal.

    Yields:
        Two functions: one to call while images are decoded, see :data:`pjd.api.Progress`; and one
        to call with the number of finished images, which is all that several workers report.
    """
    console = Console(stderr=True)
    with Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images{task.fields[pace]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        # Otherwise output that goes into a file would go to the terminal.
        redirect_stdout=sys.stdout.isatty(),
    ) as bar:
        task = bar.add_task("", total=images, pace="")

        def advance(more: float, steps: int, pace: float) -> None:
            bar.update(task, advance=more, pace=f", {steps} steps, {pace:.1f} tokens per step")

        def finish(finished: int) -> None:
            bar.update(task, completed=finished)

        yield advance, finish


def comparison_table(results: "dict[str, Result]", title: str, length: int) -> Table:
    """Steps, compression and seconds of several methods on the same prompts.

    Args:
        results: by method.
        title: of the table.
        length: sequence positions of an image, which is the number of AR's steps.
    """
    table = Table(title=title)
    heads = ("method", "steps", "compression", "tokens fed per step", "seconds per image")
    for head in heads:
        table.add_column(head, justify="left" if head == "method" else "right")
    for method, result in results.items():
        steps = result.steps.double().mean()
        table.add_row(
            method,
            f"{steps:.1f}",
            f"{length / steps:.2f}x",
            f"{result.trace.fed.double().sum() / result.steps.sum():.1f}",
            f"{result.seconds / len(result.images):.2f}",
        )
    return table


def models_table() -> Table:
    """The models: whether they are on disk, grid, the paper's context tokens, defaults, source."""
    from pjd.models.catalogue import CATALOGUE
    from pjd.models.registry import EMOJI, available

    def defaults(sampling: dict[str, float | int]) -> str:
        return ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in sampling.items())

    table = Table(title=f"models in {WEIGHTS}")
    for head in ("name", "on disk", "tokens", "c", "sampling", "from"):
        table.add_column(head, overflow="fold")
    embedded = available()
    for name in reversed(EMOJI):
        side = int(name.removeprefix("emoji-")) // 4
        source = "`dvc pull`, or `make train NAME=" + name + "`"
        described = WEIGHTS / name / "model.json"
        sampling = json.loads(described.read_text())["sampling"] if name in embedded else {}
        on_disk = "yes" if name in embedded else "no"
        table.add_row(name, on_disk, f"{side}x{side}", "4", defaults(sampling), source)
    for name, official in CATALOGUE.items():
        on_disk = "no" if official.missing(WEIGHTS / name) else "yes"
        size = f"{official.rows}x{official.columns}"
        source = f"{official.source}; {official.guide}"
        context, sampling = str(official.context), defaults(official.sampling)
        table.add_row(name, on_disk, size, context, sampling, source)
    return table


def methods_table() -> Table:
    """The methods: name, title, what each does, its knob, and its paper."""
    from pjd.decoder.methods import KNOBS, PRESETS

    table = Table(title="decoding methods")
    for head in ("name", "title", "what it does", "knob", "paper"):
        table.add_column(head, overflow="fold")
    for name, preset in PRESETS.items():
        knob = "" if preset.knob is None else f"{preset.knob} ({KNOBS[preset.knob]})"
        paper = preset.paper if not preset.paper[0].isdigit() else f"arXiv {preset.paper}"
        table.add_row(name, preset.title, preset.summary, knob, paper)
    return table


def doctor_table() -> Table:
    """What was found on this machine, and what will not work, and why."""
    from pjd.doctor import examine

    table = Table(show_header=False)
    for finding in examine():
        mark = "ok" if finding.good else "[bold red]no[/bold red]"
        table.add_row(mark, finding.subject, finding.text)
    return table
