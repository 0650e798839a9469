"""What `make reproduce` shows after the first runs: some of their pictures, a row per run."""

from pjd.models.registry import load
from pjd.paths import RUNS, replacing
from pjd.pipeline.figures import compared, first_of_groups, style
from pjd.pipeline.files import read_run
from pjd.pipeline.params import parameters
from pjd.pipeline.reproduce import FIRST_PICTURES


def draw(runs: list[str]) -> None:
    """Draw eight pictures of each of ``runs``, with steps; the first run's model draws all."""
    style()
    first = read_run(RUNS / runs[0])
    figure = compared(load(first.model), runs, first_of_groups(first.images, 8))
    FIRST_PICTURES.parent.mkdir(parents=True, exist_ok=True)
    with replacing(FIRST_PICTURES) as partial:
        figure.savefig(partial, format="png", bbox_inches="tight")


if __name__ == "__main__":
    draw(parameters()["first_pictures"])
