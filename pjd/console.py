"""Input and output of the command line: captions, options, the progress bar, tables."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

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


def read_captions(model: str, prompts: list[str] | None, file: Path | None) -> list[str]:
    """Captions of the command line, then those of a file; or "" for a model that takes none.

    Raises:
        ParameterError: if there are none, or naming one that is blank or not UTF-8.
        FileNotFoundError: if there is no such file.
    """
    from pjd.models.registry import takes_prompts

    listed = list(prompts or [])
    if not takes_prompts(model):
        if listed or file is not None:
            allowed = f"must not be given: {model} takes no prompts; --images says how many"
            raise ParameterError("prompts", listed or str(file), allowed)
        return [""]
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
        checkpoint = official(model)
        return 64 if checkpoint is None else checkpoint.images_together
    check_integer("batch_size", batch_size, 1)
    return batch_size


def check_common(
    model: str,
    prompts: list[str] | None,
    file: Path | None,
    batch_size: int | None,
    device: str | None,
    dtype: str | None,
    quantize: str | None = None,
) -> tuple[int, list[str]]:
    """Check what `generate` and `compare` share, before a model is loaded.

    Returns:
        The batch size, and all captions.

    Raises:
        ParameterError: naming the parameter, its value and what is allowed.
    """
    from pjd.models.registry import check_device, check_dtype, check_quantize, resolve

    together = images_together(model, batch_size)
    check_dtype(dtype)
    check_quantize(quantize, model, dtype)
    check_device(device)
    captions = read_captions(model, prompts, file)
    resolve(model)
    return together, captions


def check_output(folder: Path) -> None:
    """Make the folder and write something into it, before anything is computed.

    What a process that was killed has left half written is removed, if it is an hour old: until
    then it may be another process's.

    Raises:
        ParameterError: if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".partial") as file:
            file.write(bytes(4096))
        for left in folder.glob(".*.partial"):
            if time.time() - left.stat().st_mtime > 3600:
                left.unlink(missing_ok=True)
    except OSError as error:
        allowed = f"must be a folder that can be written ({error.strerror}): name another"
        raise ParameterError("output", str(folder), allowed) from error


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
        length: tokens of an image, of all its grids, which is the number of AR's steps.
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
            f"{result.trace.fed.double().sum() / result.trace.steps.sum():.1f}",
            f"{result.seconds / len(result.images):.2f}",
        )
    return table


def models_table() -> Table:
    """The models: what is on disk or missing, their sizes, licence, defaults and source."""
    from pjd.models.catalogue import CATALOGUE
    from pjd.models.files import faults
    from pjd.models.memory import needs
    from pjd.models.registry import EMOJI, available, embedded_files, embedded_sampling

    named: list[str] = []

    def on_disk(there: bool, wrong: list[str], lacking: str = "no") -> str:
        """The cell of a model; its faults are named below the table."""
        if not there:
            return lacking
        named.extend(wrong)
        return "damaged" if wrong else "yes"

    def defaults(sampling: dict[str, float | int]) -> str:
        return ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in sampling.items())

    table = Table(title=f"models in {WEIGHTS}")
    heads = ("name", "on disk", "tokens", "c", "size", "memory", "licence", "sampling", "from")
    for head in heads:
        table.add_column(head, overflow="fold")
    embedded = available()
    for name in reversed(EMOJI):
        side = int(name.removeprefix("emoji-")) // 4
        source = "`dvc pull`, or `make train NAME=" + name + "`"
        wrong, sampling = faults(embedded_files(WEIGHTS / name)), ""
        if name in embedded and not wrong:
            try:
                sampling = defaults(embedded_sampling(WEIGHTS / name))
            except ValueError as error:
                wrong = [str(error)]
        there = on_disk(name in embedded, wrong)
        grid, size = f"{side}x{side}", in_words(EMOJI[name])
        table.add_row(name, there, grid, "4", size, "1 GiB", "MIT", sampling, source)
    for name, official in CATALOGUE.items():
        folder = WEIGHTS / name
        missing = official.missing(folder)
        lacking = f"lacks {', '.join(missing)}" if folder.is_dir() else "no"
        table.add_row(
            name,
            on_disk(not missing, official.faults(folder), lacking),
            f"{official.rows}x{official.columns}",
            str(official.context),
            in_words(official.parameters),
            f"{ceil(needs(name).total)} GiB, int8 {ceil(needs(name, 'int8').total)}",
            official.licence,
            defaults(official.sampling),
            f"{official.source}; {official.guide}",
        )
    if named:
        table.caption = Text("\n".join(dict.fromkeys(named)))
        table.caption_justify = "left"
    return table


def in_words(parameters: float) -> str:
    """A number of parameters as models are named: 76 M, 1.4 B."""
    millions = parameters / 1e6
    return f"{millions:.3g} M" if millions < 1000 else f"{millions / 1000:.3g} B"


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
