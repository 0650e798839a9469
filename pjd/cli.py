"""The command line. Heavy imports wait until a command needs them."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from pjd.config import ParameterError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Parallel Jacobi Decoding and its relatives, for autoregressive image generators.",
)


def choice(text: str) -> tuple[str, Any]:
    """Name and typed value of a ``name=value``.

    Raises:
        ParameterError: if there is no such pair.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ParameterError("--set", text, "must be name=value, such as stand_in=above")
    return name.replace("-", "_"), yaml.safe_load(value)


@app.command()
def generate(
    prompts: Annotated[list[str], typer.Argument(help="One caption an image.")],
    model: Annotated[str, typer.Option(help="A model's name or folder.")] = "emoji",
    method: Annotated[str, typer.Option(help="A decoder: ar, sjd, pjd, ...")] = "pjd",
    context: Annotated[int | None, typer.Option(help="Codes the row above must have.")] = None,
    window: Annotated[int | None, typer.Option(help="Positions predicted a row.")] = None,
    rows: Annotated[int | None, typer.Option(help="Most rows active at once.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale, 1 = off.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Likeliest codes kept, 0 = all.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Probability kept, 1 = all.")] = None,
    seed: Annotated[int, typer.Option(help="Of the first image.")] = 0,
    choices: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another option of the decoder: name=value; repeatable."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the PNGs.")] = Path(
        "out"
    ),
) -> None:
    """Generate one image a prompt."""
    from pjd.methods import configure
    from pjd.models.registry import resolve

    options = {
        **dict(map(choice, choices or [])),
        "context": context,
        "window": window,
        "rows": rows,
        "guidance": guidance,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
    }
    # Whatever is wrong fails here, before torch is imported and a model is loaded.
    configure(method, **options)
    resolve(model)
    from pjd.generation import generate as run
    from pjd.models.registry import load

    result = run(load(model), prompts, method, progress=True, **options)
    output.mkdir(parents=True, exist_ok=True)
    for number, (image, prompt) in enumerate(zip(result.images, prompts, strict=True)):
        path = output / f"{number:04d}-{result.config.digest}.png"
        image.save(path)
        typer.echo(f"{path}: {prompt} ({int(result.steps[number])} steps)")
    typer.echo(f"{result.seconds:.1f} s for {len(prompts)} images")


@app.command()
def verify(
    write: Annotated[
        bool, typer.Option("--write", help="Make this run the one that is expected.")
    ] = False,
) -> None:
    """Compare the main run with the committed results; exit code 1 if a line fails."""
    from pjd.verdict import verify as compare

    lines = compare(write=write)
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


if __name__ == "__main__":
    main()
