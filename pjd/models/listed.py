"""All models as a list shows them, without loading any."""

from math import ceil
from typing import NamedTuple

from pjd.models.catalogue import CATALOGUE
from pjd.models.embedded import embedded_files, embedded_sampling
from pjd.models.files import faults
from pjd.models.memory import needs
from pjd.models.registry import EMOJI, available
from pjd.paths import WEIGHTS


class ModelRow(NamedTuple):
    """What is known of a model without loading it.

    Attributes:
        name: as ``--model`` takes it.
        on_disk: yes, no, incomplete or damaged.
        tokens: rows and columns of codes.
        context: context tokens of the paper, or our own.
        size: parameters of the transformer.
        memory: that one image at a time needs, rounded up.
        licence: of the weights.
        sampling: the model's own defaults.
        source: where to get it.
        faults: what its files lack, and what is wrong with them.
        needs: the memory in parts, and in 8 bits.
    """

    name: str
    on_disk: str
    tokens: str
    context: int
    size: str
    memory: str
    licence: str
    sampling: dict[str, float | int]
    source: str
    faults: list[str]
    needs: str


def embedded_row(name: str) -> ModelRow:
    """The row of an embedded model."""
    there = name in available()
    wrong: list[str] = faults(embedded_files(WEIGHTS / name)) if there else []
    sampling: dict[str, float | int] = {}
    if there and not wrong:
        try:
            sampling = embedded_sampling(WEIGHTS / name)
        except ValueError as error:
            wrong = [str(error)]
    on_disk = ("damaged" if wrong else "yes") if there else "no"
    side = int(name.removeprefix("emoji-")) // 4
    source = f"`dvc pull`, or `make train NAME={name}`"
    sizes = f"{side}x{side}", 4, in_words(EMOJI[name]), "1 GiB"
    return ModelRow(name, on_disk, *sizes, "MIT", sampling, source, wrong, "1 GiB")


def official_row(name: str) -> ModelRow:
    """The row of an official checkpoint."""
    official, folder, plain = CATALOGUE[name], WEIGHTS / name, needs(name)
    on_disk, wrong = "no", []
    if folder.is_dir():
        missing, wrong = official.missing(folder), official.faults(folder)
        on_disk = "incomplete" if missing else "damaged" if wrong else "yes"
        if missing:
            wrong = [f"{folder} lacks {', '.join(missing)}: {official.guide}", *wrong]
    return ModelRow(
        name,
        on_disk,
        f"{official.rows}x{official.columns}",
        official.context,
        in_words(official.parameters),
        f"{ceil(plain.total)} GiB",
        official.licence,
        official.sampling,
        f"{official.source}; files: {official.guide}",
        wrong,
        f"{plain}; with --quantize int8 {needs(name, 'int8')}",
    )


def model_rows() -> list[ModelRow]:
    """All models, the embedded ones first."""
    return [*map(embedded_row, reversed(EMOJI)), *map(official_row, CATALOGUE)]


def in_words(parameters: float) -> str:
    """A number of parameters as models are named: 76 M, 1.4 B."""
    millions = parameters / 1e6
    return f"{millions:.3g} M" if millions < 1000 else f"{millions / 1000:.3g} B"
