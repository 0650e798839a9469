"""Attention of a model by distance in rows and columns (figure 2)."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pjd.decoder.grid import Grid
from pjd.decoder.grids import check_one_grid
from pjd.decoder.model import ImageModel
from pjd.measure.fidelity import teacher_forced


class Watched(TorchFunctionMode):
    """Sums the weights of every attention that is computed while it is active.

    Attributes:
        total: sum over layers of the weights [queries, keys], averaged over batch and heads.
        layers: number of layers in the sum.
    """

    def __init__(self) -> None:
        """Start from zero layers."""
        super().__init__()
        self.total: Tensor | float = 0.0
        self.layers = 0

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Call ``function``; if it is attention, add its weights."""
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention:
            query, key, _, *rest = args
            # With unit vectors as values, the output of a query is its weights.
            units = torch.eye(key.shape[-2], dtype=key.dtype, device=key.device)
            weights = function(query, key, units.expand(*key.shape[:2], -1, -1), *rest, **kwargs)
            self.total += weights.float().mean((0, 1))
            self.layers += 1
        return function(*args, **kwargs)


@torch.inference_mode()
def attention_map(model: ImageModel, prompts: list[str], tokens: Tensor) -> Tensor:
    """Attention weights of whole images, averaged over layers, heads and images.

    Args:
        model: any model whose attention is ``scaled_dot_product_attention``.
        prompts: one per image.
        tokens: codes int64 [images, R * C].

    Returns:
        Float [length, length] for the sequence of prompt and image: the weight of each key
        (column) for each query (row); rows sum to 1. Forced row-end tokens are included; the
        image's last token is not, since it predicts nothing. Prompts are padded on the left to
        the longest one; padding attends to itself.

    Raises:
        ParameterError: if the model has several grids.
    """
    check_one_grid(model, "the map of attention")
    encoded = model.encode(prompts, guided=False)
    x, positions, mask = teacher_forced(model, encoded, tokens.to(model.device))
    with Watched() as watched:
        # The weights of a large image take gigabytes, so images go one by one.
        for part in zip(x.split(1), positions.split(1), mask.split(1), strict=True):
            model.forward(*part)
    return (watched.total / watched.layers).cpu()


def locality(weights: Tensor, grid: Grid) -> pd.DataFrame:
    """Attention of codes to codes, by distance.

    Args:
        weights: from :func:`attention_map`.
        grid: of the image.

    Returns:
        One row per distance: rows (by how many the key is above the query), columns (by how many
        it is to the right; negative: left), mass (part of a query's attention to codes that goes
        there, mean over the queries that have such a key) and share (part of the attention of all
        queries to codes).
    """
    image = weights[1 - grid.length :, 1 - grid.length :]
    raster = torch.arange(grid.length - 1)
    raster = raster[~grid.is_row_end(raster)]
    image = image[raster][:, raster]
    image = image / image.sum(1, keepdim=True)
    row, column = raster // grid.stride, raster % grid.stride
    up = (row[:, None] - row).flatten()
    right = (column - column[:, None]).flatten()
    order = torch.arange(len(row))
    seen = (order[:, None] >= order).flatten()
    table = pd.DataFrame(
        {"rows": up[seen], "columns": right[seen], "mass": image.flatten()[seen].double()}
    )
    grouped = table.groupby(["rows", "columns"]).mass
    return grouped.agg(mass="mean", share=lambda part: part.sum() / len(row)).reset_index()
