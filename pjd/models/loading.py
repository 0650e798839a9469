"""Loading a model, once all that was asked for is checked; see :func:`pjd.models.registry.load`."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from pjd.decoder.ordinary import ordinary_state
from pjd.models.catalogue import Checkpoint, converted
from pjd.models.embedded import embedded_files
from pjd.models.files import check_file


def load_model(
    folder: Path,
    checkpoint: Checkpoint | None,
    device: str,
    dtype: str,
    compiled: bool,
    quantize: str | None,
) -> Any:
    """Load a model.

    Args:
        folder: of its files.
        checkpoint: an official one; None: the model is an embedded one.
        device: where it goes.
        dtype: of its arithmetic.
        compiled: see :func:`pjd.decoder.compiled.compile_model`.
        quantize: see :func:`pjd.models.registry.load`.

    Raises:
        ParameterError: if a package is missing.
        FileNotFoundError: if an official checkpoint lacks a file.
        ValueError: see :func:`pjd.models.registry.load`.
    """
    # What modules make by default must be as ever.
    with ordinary_state():
        model = read_model(folder, checkpoint, getattr(torch, dtype), quantize)
        # A device never holds what is not needed: a file's own precision, parts that read images.
        model.to(device)
    if compiled:
        from pjd.decoder.compiled import compile_model

        compile_model(model)
    return model


def read_model(
    folder: Path, checkpoint: Checkpoint | None, dtype: torch.dtype, quantize: str | None
) -> Any:
    """A model on the CPU, with weights rounded to ``quantize``; see :func:`load_model`."""
    if quantize is not None:
        from pjd.models.quantize import import_torchao, quantize_model

        # Before a family imports transformers, which imports torchao too, with its notices.
        import_torchao()
    model: Any
    if checkpoint is None:
        from pjd.models import emoji

        for file in embedded_files(folder):
            check_file(file)
        model = emoji.load(folder.name, folder).to("cpu", dtype)
    else:
        beside = {part: folder.parent / path for part, path in checkpoint.beside.items()}
        # What `pjd convert` wrote beside a torch file is read in its place, as in the folder.
        beside = {p: converted(f) if converted(f).is_file() else f for p, f in beside.items()}
        family = import_module(f"pjd.models.{checkpoint.family}")
        model = family.load(folder.name, folder, **beside, device="cpu", dtype=dtype)
    if quantize is not None:
        quantize_model(model)
    return model
