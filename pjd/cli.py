"""The command line. Heavy imports wait until a command needs them."""

import io
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pjd.console import (
    check_common,
    check_output,
    comparison_table,
    methods_table,
    model_table,
    models_table,
    parse_option,
    progress_bar,
)
from pjd.decoder.config import DecodeConfig
from pjd.decoder.methods import combine
from pjd.errors import ParameterError, check_integer
from pjd.paths import replacing
from pjd.pipeline.notebook import PATIENT
from pjd.upkeep import audit, convert, doctor, export, profile, verify

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Parallel Jacobi Decoding and its relatives, for autoregressive image generators.",
)

Prompts = Annotated[
    list[str] | None, typer.Argument(help="Captions; none for a model that takes none.")
]
File = Annotated[
    Path | None, typer.Option("--file", help="More captions: .txt, COCO's .json or Parti's .tsv.")
]
Model = Annotated[
    str, typer.Option(help="A name in `pjd models`, or a folder; an official model's has its name.")
]
Images = Annotated[int, typer.Option(help="Images per caption.")]
Seed = Annotated[
    int | None, typer.Option(help="Seed of the first image, 0 if not given; image i has it plus i.")
]
Guidance = Annotated[float | None, typer.Option(help="Scale of classifier-free guidance, 1 = off.")]
Temperature = Annotated[float | None, typer.Option(help="Temperature, 0 = greedy.")]
TopK = Annotated[int | None, typer.Option(help="Sample among the k likeliest tokens, 0 = all.")]
TopP = Annotated[
    float | None,
    typer.Option(help="Sample among the likeliest of this total probability, 1 = all."),
]
MinP = Annotated[
    float | None,
    typer.Option(help="Sample among those with this share of the likeliest's chance, 0 = all."),
]
Context = Annotated[
    int | None, typer.Option(help="Context tokens c: how many the row above must have.")
]
Window = Annotated[int | None, typer.Option(help="Positions predicted per row and forward pass.")]
BatchSize = Annotated[
    int | None,
    typer.Option(help="Images decoded together; 64, or 1 to 8 for official checkpoints."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps; cuda if there is one.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.")]
Quantize = Annotated[
    str | None,
    typer.Option(help="int8: weights in 8 bits, to save memory; other images."),
]
Compiled = Annotated[
    bool | None, typer.Option(help="Slow at first, then faster; default: if it most likely pays.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the PNGs.")]
Choices = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another option of the decoder, as name=value; repeatable."),
]


def decode(
    name: str,
    prompts: list[str],
    images: int,
    config: DecodeConfig,
    output: Path,
    **how: Any,
) -> int:
    """Decode the images that are not in ``output`` yet; returns the number that failed."""
    from pjd.jobs import circumstances, is_made, origin, plan, run, save

    jobs = plan(prompts, images, origin(name, how["dtype"], how["quantize"]), config)
    missing = [job for job in jobs if not is_made(output, job)]
    if len(missing) < len(jobs):
        typer.echo(f"{len(jobs) - len(missing)} of {len(jobs)} images are in {output} already")
    if not missing:
        return 0
    check_output(output)
    damaged = [job.name for job in missing if (output / job.name).exists()]
    if damaged:
        typer.echo(f"made again, since the files are damaged: {', '.join(damaged)}")
    finished = failed = 0
    with progress_bar(len(missing)) as (advance, finish):
        for done, result in run(name, missing, config, progress=advance, **how):
            finished += len(done)
            finish(finished)
            if isinstance(result, Exception):
                failed += len(done)
                for job in done:
                    reason = (str(result) or type(result).__name__).splitlines()[0]
                    typer.echo(f"pjd: image {job.number} ({job.prompt[:60]!r}): {reason}", err=True)
                continue
            save(output, done, result, circumstances(how, len(done)))
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
    rows: Annotated[int | None, typer.Option(help="Most rows that are active at once.")] = None,
    guidance: Guidance = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    seed: Seed = None,
    choices: Choices = None,
    batch_size: BatchSize = None,
    workers: Annotated[int, typer.Option(help="Processes; more than one needs Ray.")] = 1,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    compiled: Compiled = None,
    output: Output = Path("out"),
) -> None:
    """Generate images. Those that are in the folder already are not made again."""
    from pjd.models.registry import choose_compiled, choose_device, configure_for, resolve

    name = resolve(model).name if model == "emoji" else model
    flags = {"context": context, "window": window, "rows": rows, "seed": seed, "top_k": top_k}
    drawn = {"guidance": guidance, "temperature": temperature, "top_p": top_p, "min_p": min_p}
    options = combine(flags, drawn, *map(parse_option, choices or []))
    # Wrong options fail here, before torch is imported and a model is loaded.
    config = configure_for(name, method, **options)
    check_integer("images", images, 1, 1_000_000)
    check_integer("workers", workers, 1, 1024)
    batch_size, captions = check_common(name, prompts, file, batch_size, device, dtype, quantize)
    if workers == 1 or device is None:
        # Several workers may be on other machines, whose GPUs only Ray knows.
        device = choose_device(device)
    failed = decode(
        name,
        captions,
        images,
        config,
        output,
        batch_size=batch_size,
        workers=workers,
        device=device,
        dtype=dtype,
        quantize=quantize,
        compiled=choose_compiled(compiled, name, device, images * len(captions)),
    )
    if failed:
        raise typer.Exit(1)


@app.command()
def compare(
    prompts: Prompts = None,
    file: File = None,
    model: Model = "emoji",
    methods: Annotated[str, typer.Option(help="Decoders, separated by commas.")] = "ar,sjd,pjd",
    images: Images = 1,
    context: Context = None,
    guidance: Guidance = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    seed: Seed = None,
    batch_size: BatchSize = None,
    device: Device = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    compiled: Compiled = None,
    output: Output = Path("out"),
) -> None:
    """Decode the same captions and seeds by several methods; show a table, write a picture."""
    from pjd.models.registry import choose_compiled, choose_device, load
    from pjd.pipeline.comparison import configurations, picture, title

    sampling = {"guidance": guidance, "temperature": temperature, "top_k": top_k}
    configs = configurations(model, methods, context, seed=seed, **sampling)
    batch_size, captions = check_common(model, prompts, file, batch_size, device, dtype, quantize)
    check_integer("images", images, 1, 10_000)
    captions = [caption for caption in captions for _ in range(images)]
    device = choose_device(device)
    check_output(output)
    from pjd.api import check_fit, check_seed_range
    from pjd.api import decode as run
    from pjd.decoder.grids import tokens_of
    from pjd.jobs import digest, origin

    check_seed_range(seed or 0, len(captions))
    made_from = origin(model, dtype, quantize)
    compiles = choose_compiled(compiled, model, device, len(captions))
    loaded = load(model, device, dtype, compiles, quantize)
    for config in configs.values():
        check_fit(config, loaded)
    results = {}
    with progress_bar(len(configs) * len(captions)) as (advance, _):
        for method, config in configs.items():
            results[method] = run(loaded, captions, config, batch_size=batch_size, progress=advance)
    precision = " in ".join(filter(None, (quantize, made_from["dtype"])))
    told = {"seed": seed or 0, "context": context, **sampling}
    name = title(loaded.name, precision, device, len(captions), told)
    record = {**made_from, "prompts": captions, "configs": [c.as_dict() for c in configs.values()]}
    written = output / f"comparison-{digest(record)}.png"
    with replacing(written) as partial:
        picture(results, captions, name).savefig(partial, dpi=150, format="png")
    Console().print(comparison_table(results, name, tokens_of(loaded)))
    typer.echo(written)


@app.command()
def models(
    name: Annotated[str | None, typer.Argument(help="One of them: all about it.")] = None,
) -> None:
    """List the models: what is on disk or missing, sizes, licence; of one, defaults and source."""
    console = Console()
    console.print(models_table(console.width) if name is None else model_table(name))


@app.command()
def methods() -> None:
    """List the decoding methods: what each does, the option it is swept over, and its paper."""
    Console().print(methods_table())


for command in (convert, doctor, profile, verify, audit, export):
    app.command()(command)


def main() -> None:
    """Run the command line; an error that a user can fix is one line on stderr, as a warning is."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a caption must not lose the images after it.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for name, value in PATIENT.items():
        os.environ.setdefault(name, value)
    warnings.showwarning = lambda message, *_: print(f"pjd: {message}", file=sys.stderr)
    try:
        app()
    except (ParameterError, FileNotFoundError) as error:
        print(f"pjd: {error}", file=sys.stderr)
        sys.exit(2)
    except ValueError as error:
        print(f"pjd: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"pjd: {error}. What is finished stays: fix this and run it again", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
