"""Several grids in one sequence: to a later one, the earlier ones are a part of the prompt."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pjd.decoder.grid import Grid
from pjd.decoder.model import ImageModel, Prompt
from pjd.errors import ParameterError, no_grid_before


def grids_of(model: ImageModel) -> list[ImageModel]:
    """The models of all grids of the sequence that ends with ``model``'s, in their order."""
    return [model] if model.before is None else [*grids_of(model.before), model]


def tokens_of(model: ImageModel) -> int:
    """Tokens of all grids together, forced row-end tokens counted: the number of AR's steps."""
    return sum(one.grid.length for one in grids_of(model))


def several_grids(model: str, what: str) -> ParameterError:
    """The error of a model of several grids.

    Args:
        model: its name.
        what: does not know them, such as "the audit".
    """
    allowed = f"must be a model of one grid: {what} knows nothing of the grids before the last"
    return ParameterError("model", model, allowed)


def check_one_grid(model: ImageModel, what: str) -> None:
    """Refuse a model of several grids.

    Args:
        model: to look at.
        what: does not know them, see :func:`several_grids`.

    Raises:
        ParameterError: if another grid comes before the model's own.
    """
    if model.before is not None:
        raise several_grids(model.name, what)


def check_same_codebook(model: ImageModel, option: str, value: str) -> None:
    """Refuse an option by which a grid copies codes of the one before, where it cannot.

    Args:
        model: of the last grid.
        option: its name.
        value: what was given.

    Raises:
        ParameterError: if there is one grid, or if codes of two grids do not mean the same.
    """
    before = [one.before for one in grids_of(model) if one.before is not None]
    if not before:
        raise no_grid_before(option, value, model.name)
    for one in before:
        if not torch.equal(one.codebook, model.codebook):
            allowed = f"must be another: the grids of {model.name} have codebooks of their own"
            raise ParameterError(option, value, allowed)


def at_same_place(codes: Tensor, before: Grid, grid: Grid) -> Tensor:
    """For each place of a grid the code of the one before whose patch its centre lies in.

    Args:
        codes: of the grid before, int64 [batch, R * C of that grid].
        before: the grid before.
        grid: the later one, of any size.

    Returns:
        int64 [batch, R * C].
    """

    def nearest(fewer: int, more: int) -> Tensor:
        return (2 * torch.arange(more, device=codes.device) + 1) * fewer // (2 * more)

    row, column = nearest(before.rows, grid.rows), nearest(before.columns, grid.columns)
    return codes.unflatten(1, (before.rows, before.columns))[:, row[:, None], column].flatten(1)


def followed_by(model: ImageModel, prompt: Prompt, tokens: Tensor) -> Prompt:
    """The prompts, and the images that follow them: all that comes before the next grid.

    Args:
        model: of the images' grid.
        prompt: encoded; all its branches get the same images.
        tokens: codes int64 [images, R * C], on the model's device.

    Returns:
        Forced row-end tokens included.
    """
    grid = model.grid
    branches = len(prompt.mask) // len(tokens)
    image = model.embed(grid.with_row_ends(tokens, model.vocabulary)).repeat(branches, 1, 1)
    raster = torch.arange(grid.length, device=tokens.device).expand(len(prompt.mask), -1)
    after = model.image_positions(prompt.positions[:, -1:], raster)
    return Prompt(
        torch.cat([prompt.embeddings, image], dim=1),
        F.pad(prompt.mask, (0, grid.length), value=True),
        torch.cat([prompt.positions, after], dim=1),
    )


def encode_after(
    model: ImageModel, prompts: list[str], previews: Sequence[Tensor], guided: bool
) -> Prompt:
    """Encode all that comes before a model's grid: the prompts, and the grids before it.

    Args:
        model: of the last grid.
        prompts: one per image.
        previews: codes of the grids before the last, each int64 [images, R * C].
        guided: whether there is an unconditional branch.

    Raises:
        ParameterError: unless there are previews of all grids before the last.
    """
    before = grids_of(model)[:-1]
    if len(previews) != len(before):
        allowed = f"must be {len(before)}, one for each grid before the last of {model.name}"
        raise ParameterError("previews", len(previews), allowed)
    prompt = grids_of(model)[0].encode(prompts, guided)
    for one, codes in zip(before, previews, strict=True):
        prompt = followed_by(one, prompt, codes.to(one.device))
    return prompt


def seeds_of_grid(seeds: Tensor, number: int) -> Tensor:
    """Seeds of a grid's random numbers: with the same ones, grids would repeat each other's draws.

    The first grid has the image's own seeds. Those of a later one differ from the seeds of all
    images and grids, as long as no image's seed is beyond 2**60.

    Args:
        seeds: of the images, int64 [images], 0 to 2**62.
        number: of the grid in the sequence, 0 to 3.
    """
    return seeds ^ (number << 60)
