"""Which models there are, and how to load one by name."""

from pathlib import Path

from pjd.config import ParameterError
from pjd.models.base import ImageModel
from pjd.paths import WEIGHTS

EMOJI = ("emoji-128", "emoji-96", "emoji-64")
"""The embedded models, best first."""


def available() -> list[str]:
    """Names of the embedded models whose weights are on disk, best first."""
    return [name for name in EMOJI if (WEIGHTS / name / "model.safetensors").exists()]


def resolve(name: str) -> Path:
    """Folder of the model ``name``: "emoji" (the best on disk), an embedded model, or a path.

    Raises:
        ParameterError: if the name is none of these, or no weights are there.
    """
    if name == "emoji":
        best = available()
        if not best:
            raise ParameterError("model", name, f"no weights below {WEIGHTS}: run `dvc pull`")
        name = best[0]
    folder = WEIGHTS / name if name in EMOJI else Path(name)
    if name not in EMOJI and not folder.is_dir():
        names = ", ".join(("emoji", *EMOJI))
        raise ParameterError("model", name, f"must be one of {names}, or the folder of a model")
    if not (folder / "model.safetensors").exists():
        raise ParameterError("model", name, f"no weights in {folder}: run `dvc pull`")
    return folder


def load(name: str = "emoji", device: str = "cpu") -> ImageModel:
    """Load a model by its name or folder; see :func:`resolve`."""
    from pjd.models import emoji

    folder = resolve(name)
    return emoji.load(folder.name, folder).to(device)
