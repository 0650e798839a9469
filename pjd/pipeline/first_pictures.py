"""What `make reproduce` shows after the first runs: some of their pictures, a row per run."""

from pathlib import Path

from pjd.models.registry import load
from pjd.paths import REPORTS, RUNS, replacing
from pjd.pipeline.figures import compared, first_of_groups, style
from pjd.pipeline.files import read_run
from pjd.pipeline.params import parameters

PICTURES = REPORTS / "first_pictures.png"


def draw(runs: list[str], path: Path = PICTURES) -> None:
    """Draw eight pictures of each of ``runs``, with their steps.

    Args:
        runs: decoded by the model of the first one.
        path: of the PNG.
    """
    style()
    first = read_run(RUNS / runs[0])
    figure = compared(load(first.model), runs, first_of_groups(first.images, 8))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", bbox_inches="tight")


if __name__ == "__main__":
    draw(parameters()["first_pictures"])
