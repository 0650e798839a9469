"""Which models there are, and how to load one by name."""

from importlib import import_module
from pathlib import Path

from pjd.config import ParameterError, check_choice
from pjd.models.base import ImageModel
from pjd.models.catalogue import CATALOGUE
from pjd.paths import WEIGHTS

EMOJI = ("emoji-128", "emoji-96", "emoji-64")
"""The embedded models, best first."""

DTYPES = ("float32", "bfloat16", "float16")


def available() -> list[str]:
    """Names of the embedded models whose weights are on disk, best first."""
    return [name for name in EMOJI if (WEIGHTS / name / "model.safetensors").exists()]


def resolve(name: str) -> Path:
    """Folder of a model: "emoji" (the best on disk), an embedded or an official one, or a path.

    Raises:
        ParameterError: if the name is none of these, or no weights are there.
    """
    if name == "emoji":
        best = available()
        if not best:
            raise ParameterError("model", name, f"no weights below {WEIGHTS}: run `dvc pull`")
        name = best[0]
    if name in CATALOGUE:
        folder = WEIGHTS / name
        if not folder.is_dir():
            guide = CATALOGUE[name].guide
            raise ParameterError(
                "model", name, f"no folder {folder}: {guide} says what belongs there"
            )
        return folder
    folder = WEIGHTS / name if name in EMOJI else Path(name)
    if name not in EMOJI and not folder.is_dir():
        names = ", ".join(("emoji", *EMOJI, *CATALOGUE))
        raise ParameterError("model", name, f"must be one of {names}, or the folder of a model")
    if not (folder / "model.safetensors").exists():
        raise ParameterError("model", name, f"no weights in {folder}: run `dvc pull`")
    return folder


def check_dtype(dtype: str | None) -> None:
    """Raise :class:`ParameterError` unless ``dtype`` is one of :data:`DTYPES`, or None."""
    if dtype is not None:
        check_choice("dtype", dtype, DTYPES)


def load(
    name: str = "emoji", device: str = "cpu", dtype: str | None = None, compiled: bool = False
) -> ImageModel:
    """Load a model.

    Args:
        name: see :func:`resolve`. An official checkpoint lies in ``weights/<name>``.
        device: where it goes.
        dtype: its arithmetic, one of :data:`DTYPES`; None: float32 for an embedded model, bfloat16
            for an official one.
        compiled: see :func:`compile_forward`.

    Raises:
        ParameterError: for an unknown name or dtype, or missing weights.
        FileNotFoundError: if an official checkpoint lacks a file.
        ValueError: if a tensor is missing, unexpected or of another shape.
    """
    folder = resolve(name)
    official = CATALOGUE.get(name)
    check_dtype(dtype)
    import torch

    if official is None:
        from pjd.models import emoji

        model = emoji.load(folder.name, folder).to(device, getattr(torch, dtype or "float32"))
    else:
        beside = {parameter: WEIGHTS / path for parameter, path in official.beside.items()}
        family = import_module(f"pjd.models.{official.family}")
        arithmetic = getattr(torch, dtype or "bfloat16")
        model = family.load(name, folder, **beside, device=device, dtype=arithmetic)
    return compile_forward(model) if compiled else model


def compile_forward(model: ImageModel) -> ImageModel:
    """Let a model's forwards run as compiled graphs, on a GPU captured as CUDA graphs.

    There is one graph for each number of images and of queries; the first forward of each takes
    long, so it pays for many images, or for a large model. Returns the model itself.
    """
    import torch

    # Beyond the limit forwards would run uncompiled without a word.
    torch._dynamo.config.recompile_limit = max(256, torch._dynamo.config.recompile_limit)
    captured = model.device.type == "cuda"
    plain = model.cache
    model.cache = lambda batch, slots: plain(batch, slots).fix()
    model.forward = torch.compile(
        model.forward, dynamic=not captured, mode="reduce-overhead" if captured else None
    )
    return model
