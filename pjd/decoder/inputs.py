"""The inputs of one forward pass: embeddings, position ids, mask, and the slots to write."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pjd.decoder.cache import SlotMap
from pjd.decoder.config import DecodeConfig
from pjd.decoder.grid import RowLayout
from pjd.decoder.mask import causal, drafts_visible_from, visible
from pjd.decoder.model import ImageModel, Prompt
from pjd.decoder.queries import Queries
from pjd.decoder.schedule import Band
from pjd.decoder.shapes import Shapes
from pjd.decoder.state import State


class Inputs(NamedTuple):
    """What a model is given; the batch has all guidance branches.

    Attributes:
        x: embeddings [batch, queries, dim].
        positions: position ids int64 [batch, queries], or with an axis more as the prompt's.
        mask: bool [batch, 1, queries, used], True where the query may attend; with static sizes
            what is added to the scores instead, see :func:`bias`.
        slots: int64 [batch, queries]; where keys and values go.
        used: number of cache slots that are read, the first ones.
        fed: int64 [rows]; the queries that are no blanks, of batch * queries; None: compute all.
    """

    x: Tensor
    positions: Tensor
    mask: Tensor
    slots: Tensor
    used: int
    fed: Tensor | None = None


def prefill_inputs(prompt: Prompt, slots: SlotMap) -> Inputs:
    """The prompt but for its last position, which the first iteration feeds."""
    real = prompt.mask[:, :-1]
    own = slots.first_prompt + torch.arange(real.shape[1], device=real.device)
    return Inputs(
        prompt.embeddings[:, :-1],
        prompt.positions[:, :-1],
        F.pad(causal(real, real.shape[1]), (slots.first_prompt, 0)),
        own.expand_as(real),
        slots.first_prompt + real.shape[1],
    )


def step_inputs(
    model: ImageModel,
    prompt: Prompt,
    state: State,
    layout: RowLayout,
    config: DecodeConfig,
    band: Band,
    queries: Queries,
    shapes: Shapes,
) -> Inputs:
    """The queries of an iteration, for every guidance branch.

    Args:
        model: embeds tokens, and knows their position ids.
        prompt: encoded, all branches.
        state: of the batch.
        layout: the decoder's.
        config: which mask.
        band: the active rows.
        queries: of the batch.
        shapes: how many slots are read.
    """
    branches = len(prompt.mask) // len(queries.token)
    raster = torch.where(queries.valid, layout.position(queries.row, queries.column), -1)
    used = shapes.slots_in_use(raster)
    x = model.embed(queries.token).repeat(branches, 1, 1)
    # The input that starts the first row is the last position of the prompt.
    starts = ((queries.row == 0) & (queries.column < 0)).repeat(branches, 1)
    x = torch.where(starts[..., None], prompt.embeddings[:, -1:], x)
    positions = model.image_positions(prompt.positions[:, -1:], raster.repeat(branches, 1))
    slots = queries.slot.repeat(branches, 1)
    # A query sees the slot of its own blank or stand-in, the prompt, and its part of the image.
    own = slots[..., None] == torch.arange(shapes.slots.first_prompt, device=slots.device)
    of_prompt = prompt.mask[:, None].expand(-1, slots.shape[1], -1)
    of_image = image_mask(state.committed, layout, config, band, queries).repeat(branches, 1, 1)
    mask = torch.cat([own, of_prompt, of_image], dim=-1)[:, None, :, :used]
    mask = bias(mask, x.dtype) if shapes.static else mask
    fed = shapes.fed(queries.valid.repeat(branches, 1))
    return Inputs(x, positions, mask, slots, used, fed)


ALIGNED = 16
"""Attention on a GPU reads rows of the mask that begin at a multiple of so many numbers."""


def bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What a mask adds to the scores of attention: 0 or minus infinity.

    Given a boolean mask, or one whose rows are not aligned, every layer would make this anew.

    Args:
        mask: bool [..., keys], True where the query may attend.
        dtype: of the model's arithmetic.
    """
    keys = mask.shape[-1]
    padded = F.pad(mask, (0, -keys % ALIGNED))
    added = torch.zeros(padded.shape, dtype=dtype, device=mask.device)
    return added.masked_fill(~padded, float("-inf"))[..., :keys]


def image_mask(
    committed: Tensor, layout: RowLayout, config: DecodeConfig, band: Band, queries: Queries
) -> Tensor:
    """Which positions of the image each query sees; blanks see none of them.

    Args:
        committed: int64 [batch, R + 1], tokens committed per row; the last entry is padding.
        layout: the decoder's.
        config: which mask.
        band: the active rows.
        queries: of the batch.

    Returns:
        bool [batch, queries, R * stride].
    """
    zeros = torch.zeros_like(committed)
    # A full window has as many drafts as positions: the last draft is tested but not fed.
    fed = band.n_drafts.clamp(max=config.window - 1)
    drafts = zeros.scatter(1, band.row, fed)[:, :-1]
    active = zeros.bool().scatter(1, band.row, band.active)[:, :-1]
    committed = committed[:, :-1]
    row, column = queries.row, queries.column
    seen = visible(
        row,
        column,
        committed,
        drafts,
        layout.columns,
        layout.stride,
        drafts_visible_from(config.mask, row, column, committed, drafts, active, queries.flush),
        layout.context if config.lag == "fixed" else None,
    )
    return seen & queries.valid[..., None]
