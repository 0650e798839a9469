"""Input and output of the command line: captions, options, the progress bar, tables."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pjd.errors import ParameterError, check_choice, check_integer, check_prompts
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
    from pjd.models.options import check_quantize
    from pjd.models.registry import check_device, check_dtype, default_dtype, resolve

    together = images_together(model, batch_size)
    check_dtype(dtype)
    check_quantize(quantize, dtype or default_dtype(model))
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


def models_table(width: int) -> Table:
    """The models: what is on disk, sizes and licences.

    Args:
        width: of the terminal, in columns; from 80 on it shows licences, from 120 defaults too.
    """
    from pjd.models.listed import model_rows

    rows = model_rows()
    table = Table(title=f"models in {WEIGHTS}", caption_justify="left")
    for head in ("name", "on disk", "tokens", "c", "size", "memory"):
        table.add_column(head, no_wrap=True)
    # What folds is left out before a name would be cut.
    folding = [head for head, least in (("licence", 80), ("sampling", 120)) if width >= least]
    for head in folding:
        table.add_column(head, overflow="fold")
    for row in rows:
        cells = [*map(str, row[:7]), in_line(row.sampling)]
        table.add_row(*cells[: 6 + len(folding)])
    faults = dict.fromkeys(fault for row in rows for fault in row.faults)
    more = "`pjd models NAME` says where to get one, and its defaults."
    table.caption = Text("\n".join([*faults, more]))
    return table


def model_table(name: str) -> Table:
    """All about one model.

    Args:
        name: of a model that ships, or of an official checkpoint; or "emoji".

    Raises:
        ParameterError: if there is none of this name.
    """
    from pjd.models.catalogue import CATALOGUE
    from pjd.models.listed import embedded_row, official_row
    from pjd.models.registry import EMOJI, resolve

    # What `pjd.load` takes for the best that is on disk.
    name = resolve(name).name if name == "emoji" else name
    check_choice("model", name, (*reversed(EMOJI), *CATALOGUE))
    row = embedded_row(name) if name in EMOJI else official_row(name)
    table = Table(show_header=False, title=name)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for head, text in (
        ("on disk", "\n".join([row.on_disk, *row.faults])),
        ("tokens", row.tokens),
        ("context tokens", f"c = {row.context}"),
        ("parameters", row.size),
        ("memory", row.needs),
        ("sampling", in_line(row.sampling)),
        ("licence", row.licence),
        ("from", row.source),
    ):
        table.add_row(head, Text(text))
    return table


def in_line(sampling: dict[str, float | int]) -> str:
    """A model's own defaults in one line."""
    return ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in sampling.items())


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
        # As text: rich would take the name in "pjd[ray]" for a style.
        table.add_row(mark, Text(finding.subject), Text(finding.text))
    return table
