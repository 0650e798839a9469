"""Commands around checkpoints and results: convert, doctor, profile, verify, audit, export."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pjd.console import check_output, doctor_table, images_together
from pjd.errors import ParameterError
from pjd.paths import ROOT


def convert(
    source: Annotated[Path, typer.Argument(help="A .pt, .pth or .ckpt file, or a folder.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.")],
) -> None:
    """Convert an official checkpoint to safetensors, without running code that it may contain."""
    if target.suffix != ".safetensors" or target.exists():
        raise ParameterError("target", str(target), "must be a new file that ends in .safetensors")
    from pjd.models import checkpoint

    check_output(target.parent)
    typer.echo(f"{target}: {checkpoint.convert(source, target)}")


def doctor() -> None:
    """Show versions, GPUs, memory and weights, and say what will not work, and why."""
    Console().print(doctor_table())


def profile(
    name: Annotated[str, typer.Argument(help="A file in profiles/: paper, smoke.")],
) -> None:
    """Write a profile into params.yaml; `git checkout params.yaml` undoes it.

    It is refused where params.yaml has edits that are not committed, such as another profile.
    """
    from pjd.pipeline.params import keep_edits, lay_over

    parameters = ROOT / "params.yaml"
    copy = keep_edits(parameters)
    try:
        keys = lay_over(ROOT / "profiles" / f"{name}.yaml", parameters)
    except (ValueError, OSError):
        # Nothing was replaced, so there is nothing to keep.
        if copy is not None:
            copy.unlink()
        raise
    print(f"params.yaml has the profile {name} now: {', '.join(keys)}")
    if copy is not None:
        print(f"what it was is kept in {copy}, for git does not know it")


def verify(
    write: Annotated[
        bool, typer.Option("--write", help="Take this run as the expected results.")
    ] = False,
) -> None:
    """Compare the main run with the committed results; exit code 1 if a line fails."""
    from pjd.pipeline.expected import check_reproduction

    lines = check_reproduction(write=write)
    typer.echo(lines.to_string(index=False))
    failed = int((lines.verdict != "as expected").sum())
    typer.echo(f"{len(lines) - failed} of {len(lines)} lines as expected")
    if failed:
        raise typer.Exit(1)


def audit(
    run: Annotated[str, typer.Argument(help="A folder below runs/, such as jacobi.")],
    dtype: Annotated[
        str | None, typer.Option(help="Of plain AR; the run's own if it is left out.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    batch_size: Annotated[int, typer.Option(help="Images per forward pass.")] = 8,
    images: Annotated[
        int | None, typer.Option(help="Only the first ones; all if not given.")
    ] = None,
) -> None:
    """Say how many of a run's codes plain AR draws too, with the same noise."""
    from pjd.models.registry import choose_device
    from pjd.pipeline.audit import audit_run

    found = audit_run(run, dtype, choose_device(device), batch_size, images)
    typer.echo(f"{found['equal']:.4%} of {found['codes']:.0f} codes are AR's own draw")
    if found["equal"] < 1:
        typer.echo(
            f"of the others {found['near_ties']:.1%} are near-ties; the largest miss is "
            f"{found['largest_miss']:.3f} nats"
        )


def export(
    run: Annotated[str, typer.Argument(help="A folder below runs/, such as pjd-4.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")],
    layout: Annotated[
        str, typer.Option(help="flat: images/00000.png; geneval: 00000/samples/0000.png.")
    ] = "flat",
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images decoded together; 64, or 1 to 8 for official checkpoints."),
    ] = None,
) -> None:
    """Write a run's pictures with prompts and seeds, for measures of other environments."""
    from pjd.models.registry import choose_device
    from pjd.pipeline.export import plan, write

    planned, device = plan(run, layout), choose_device(device)
    together = images_together(planned.model, batch_size)
    check_output(output)
    made = write(planned, output, device, together)
    count = len(planned.records)
    typer.echo(f"{output}: {count} pictures, {made} of them made now; metadata.jsonl says which")
