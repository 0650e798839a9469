"""The command line. Heavy imports wait until a command needs them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pjd.decoder.config import DecodeConfig, ParameterError, check_integer

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Parallel Jacobi Decoding and its relatives, for autoregressive image generators.",
)

Prompts = Annotated[list[str] | None, typer.Argument(help="Captions.")]
File = Annotated[
    Path | None, typer.Option("--file", help="More captions: .txt, COCO's .json or Parti's .tsv.")
]
Model = Annotated[
    str, typer.Option(help="A name of `pjd models`, or a folder: an official one has that name.")
]
Images = Annotated[int, typer.Option(help="Images a caption.")]
Seed = Annotated[int, typer.Option(help="Of the first image; one more for each further.")]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale, 1 = off.")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy.")]
TopK = Annotated[int | None, typer.Option(help="Likeliest codes kept, 0 = all.")]
TopP = Annotated[float | None, typer.Option(help="Probability kept, 1 = all.")]
Context = Annotated[int | None, typer.Option(help="Codes the row above must have: the paper's c.")]
Window = Annotated[int | None, typer.Option(help="Positions predicted a row.")]
BatchSize = Annotated[
    int | None,
    typer.Option(help="Images decoded together; 1 for official checkpoints, else 64."),
]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; cuda if there is one.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Compiled = Annotated[
    bool, typer.Option("--compiled", help="Compile the model: slow at first, then faster.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the PNGs.")]
Choices = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another option of the decoder: name=value; repeatable."),
]


def choice(text: str) -> tuple[str, Any]:
    """Name and typed value of a ``name=value``.

    Raises:
        ParameterError: if there is no such pair.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ParameterError("--set", text, "must be name=value, such as stand_in=above")
    return name.replace("-", "_"), yaml.safe_load(value)


def gather(prompts: list[str] | None, file: Path | None) -> list[str]:
    """Captions of the command line, then those of a file; none may be empty.

    Raises:
        ParameterError: if there are none, or naming the one that is no text.
    """
    listed = list(prompts or [])
    if file is not None:
        from pjd.pipeline.prompts import read

        listed += list(read(str(file)).prompt)
    if not listed:
        raise ParameterError("prompts", listed, "give one, or a file of them with --file")
    for prompt in listed:
        if not prompt.strip():
            raise ParameterError("prompt", prompt, "must be a text that is not empty")
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise ParameterError("prompt", prompt, "must be UTF-8") from error
    return listed


def together(model: str, batch_size: int | None) -> int:
    """Images to decode together: as many as asked for, or what suits the model.

    Raises:
        ParameterError: if it is less than 1.
    """
    from pjd.models.registry import official

    if batch_size is None:
        # A second image of an official checkpoint may take gigabytes.
        return 1 if official(model) else 64
    check_integer("batch_size", batch_size, 1)
    return batch_size


@contextmanager
def bar(images: int) -> Iterator[tuple[Callable[[float, int, float], None], Callable[[int], None]]]:
    """One bar for all images of a command, where there is a terminal.

    Yields:
        What to tell of an image on its way, see :data:`pjd.api.Progress`; and what to tell
        how many images are finished, which is all that is known of several workers.
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
        # Else what goes into a file would go to the terminal.
        redirect_stdout=sys.stdout.isatty(),
    ) as shown:
        task = shown.add_task("", total=images, pace="")

        def advance(more: float, steps: int, pace: float) -> None:
            shown.update(task, advance=more, pace=f", {steps} steps, {pace:.1f} codes a step")

        def finish(finished: int) -> None:
            shown.update(task, completed=finished)

        yield advance, finish


def decode(
    name: str,
    prompts: list[str],
    images: int,
    method: str,
    options: dict[str, Any],
    seed: int,
    output: Path,
    **how: Any,
) -> int:
    """Decode what is not in ``output`` yet; returns how many images failed."""
    from pjd.decoder.methods import configure
    from pjd.jobs import plan, run, save

    config: DecodeConfig = configure(method, **options, seed=seed)
    jobs = plan(prompts, images, name, config)
    missing = [job for job in jobs if not (output / job.name).exists()]
    if len(missing) < len(jobs):
        typer.echo(f"{len(jobs) - len(missing)} of {len(jobs)} images are in {output} already")
    if not missing:
        return 0
    finished = failed = 0
    with bar(len(missing)) as (advance, finish):
        for done, result in run(name, missing, method, options, progress=advance, **how):
            finished += len(done)
            finish(finished)
            if isinstance(result, Exception):
                failed += len(done)
                for job in done:
                    reason = (str(result) or type(result).__name__).splitlines()[0]
                    typer.echo(f"pjd: image {job.number} ({job.prompt[:60]!r}): {reason}", err=True)
                continue
            output.mkdir(parents=True, exist_ok=True)
            save(output, done, result, name)
            for index, job in enumerate(done):
                caption = " ".join(job.prompt.split())
                typer.echo(f"{output / job.name}: {caption} ({int(result.steps[index])} steps)")
    return failed


@app.command()
def generate(
    prompts: Prompts = None,
    file: File = None,
    model: Model = "emoji",
    method: Annotated[str, typer.Option(help="A decoder: ar, sjd, pjd, ...")] = "pjd",
    images: Images = 1,
    context: Context = None,
    window: Window = None,
    rows: Annotated[int | None, typer.Option(help="Most rows active at once.")] = None,
    guidance: Guidance = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = 0,
    choices: Choices = None,
    batch_size: BatchSize = None,
    workers: Annotated[int, typer.Option(help="Processes; more than one need Ray.")] = 1,
    device: Device = None,
    dtype: Dtype = None,
    compiled: Compiled = False,
    output: Output = Path("out"),
) -> None:
    """Generate images. What is in the folder already is not made again."""
    from pjd.decoder.methods import configure
    from pjd.models.registry import check_device, check_dtype, choose_device, resolve

    options = {
        **dict(map(choice, choices or [])),
        "context": context,
        "window": window,
        "rows": rows,
        "guidance": guidance,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
    }
    # Whatever is wrong fails here, before torch is imported and a model is loaded.
    configure(method, **options, seed=seed)
    for name, value in (("images", images), ("workers", workers)):
        check_integer(name, value, 1)
    batch_size = together(model, batch_size)
    check_dtype(dtype)
    check_device(device)
    listed = gather(prompts, file)
    name = resolve(model).name if model == "emoji" else model
    resolve(name)
    if workers == 1 or device is None:
        # Else it is Ray that knows the GPUs: they may be on other machines.
        device = choose_device(device)
    failed = decode(
        name,
        listed,
        images,
        method,
        options,
        seed,
        output,
        batch_size=batch_size,
        workers=workers,
        device=device,
        dtype=dtype,
        compiled=compiled,
    )
    if failed:
        raise typer.Exit(1)


@app.command()
def compare(
    prompts: Prompts = None,
    file: File = None,
    model: Model = "emoji",
    methods: Annotated[str, typer.Option(help="Decoders, by commas.")] = "ar,sjd,pjd",
    context: Context = None,
    guidance: Guidance = None,
    temperature: Temperature = None,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    device: Device = None,
    dtype: Dtype = None,
    compiled: Compiled = False,
    output: Output = Path("out"),
) -> None:
    """Decode the same captions and seeds by several methods: a table, and comparison.png."""
    from pjd.decoder.methods import configure
    from pjd.models.registry import check_device, check_dtype, choose_device, resolve

    asked = {"guidance": guidance, "temperature": temperature, "seed": seed}
    options = {}
    for method in methods.split(","):
        rows = configure(method).view == "rows"
        options[method] = {**asked, "context": context if rows else None}
        configure(method, **options[method])
    batch_size = together(model, batch_size)
    check_dtype(dtype)
    check_device(device)
    listed = gather(prompts, file)
    resolve(model)
    device = choose_device(device)
    from pjd.api import generate as run
    from pjd.models.registry import load

    loaded = load(model, device, dtype, compiled)
    results = {}
    with bar(len(options) * len(listed)) as (advance, _):
        for method, chosen in options.items():
            results[method] = run(
                loaded, listed, method, batch_size=batch_size, progress=advance, **chosen
            )
    from pjd.pipeline.figures import image_rows, style

    style()
    figure = image_rows(
        {method: result.images for method, result in results.items()},
        listed,
        {m: [f"{int(steps)} steps" for steps in result.steps] for m, result in results.items()},
    )
    output.mkdir(parents=True, exist_ok=True)
    figure.savefig(output / "comparison.png", dpi=150)
    table = Table(title=f"{loaded.name}, {len(listed)} images, seed {seed}, {device}")
    for head in ("method", "steps", "compression", "codes a forward fed", "seconds an image"):
        table.add_column(head, justify="left" if head == "method" else "right")
    for method, result in results.items():
        steps = result.steps.double().mean()
        table.add_row(
            method,
            f"{steps:.1f}",
            f"{loaded.grid.length / steps:.2f}x",
            f"{result.trace.fed.double().sum() / result.steps.sum():.1f}",
            f"{result.seconds / len(listed):.2f}",
        )
    Console().print(table)
    typer.echo(output / "comparison.png")


@app.command()
def models() -> None:
    """List the models: what is on disk, grid, the paper's context tokens, defaults, and source."""
    import json

    from pjd.models.catalogue import CATALOGUE
    from pjd.models.registry import EMOJI, available
    from pjd.paths import WEIGHTS

    def defaults(sampling: dict[str, float | int]) -> str:
        return ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in sampling.items())

    table = Table(title=f"models in {WEIGHTS}")
    for head in ("name", "on disk", "codes", "c", "sampling", "from"):
        table.add_column(head, overflow="fold")
    there = available()
    for name in reversed(EMOJI):
        side = int(name.removeprefix("emoji-")) // 4
        source = "`dvc pull`, or `make train NAME=" + name + "`"
        described = WEIGHTS / name / "model.json"
        sampling = json.loads(described.read_text())["sampling"] if name in there else {}
        on_disk = "yes" if name in there else "no"
        table.add_row(name, on_disk, f"{side}x{side}", "4", defaults(sampling), source)
    for name, official in CATALOGUE.items():
        on_disk = "no" if official.missing(WEIGHTS / name) else "yes"
        size = f"{official.rows}x{official.columns}"
        source = f"{official.source}; {official.guide}"
        context, sampling = str(official.context), defaults(official.sampling)
        table.add_row(name, on_disk, size, context, sampling, source)
    Console().print(table)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A .pt, .pth or .ckpt file, or a folder.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
) -> None:
    """Write an official checkpoint's tensors, read without running its code, as safetensors."""
    if target.suffix != ".safetensors" or target.exists():
        raise ParameterError("target", str(target), "must be a new file that ends in .safetensors")
    from safetensors.torch import save_file

    from pjd.models.checkpoint import read

    tensors = {name: value.clone().contiguous() for name, value in read(source).items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    save_file(tensors, partial)
    partial.replace(target)
    size = sum(value.nbytes for value in tensors.values()) / 2**30
    typer.echo(f"{target}: {len(tensors)} tensors, {size:.2f} GiB")


@app.command()
def doctor() -> None:
    """Say what is here: versions, GPUs, memory, weights; and what will not work, and why."""
    from pjd.doctor import examine

    table = Table(show_header=False)
    findings = examine()
    for finding in findings:
        mark = "ok" if finding.good else "[bold red]no[/bold red]"
        table.add_row(mark, finding.subject, finding.text)
    Console().print(table)


@app.command()
def profile(
    name: Annotated[str, typer.Argument(help="A file of profiles/: paper, smoke.")],
) -> None:
    """Lay a profile over params.yaml; `git checkout params.yaml` takes it back."""
    from pjd.paths import ROOT
    from pjd.pipeline.runs import lay_over

    keys = lay_over(ROOT / "profiles" / f"{name}.yaml", ROOT / "params.yaml")
    print(f"params.yaml has the profile {name} now: {', '.join(keys)}")


@app.command()
def verify(
    write: Annotated[
        bool, typer.Option("--write", help="Make this run the one that is expected.")
    ] = False,
) -> None:
    """Compare the main run with the committed results; exit code 1 if a line fails."""
    from pjd.pipeline.reproduction import verify as compare_lines

    lines = compare_lines(write=write)
    typer.echo(lines.to_string(index=False))
    failed = int((lines.verdict != "as expected").sum())
    typer.echo(f"{len(lines) - failed} of {len(lines)} lines as expected")
    if failed:
        raise typer.Exit(1)


def main() -> None:
    """Run the command line; what a user can mend is one line on stderr and exit code 2."""
    try:
        app()
    except (ParameterError, FileNotFoundError) as error:
        print(f"pjd: {error}", file=sys.stderr)
        sys.exit(2)
    except ValueError as error:
        print(f"pjd: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"pjd: {error}. What is finished stays: mend this, run it again", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
