"""The models by name: where their weights are, their defaults, and how to load them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pjd.decoder.config import DecodeConfig
from pjd.decoder.methods import configure
from pjd.errors import ParameterError, check_choice, check_text, no_grid_before, no_guidance
from pjd.models.catalogue import CATALOGUE, Checkpoint
from pjd.models.embedded import embedded_files, embedded_in, embedded_sampling, embedded_sizes
from pjd.models.files import faults, identity
from pjd.models.options import check_quantize
from pjd.paths import WEIGHTS

if TYPE_CHECKING:
    # It imports torch, which the command line must not wait for.
    from pjd.decoder.model import ImageModel

EMOJI = {"emoji-128": 16.0e6, "emoji-96": 4.5e6, "emoji-64": 4.5e6}
"""The embedded models, best first, and parameters of their transformers."""

DEVICES = ("cpu", "cuda", "mps")
DTYPES = ("float32", "bfloat16", "float16")


def available() -> list[str]:
    """Names of the embedded models that are on disk, best first."""
    return [name for name in EMOJI if embedded_in(WEIGHTS / name)]


def official(name: str) -> Checkpoint | None:
    """The official checkpoint of this name, or of a folder of this name, or None."""
    return CATALOGUE.get(named(name).name)


def named(name: str) -> Path:
    """The path ``name``, with the folder's own name at its end even if that is written ``.``."""
    path = Path(name)
    # Not for others: a path stays as it was written, also one that goes through a link.
    return path if path.name not in ("", "..") else path.resolve()


def resolve(name: str) -> Path:
    """The folder of a model.

    Args:
        name: "emoji" (the best embedded model on disk), a folder of ``weights/``, or a path.

    Raises:
        ParameterError: if the name is none of these, or if there are no weights.
    """
    check_text("model", name)
    if name == "emoji":
        best = available()
        if not best:
            raise ParameterError("model", name, f"no weights below {WEIGHTS}: run `dvc pull`")
        name = best[0]
    embedded, checkpoint = name in EMOJI or embedded_in(WEIGHTS / name), official(name)
    folder = WEIGHTS / name if embedded or name in CATALOGUE else named(name)
    if checkpoint is not None:
        if not folder.is_dir():
            allowed = f"no folder {folder}: {checkpoint.guide} says what belongs there"
            raise ParameterError("model", name, allowed)
        return folder
    if not embedded and not folder.is_dir():
        names = ", ".join(("emoji", *EMOJI, *CATALOGUE))
        raise ParameterError("model", name, f"must be one of {names}, or the folder of a model")
    if not embedded_in(folder):
        advice = "the folder of an official checkpoint must have its name in `pjd models`"
        advice = "run `dvc pull`" if embedded else advice
        raise ParameterError("model", name, f"no model.json and weights in {folder}: {advice}")
    return folder


def adapter(name: str) -> str:
    """The module of ``pjd.models`` that loads the model ``name``."""
    checkpoint = official(name)
    return "emoji" if checkpoint is None else checkpoint.family


def configure_for(name: str, method: str, **options: Any) -> DecodeConfig:
    """The configuration of ``method`` on the model ``name``, before the model is loaded.

    Args:
        name: see :func:`resolve`.
        method: a key of :data:`pjd.decoder.methods.PRESETS`.
        options: of :class:`pjd.decoder.config.DecodeConfig`. An option that is not given, or is
            None, has the model's own default or, if it has none, the method's.

    Raises:
        ParameterError: for an unknown model, method or option, or a value outside its range, or
            that is known not to fit the model.
    """
    given = {key: value for key, value in options.items() if value is not None}
    checkpoint = official(name)
    if checkpoint is not None and not checkpoint.takes_guidance and given.get("guidance", 1) != 1:
        raise no_guidance(name, given["guidance"])
    if given.get("initial") == "preview" and (checkpoint is None or checkpoint.grids == 1):
        raise no_grid_before("initial", "preview", name)
    sizes = sizes_of(name)
    sampling = default_sampling(name)
    config = configure(method, columns=sizes.columns, **{**sampling, **given})
    config.check_sizes(sizes.vocabulary, sizes.rows, sizes.length)
    return config


class Sizes(NamedTuple):
    """What is known of a model before it is loaded.

    Attributes:
        rows: of its largest grid.
        columns: codes per row.
        length: tokens of its largest grid; None: not known, there may be row-end tokens.
        vocabulary: number of codes; None: not known.
    """

    rows: int
    columns: int
    length: int | None = None
    vocabulary: int | None = None


def sizes_of(name: str) -> Sizes:
    """The sizes of a model, without loading it; see :func:`resolve`.

    Raises:
        ParameterError: if there is no such model.
        ValueError: if its description is damaged.
    """
    checkpoint = official(name)
    if checkpoint is not None:
        return Sizes(checkpoint.rows, checkpoint.columns)
    side, vocabulary = embedded_sizes(resolve(name))
    return Sizes(side, side, side * side, vocabulary)


def default_sampling(name: str) -> dict[str, float | int]:
    """The model's own defaults for options of a decoder, without loading it; see :func:`resolve`.

    Raises:
        ParameterError: if there is no such model.
        ValueError: if its description is damaged.
    """
    checkpoint = official(name)
    if checkpoint is not None:
        return checkpoint.sampling
    return embedded_sampling(resolve(name))


def takes_prompts(name: str) -> bool:
    """Whether a prompt says what a model's images show, without loading it; see :func:`resolve`."""
    checkpoint = official(name)
    return checkpoint is None or checkpoint.takes_prompts


def default_dtype(name: str) -> str:
    """The dtype in which a model computes unless another is asked for; see :func:`resolve`."""
    checkpoint = official(name)
    return "float32" if checkpoint is None else checkpoint.dtype


def weights_of(name: str) -> str:
    """A digest of the files that loading a model reads, before it is loaded.

    See :func:`pjd.models.files.identity` for what it covers.

    Args:
        name: see :func:`resolve`.

    Raises:
        ParameterError: if there is no such model.
        ValueError: naming each file that is damaged, or no more than a pointer, and what to do.
    """
    folder, checkpoint = resolve(name), official(name)
    if checkpoint is None:
        files = embedded_files(folder)
        wrong = faults(files)
    else:
        files = checkpoint.files(folder)
        wrong = checkpoint.faults(folder)
    if wrong:
        raise ValueError("; ".join(wrong))
    return identity(files)


def check_dtype(dtype: str | None) -> None:
    """Raise :class:`ParameterError` unless ``dtype`` is one of :data:`DTYPES`, or None."""
    if dtype is not None:
        check_choice("dtype", dtype, DTYPES)


def check_device(device: str | None) -> None:
    """Raise :class:`ParameterError` unless ``device`` is one of :data:`DEVICES`, or None."""
    if device is not None:
        check_choice("device", device, DEVICES)


def choose_device(device: str | None) -> str:
    """``device``; if it is None, "cuda" where there is a GPU, else "cpu".

    Apple's "mps" is taken only if it is asked for: decoding on it has not been tried.

    Raises:
        ParameterError: if there is no such device.
    """
    check_device(device)
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device is None:
        return "cuda" if there["cuda"] else "cpu"
    if not there.get(device, True):
        others = ["cpu", *(other for other, found in there.items() if found)]
        allowed = f"must be {' or '.join(others)}: torch finds no such device here"
        raise ParameterError("device", device, allowed)
    return device


def choose_compiled(compiled: bool | None, name: str, device: str | None, images: int) -> bool:
    """Whether to compile a model if the user does not say so: where it most likely pays.

    Compiling takes seconds for each shape, or less if torch finds on its disk what it compiled
    before; a captured iteration gets faster by milliseconds.

    Args:
        compiled: what the user says; None: nothing.
        name: see :func:`resolve`.
        device: where the model goes.
        images: to be made in one process.
    """
    if compiled is not None:
        return compiled
    return device == "cuda" and images > 1 and official(name) is not None


def load(
    name: str = "emoji",
    device: str = "cpu",
    dtype: str | None = None,
    compiled: bool = False,
    quantize: str | None = None,
) -> "ImageModel":
    """Load a model.

    Args:
        name: see :func:`resolve`. An official checkpoint is read from ``weights/<name>`` or any
            folder of that name; its extra parts (image decoder, text encoder) are looked up in
            folders beside it.
        device: where it goes, one of :data:`DEVICES`.
        dtype: of its arithmetic, one of :data:`DTYPES`; None: float32 for an embedded model,
            the catalogue's for an official one, which is bfloat16 for all but ImageGPT.
        compiled: see :func:`pjd.decoder.compiled.compile_model`.
        quantize: "int8": weights in 8 bits, see :mod:`pjd.models.quantize`; they are made on the
            CPU, so that the device never holds those of 16 bits. None: weights in ``dtype``.

    Raises:
        ParameterError: for an unknown name, device, dtype or quantize, a device that is not there,
            or missing weights or packages.
        FileNotFoundError: if an official checkpoint lacks a file.
        ValueError: if a file is damaged or of another model, or a tensor is missing, unexpected or
            of another shape.
    """
    folder = resolve(name)
    check_dtype(dtype)
    check_quantize(quantize, dtype or default_dtype(name))
    device = choose_device(device)
    from pjd.models.loading import load_model

    return load_model(
        folder, official(name), device, dtype or default_dtype(name), compiled, quantize
    )
