"""The folder of an embedded model: its files, and what its description says, without torch."""

from pathlib import Path

from pjd.models.files import read_json

EMBEDDED_FILES = ("model.json", "model.safetensors")
"""Files of an embedded model."""


def embedded_in(folder: Path) -> bool:
    """Whether ``folder`` has an embedded model, or one that was trained in the same way."""
    return all((folder / file).exists() for file in EMBEDDED_FILES)


def embedded_files(folder: Path) -> list[Path]:
    """The files of the embedded model in ``folder``, as far as they are there."""
    return [folder / file for file in EMBEDDED_FILES if (folder / file).exists()]


def embedded_sampling(folder: Path) -> dict[str, float | int]:
    """The defaults that the embedded model in ``folder`` has in its ``model.json``.

    Raises:
        ValueError: if the file is damaged, or has none.
    """
    sampling = read_json(folder / "model.json").get("sampling")
    if not isinstance(sampling, dict):
        raise ValueError(f"{folder / 'model.json'} has no sampling: run `dvc pull`")
    return sampling


def embedded_sizes(folder: Path) -> tuple[int, int]:
    """Rows, which are as many as columns, and codes of the embedded model in ``folder``.

    Raises:
        ValueError: if ``model.json`` is damaged, or does not say them.
    """
    file = folder / "model.json"
    transformer = read_json(file).get("transformer", {})
    for name in ("grid", "vocabulary"):
        if not isinstance(transformer.get(name), int):
            raise ValueError(f"{file} has no {name}: run `dvc pull`")
    return transformer["grid"], transformer["vocabulary"]
