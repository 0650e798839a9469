"""Where a model looks: attention by distance in rows and columns (figure 2)."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pjd.decoder.grid import Grid
from pjd.decoder.model import ImageModel
from pjd.measure.fidelity import teacher_forced


class Watched(TorchFunctionMode):
    """Adds up the weights of every attention computed under it.

    Attributes:
        total: of the weights [queries, keys], each layer's averaged over batch and heads.
        layers: how many were added.
    """

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.total: Tensor | float = 0.0
        self.layers = 0

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Call ``function``; if it is attention, look at it as well."""
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention:
            query, key, _, *rest = args
            # With unit vectors as values, what a query gets is its weights.
            units = torch.eye(key.shape[-2], dtype=key.dtype, device=key.device)
            weights = function(query, key, units.expand(*key.shape[:2], -1, -1), *rest, **kwargs)
            self.total += weights.float().mean((0, 1))
            self.layers += 1
        return function(*args, **kwargs)


@torch.inference_mode()
def attention_map(model: ImageModel, prompts: list[str], tokens: Tensor) -> Tensor:
    """Attention weights of whole images, averaged over layers, heads and images.

    Args:
        model: any whose attention is ``scaled_dot_product_attention``.
        prompts: one an image.
        tokens: codes int64 [images, R * C].

    Returns:
        [length, length] for the sequence of prompt and image (forced row-end tokens included, the
        image's last token not: nothing is asked after it); row q sums to 1. Prompts are padded
        to the longest, on the left; padding attends to itself.
    """
    encoded = model.encode(prompts, guided=False)
    x, positions, mask = teacher_forced(model, encoded, tokens.to(model.device))
    with Watched() as watched:
        # A large image's weights take gigabytes: one after the other.
        for part in zip(x.split(1), positions.split(1), mask.split(1), strict=True):
            model.forward(*part)
    return (watched.total / watched.layers).cpu()


def locality(weights: Tensor, grid: Grid) -> pd.DataFrame:
    """Attention of codes to codes by distance.

    Args:
        weights: from :func:`attention_map`.
        grid: of the image.

    Returns:
        Columns rows (how far up), columns (how far right; negative: left), mass (mean over the
        queries that have such a neighbour, of the attention that goes to codes at all) and
        share (of all the attention of all queries to codes).
    """
    place = torch.arange(grid.length - 1)
    row, column = place // grid.stride, place % grid.stride
    is_code = column < grid.columns
    image = weights[-len(place) :, -len(place) :][is_code][:, is_code]
    image = image / image.sum(1, keepdim=True)
    row, column = row[is_code], column[is_code]
    up = (row[:, None] - row).flatten()
    right = (column - column[:, None]).flatten()
    order = torch.arange(len(row))
    seen = (order[:, None] >= order).flatten()
    table = pd.DataFrame(
        {"rows": up[seen], "columns": right[seen], "mass": image.flatten()[seen].double()}
    )
    grouped = table.groupby(["rows", "columns"]).mass
    return grouped.agg(mass="mean", share=lambda part: part.sum() / len(row)).reset_index()
