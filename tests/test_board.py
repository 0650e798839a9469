import pytest
import torch

import pjd
from pjd.decoder.cache import SlotMap
from pjd.measure.board import ACCEPTED, COMMITTED, DRAFTED, EMPTY, RESAMPLED, boards, sight
from tests.backbones import tiny_llama
from tests.decoding import engine_of
from tests.tiny import tiny_model


def decoded(method: str, **options):
    """A small model, and one image of it."""
    model = tiny_model(grid=6)
    return model, pjd.generate(model, ["red cat"], method, seed=3, **options)


def test_ar_adds_one_token_per_step_in_raster_order():
    model, result = decoded("ar")
    board = boards(result, 0, model.grid).flatten(1)
    for step, cells in enumerate(board):
        wanted = [COMMITTED] * step + [RESAMPLED] + [EMPTY] * (35 - step)
        assert cells.tolist() == wanted


@pytest.mark.parametrize("method", ["sjd", "zipar", "pjd", "pjd-plus", "pjd-staircase"])
def test_boards_follow_each_other(method):
    model, result = decoded(method, **({"context": 2} if method != "sjd" else {}))
    board = boards(result, 0, model.grid)
    assert len(board) == int(result.steps[0])
    done = torch.zeros(6, 6, dtype=torch.bool)
    for cells in board:
        # What a step committed, and nothing else, is what the next one finds committed.
        assert torch.equal(cells == COMMITTED, done)
        done = done | (cells == ACCEPTED) | (cells == RESAMPLED)
        # Committed tokens of a row stand side by side, from its first column on.
        assert (done.int().diff(dim=1) <= 0).all()
        # Of each row at most one token is resampled.
        per_row = (cells == RESAMPLED).sum(1)
        assert (per_row.sum() if method == "sjd" else per_row.max()) <= 1
    assert done.all()
    if method in ("pjd", "pjd-plus"):
        assert (board == DRAFTED).any() and (board == ACCEPTED).any()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("sjd", {"window": 4}),
        ("zipar", {"context": 2}),
        ("pjd", {"context": 2, "window": 3}),
        ("pjd-nomask", {"context": 2}),
        ("pjd-plus", {"context": 1, "window": 2}),
        ("pjd-released", {"context": 2}),
        ("pjd-staircase", {"context": 2}),
    ],
)
@pytest.mark.parametrize("row_end", [False, True])
def test_sight_is_the_mask_that_the_engine_used(method, options, row_end):
    model = tiny_llama(row_end=True)[0] if row_end else tiny_model(grid=6)
    result = pjd.generate(model, ["red cat"], method, guidance=1.0, seed=3, **options)
    engine = engine_of(model, result.config, ["red cat"], torch.tensor([3]))
    used, forward = [], engine.forward

    def watched(inputs):
        used.append(inputs)
        return forward(inputs)

    engine.forward = watched
    tokens = engine.run().tokens
    assert torch.equal(tokens[0], result.tokens[0])
    steps = used[1:] if engine.slots.prompt > 1 else used
    slots: SlotMap = engine.slots
    grid = model.grid
    for step, inputs in enumerate(steps):
        found = sight(result, 0, grid, step)
        image = inputs.mask[0, 0, :, slots.first_image :]
        image = torch.nn.functional.pad(image, (0, grid.length - image.shape[1]))
        image = image.view(-1, grid.rows, grid.stride)[..., : grid.columns]
        at = engine.layout.position(found.row, found.column)
        at = torch.where(found.column < 0, -2, at)
        position = inputs.positions[0] - engine.prompt.positions[0, -1] - 1
        for number, raster in enumerate(at.tolist()):
            if raster >= 0:
                query = (position == raster).nonzero().flatten()
                assert len(query) == 1
                assert torch.equal(image[query[0]], found.seen[number]), (step, number)
