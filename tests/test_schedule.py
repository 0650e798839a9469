"""The wavefront: which rows are active, and how far each may draft and commit."""

import re
from itertools import pairwise

import pytest
import torch

from pjd.api import generate
from pjd.decoder.grid import Grid, RowLayout
from pjd.decoder.methods import configure
from pjd.decoder.schedule import lanes_needed, schedule, wavefront_steps
from tests.decoding import BY_ROWS, NEVER, PROMPTS

# A grid of 4 rows and C = 8 columns, c = 4, and W as the method has it: 8 by rows, 16 in raster
# order. Each line gives the rows from left to right. "committed" goes in: the tokens of each row;
# "0+1" is no token and one draft carried over. The rest comes out: the drafts that a row tests
# (at most W), the tokens that it may commit, and whether it may resample (r). "." is a row that
# is not active.
TABLE = """
method                  committed   drafts      may commit   resamples

At first only row 0 is active; it leaves its last window position to the resampled token.
pjd                     0 0 0 0     7 . . .     8 . . .      r . . .
Row 1 waits, for the row above has fewer than c tokens.
pjd                     3 0 0 0     4 . . .     5 . . .      r . . .
Row 1 starts with c tokens above, and may come up to them; only the top active row resamples.
pjd                     4 0 0 0     3 4 . .     4 4 . .      r . . .
Row 0 is complete, so row 1 is the top active row; row 3 waits for row 2.
pjd                     8 5 1 0     . 2 4 .     . 3 4 .      . r . .
A row that has come up to the row above pauses; the row below it goes on.
pjd                     8 5 5 0     . 2 . 5     . 3 . 5      . r . .
Nothing limits the row below a complete row but column C.
pjd                     8 8 8 6     . . . 1     . . . 2      . . . r
A complete image has no active row.
pjd                     8 8 8 8     . . . .     . . . .      . . . .

W limits the drafts and not what a row may commit; the top row keeps a position for resampling.
pjd window=3            8 5 1 0     . 2 3 .     . 3 4 .      . r . .
The band has at most as many rows as the option rows says.
pjd rows=1              8 5 1 0     . 2 . .     . 3 . .      . r . .
A value of c above C means the whole row.
pjd context=99          7 0 0 0     0 . . .     1 . . .      r . . .

ZipAR has W = 1 and so no drafts: every active row samples one token.
zipar                   8 5 1 0     . 0 0 .     . 3 4 .      . r r .
Adaptive ZipAR first draws a draft for column 0: nothing is tested yet.
zipar-adaptive          4 0 0 0     0 0 . .     4 1 . .      r . . .
Then it tests that draft, and the row starts if it is accepted.
zipar-adaptive          5 0+1 0 0   0 1 . .     3 1 . .      r . . .
From its second token on the row is like any other row.
zipar-adaptive          5 1 0 0     0 0 . .     3 4 . .      r r . .

PJD-plus resamples in every row, and drafts past the row above, where it may not commit yet.
pjd-plus                8 5 5 0     . 2 2 7     . 3 0 5      . r . r
The staircase has a fixed lag: row 2 waits until it is c behind row 1 once more.
pjd-staircase           8 5 1 0     . 2 6 .     . 3 1 .      . r r .
The lag is counted to all rows above: row 2 waits for column 2 c of row 0 too.
pjd-staircase           7 4 0 0     0 3 7 .     1 0 0 .      r . . .
The released code tests one draft fewer than a row may commit.
pjd-released            8 5 1 0     . 2 3 .     . 3 4 .      . r . .

In raster order the whole image is one row of 32 tokens: SJD.
sjd                     14          15          18           r
Near its end the window is cut.
sjd                     30          1           2            r
AR has W = 1: no drafts, and one token per step.
ar                      14          0           18           r
"""


def table() -> list:
    """The lines of the table, each named after the sentence above it."""
    lines, found = TABLE.strip().splitlines()[1:], []
    for says, line in pairwise(lines):
        if "  " in line:
            found.append(pytest.param(*re.split(r"\s{2,}", line), id=says.rstrip(".")))
    return found


@pytest.mark.parametrize(["method", "committed", "drafts", "may_commit", "resamples"], table())
def test_the_wavefront(method, committed, drafts, may_commit, resamples):
    name, *options = method.split()
    config = configure(name, **{key: int(value) for key, value in (o.split("=") for o in options)})
    layout = RowLayout.of(Grid(4, 8), config, vocabulary=11)
    # The row after the last one is padding.
    counts = [[int(part) for part in f"{row}+0".split("+")[:2]] for row in [*committed.split(), 0]]
    tokens, carried = torch.tensor(counts).T[:, None]
    lanes = lanes_needed(layout.rows, config.rows)
    band = schedule(tokens, carried, layout, lanes, config)

    def drawn(values: list) -> str:
        marks = ["."] * (layout.rows + 1)
        for row, active, value in zip(band.row[0], band.active[0], values, strict=True):
            if active:
                marks[row] = str(value)
        return " ".join(marks[: layout.rows])

    assert drawn(band.n_drafts[0].tolist()) == drafts
    assert drawn(band.max_commits[0].tolist()) == may_commit
    assert drawn(["r" if may else "." for may in band.may_resample[0]]) == resamples


@pytest.mark.parametrize("method", BY_ROWS)
@pytest.mark.parametrize("context", [1, 2, 4, 6, 9])
def test_rejecting_every_draft_takes_the_steps_of_the_wavefront(model, method, context):
    # Every active row then gains one resampled token per step: exactly C + (R - 1) c steps.
    options = {"context": context, "accept": NEVER, "resample": "every-row", "start": "context"}
    result = generate(model, PROMPTS, method, **options)
    assert (result.steps == wavefront_steps(6, 6, context)).all()


@pytest.mark.parametrize("context", [1, 2, 4, 6, 9])
def test_zipar_takes_exactly_the_steps_of_the_wavefront(model, context):
    result = generate(model, PROMPTS, "zipar", context=context)
    assert (result.steps == wavefront_steps(6, 6, context)).all()


def test_adaptive_zipar_starts_rows_after_c_tokens_and_before_the_whole_row(model):
    result = generate(model, PROMPTS, "zipar-adaptive", context=2, seed=3)
    assert (result.steps >= wavefront_steps(6, 6, 2)).all() and (result.steps < 36).all()
    when = result.trace.commit_iteration
    above = torch.cat([torch.zeros_like(result.trace.committed[:1]), result.trace.committed])
    started = above[:, :, :-1].permute(1, 2, 0).gather(2, when[:, 1:, :1].long())
    # The first token needs one forward pass to be drawn, and another one to be tested.
    assert (started >= 3).all() and len(started.unique()) > 1
