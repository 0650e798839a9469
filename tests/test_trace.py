"""The record of a decoding: counts that add up, and lag, depth and limits as defined."""

import torch

from pjd.api import generate
from tests.decoding import ALWAYS, NEVER, PROMPTS


def test_the_counts_add_up(model):
    result = generate(model, PROMPTS, "pjd", context=2, seed=4)
    table = result.trace.table()
    assert (table.groupby("image").committed.sum() == 36).all()
    assert (table.groupby("image").size().to_numpy() == result.steps.numpy()).all()
    assert (table.accepted <= table.drafted).all()
    assert (table.fed >= 1).all()


def test_drafts_tested_at_each_position_add_up_to_the_counts(model):
    trace = generate(model, PROMPTS[:2], "pjd", context=2, seed=4).trace
    accepted, rejected = trace.tested
    assert torch.equal(accepted.sum(1), trace.accepted.long().sum((0, 2)))
    assert accepted.max() <= 1
    windows_cut_short = (trace.accepted < trace.drafted).sum((0, 2))
    assert torch.equal(rejected.sum(1), windows_cut_short)


def test_the_lag_is_c_where_every_row_gains_one_token_per_step(model):
    result = generate(model, PROMPTS, "pjd", window=1, context=3, resample="every-row")
    expected = torch.minimum(torch.tensor(3), 6 - torch.arange(6))
    assert (result.trace.lag == expected).all()


def test_what_limits_a_row_is_counted(model):
    # Nothing is rejected, so the rows below the top row wait for the rows above.
    options = {"context": 2, "window": 3, "accept": ALWAYS}
    table = generate(model, PROMPTS, "pjd-plus", **options).trace.table()
    assert (table.rejected == 0).all() and (table.blocked > 0).any()
    trace = generate(model, PROMPTS, "pjd-plus", **{**options, "accept": NEVER}).trace
    table = trace.table()
    assert (table.rejected[table.drafted > 0] > 0).all() and (table.blocked == 0).all()
    assert (trace.depths.accepted == 0).all() and (trace.depths.tested.iloc[1:] == 0).all()


def test_variation_at_each_depth_is_a_distance(model):
    depths = generate(model, PROMPTS, "mc-sjd", window=6).trace.depths
    assert list(depths.depth) == list(range(5))
    assert depths.variation.between(0, 1).all()
    assert (depths.accepted <= depths.tested).all() and (depths.tested <= depths.drafts).all()
    # These are all random first drafts, declared as certain: far from p.
    single = generate(model, PROMPTS, "pjd", context=6, window=2).trace.depths
    assert len(single) == 1 and single.variation.iloc[0] > 0.2
