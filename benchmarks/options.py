"""What several commands share: options that are lists, shapes, and recorded acceptance."""

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.acceptance import tests_drafts
from benchmarks.shapes import SHAPES
from pjd.decoder.compiled import compile_model
from pjd.decoder.config import DecodeConfig
from pjd.decoder.methods import PRESETS, configure
from pjd.decoder.model import ImageModel
from pjd.errors import ParameterError, check_choice
from pjd.measure.replay import replay
from pjd.models.registry import EMOJI


def names(text: str, option: str, known: Sequence[str]) -> list[str]:
    """Split a comma-separated list of names, each one of ``known``."""
    chosen = [name.strip() for name in text.split(",")]
    for name in chosen:
        check_choice(option, name, tuple(known))
    return chosen


def counts(text: str, option: str) -> list[int]:
    """Split a comma-separated list of numbers, at least 1 each."""
    for count in text.split(","):
        if not (count.strip().isdecimal() and int(count) > 0):
            raise ParameterError(option, count, "must be numbers, at least 1 each, as in 1,8,64")
    return [int(count) for count in text.split(",")]


def check_recorded(shapes: list[str], methods: list[str], recorded: dict[str, Any]) -> None:
    """Raise :class:`ParameterError` if a method needs a recorded acceptance and there is none."""
    if set(shapes) <= set(EMOJI):
        return
    known = [name for name in PRESETS if name in recorded["shares"] or not tests_drafts(name)]
    names(",".join(methods), "methods", known)


def prepared(name: str, device: str, dtype: str, layers: int | None, compiled: bool) -> ImageModel:
    """A model of the shape ``name``; the arguments are options of :func:`benchmarks.run.run`."""
    model = SHAPES[name].make(device, getattr(torch, dtype), layers)
    return compile_model(model) if compiled else model


def replayed(model: ImageModel, name: str, method: str, recorded: dict[str, Any]) -> DecodeConfig:
    """The usual options of a shape; without trained weights, with recorded acceptance.

    Args:
        model: of the shape.
        name: a key of :data:`benchmarks.shapes.SHAPES`.
        method: a preset.
        recorded: from :func:`benchmarks.acceptance.read_record`.
    """
    shape = SHAPES[name]
    options: dict[str, Any] = {"guidance": shape.guidance, "top_k": shape.top_k}
    if PRESETS[method].by_rows:
        options["context"] = shape.context
    if name not in EMOJI and tests_drafts(method):
        shares, rule = recorded["shares"][method], configure(method).accept
        options["accept"] = replay(shares, model.device, rule)
    return configure(method, **options)
