"""Where a LlamaGen transformer looks: attention by distance in rows and columns (figure 2)."""

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from pjd.grid import Grid
from pjd.mask import causal
from pjd.models.emoji import EmojiModel
from pjd.models.llamagen import Attention, rotate


@torch.inference_mode()
def attention_map(model: EmojiModel, prompts: list[str], tokens: Tensor) -> Tensor:
    """Attention weights of whole images, averaged over layers, heads and images.

    Args:
        model: a model of the LlamaGen architecture.
        prompts: one an image.
        tokens: int64 [images, R * C].

    Returns:
        [length, length] for the sequence of prefix and codes; row q sums to 1.
    """
    prompt = model.encode(prompts, guided=False)
    prefix, codes = prompt.mask.shape[1], tokens.shape[1]
    x = torch.cat([prompt.embeddings, model.embed(tokens)], dim=1)
    after = torch.arange(1, codes + 1, device=x.device)
    positions = torch.cat([prompt.positions, prompt.positions[:, -1:] + after], dim=1)
    mask = causal(F.pad(prompt.mask, (0, codes), value=True), prefix + codes)
    total = torch.zeros(prefix + codes, prefix + codes, device=x.device)

    def add(module: Attention, inputs: tuple) -> None:
        x, rotation, mask = inputs[:3]
        query, key, _ = (
            part.unflatten(-1, (module.heads, -1)).transpose(1, 2)
            for part in module.wqkv(x).chunk(3, dim=-1)
        )
        query, key = rotate(query, rotation), rotate(key, rotation)
        scores = query @ key.mT / query.shape[-1] ** 0.5
        total.add_(scores.masked_fill(~mask, float("-inf")).softmax(-1).float().mean((0, 1)))

    layers = model.transformer.layers
    hooks = [layer.attention.register_forward_pre_hook(add) for layer in layers]
    try:
        model.forward(x, positions, mask)
    finally:
        for hook in hooks:
            hook.remove()
    return (total / len(layers)).cpu()


def locality(weights: Tensor, grid: Grid) -> pd.DataFrame:
    """Attention of codes to codes by distance.

    Args:
        weights: from :func:`attention_map`.
        grid: of the image, without forced row-end tokens.

    Returns:
        Columns rows (how far up), columns (how far right; negative: left), mass (mean over the
        queries that have such a neighbour, of the attention that goes to the image at all) and
        share (of all the attention of all queries to the image).
    """
    image = weights[-grid.codes :, -grid.codes :]
    image = image / image.sum(1, keepdim=True)
    place = torch.arange(grid.codes)
    row, column = place // grid.columns, place % grid.columns
    up = (row[:, None] - row).flatten()
    right = (column - column[:, None]).flatten()
    seen = (place[:, None] >= place).flatten()
    table = pd.DataFrame(
        {"rows": up[seen], "columns": right[seen], "mass": image.flatten()[seen].double()}
    )
    grouped = table.groupby(["rows", "columns"]).mass
    return grouped.agg(mass="mean", share=lambda part: part.sum() / grid.codes).reset_index()
