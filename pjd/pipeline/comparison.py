"""`pjd compare`: the configurations of its methods, its title and its picture."""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pjd.decoder.config import DecodeConfig
from pjd.decoder.methods import PRESETS
from pjd.errors import ParameterError, check_choice
from pjd.models.registry import configure_for

if TYPE_CHECKING:
    # They import torch or Matplotlib, which a refusal must not wait for.
    from matplotlib.figure import Figure

    from pjd.api import Result

SHOWN = 16
"""Images that the picture shows at most: each has a column, and more take minutes to draw."""


def configurations(
    model: str, methods: str, context: int | None, **options: Any
) -> dict[str, DecodeConfig]:
    """The configuration of each method, in their order.

    Args:
        model: see :func:`pjd.load`.
        methods: names, separated by commas.
        context: context tokens of the methods that work by rows; None: those of the presets.
        options: of all methods; None is not given.

    Raises:
        ParameterError: for a method that there is not or that is named twice, for ``context`` if no
            method works by rows, and see :func:`pjd.models.registry.configure_for`.
    """
    names = methods.split(",")
    for name in names:
        check_choice("method", name, tuple(PRESETS))
        if names.count(name) > 1:
            raise ParameterError("methods", methods, f"names {name} twice: name each method once")
    by_rows = [name for name in names if PRESETS[name].by_rows]
    # Where no method has context tokens, the first one refuses them.
    having = by_rows or names
    return {
        name: configure_for(model, name, context=context if name in having else None, **options)
        for name in names
    }


def title(model: str, precision: str, device: str, images: int, options: Mapping[str, Any]) -> str:
    """What the table and the picture are called.

    Args:
        model: its name.
        precision: of its weights and arithmetic.
        device: that it is on.
        images: number of images of each method.
        options: that were given, and the seed; None is not given.
    """
    drawn = f" (the first {SHOWN} in the picture)" if images > SHOWN else ""
    given = (
        f"{name.replace('_', '-')} {value if isinstance(value, int) else format(value, 'g')}"
        for name, value in options.items()
        if value is not None
    )
    return ", ".join([model, precision, f"{images} images{drawn}", *given, device])


def picture(results: "dict[str, Result]", captions: list[str], title: str) -> "Figure":
    """The first :data:`SHOWN` images of each method in a row, with the steps of each.

    Args:
        results: by method.
        captions: one per image.
        title: below the images.
    """
    from pjd.pipeline.figures import TITLE, image_rows, style

    style()
    captions = captions[:SHOWN]
    figure = image_rows(
        {method: result.images[:SHOWN] for method, result in results.items()},
        captions,
        {
            method: [f"{steps} steps" for steps in result.steps[:SHOWN].tolist()]
            for method, result in results.items()
        },
    )
    below = textwrap.fill(title, TITLE * len(captions))
    figure.supxlabel(below, fontsize=7.5, parse_math=False)
    return figure
