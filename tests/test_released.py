"""What the authors' released code does otherwise than the paper, counted by hand."""

import pytest
import torch

from pjd.decoder.mask import visible
from pjd.decoder.methods import configure
from pjd.decoder.queries import per_query
from pjd.decoder.released import drafts_visible_from, n_drafts, one_position_earlier
from pjd.decoder.verify import verify
from tests.decoding import engine_of, verified


def released(lengths: list[int], flush: bool) -> list[list[int]]:
    """For each query of each active row, from which active row on it sees drafts of those above.

    ``lengths`` are the queries per row: a committed token and ``length - 1`` drafts. A query that
    no block covers sees the drafts of all rows, which is 0; so does one of the first row.
    """
    count = len(lengths)
    drafts = torch.tensor([[length - 1 for length in lengths]])
    committed = torch.full((1, count), 20) - 5 * torch.arange(count)
    queries = [(row, depth) for row, length in enumerate(lengths) for depth in range(length)]
    row, depth = (torch.tensor(part)[None] for part in zip(*queries, strict=True))
    column = committed.gather(1, row) - 1 + depth
    seen = drafts_visible_from(
        row,
        column,
        committed,
        drafts,
        torch.ones(1, count, dtype=torch.bool),
        torch.tensor([[flush]]),
    )
    return [part.tolist() for part in seen[0].split(lengths)]


@pytest.mark.parametrize(
    ("lengths", "flush", "expected"),
    [
        # Three rows: the second is protected, the third is not protected at all.
        ([8, 8, 8], False, [[0] * 8, [1] * 8, [0] * 8]),
        # The third row's block is written at queries 24 to 31, which are the fourth row's.
        ([8, 8, 8, 8], False, [[0] * 8, [1] * 8, [0] * 8, [2] * 8]),
        # Unequal windows: the third block is written at 12 to 19, not at 10 to 17.
        ([2, 8, 8], False, [[0] * 2, [1] * 8, [0] * 2 + [2] * 6]),
        ([1, 8, 8], False, [[0], [1] * 8, [0] + [2] * 7]),
        ([8, 8, 2], False, [[0] * 8, [1] * 8, [0] * 2]),
        ([8, 1, 8], False, [[0] * 8, [1], [0] * 8]),
        # After a row is finished: the second row's first query is not protected, and the
        # third row's first query has the second row's mask.
        ([8, 8, 8], True, [[0] * 8, [0] + [1] * 7, [1] + [0] * 7]),
    ],
)
def test_the_mask_is_written_where_it_was_counted_by_hand(lengths, flush, expected):
    assert released(lengths, flush) == expected


def test_the_mask_differs_from_the_row_causal_one_from_the_third_row_on():
    committed, drafts = torch.tensor([[9, 6, 3]]), torch.tensor([[2, 2, 2]])
    row = torch.tensor([[0, 1, 1, 2, 2]])
    column = torch.tensor([[8, 5, 6, 2, 3]])
    active = torch.ones(1, 3, dtype=torch.bool)
    no_flush = torch.zeros(1, 1, dtype=torch.bool)
    seen = drafts_visible_from(row, column, committed, drafts, active, no_flush)
    wrong = visible(row, column, committed, drafts, 12, 12, seen)
    right = visible(row, column, committed, drafts, 12, 12, 3)
    assert torch.equal(wrong[:, :3], right[:, :3])
    extra = (wrong & ~right)[0, 3].view(3, 12).nonzero().tolist()
    assert extra == [[0, 9], [0, 10], [1, 6], [1, 7]]


def test_drafts_stay_with_their_old_distribution_if_they_are_half_as_likely():
    p = torch.tensor([[[0.9, 0.1], [0.6, 0.4], [0.9, 0.1]]])
    q = torch.tensor([[[0.0, 1.0], [0.0, 1.0], [0.7, 0.3]]])
    drafts = torch.tensor([[1, 1, 1]])
    limits = {"n_drafts": 3, "max_commits": 3, "resample": False}
    uniforms = {"accept_uniforms": 0.99, "sample_uniforms": 0.0}
    done = verified(p, q, drafts, **limits, **uniforms, redraft="threshold")
    # The first is rejected and drawn again. The others fail: 0.4 is less than half of 1, and 0.1
    # is less than half of 0.3.
    assert done.drafts.tokens.tolist() == [[0, 0, 0]]
    p[0, 1] = torch.tensor([0.4, 0.6])
    done = verified(p, q, drafts, **limits, **uniforms, redraft="threshold")
    assert done.drafts.tokens.tolist() == [[0, 1, 0]]
    assert torch.equal(done.drafts.probs[0], torch.stack([p[0, 0], q[0, 1], p[0, 2]]))


def test_a_row_has_one_draft_fewer_than_it_may_commit():
    assert n_drafts(torch.tensor([1, 4, 20]), window=8).tolist() == [0, 3, 7]


def test_after_a_finished_row_drafts_are_off_by_one():
    depth = torch.tensor([[0, 1, 2]])
    token, draft = torch.tensor([[5, 6, 7]]), torch.tensor([[6, 7, 8]])
    tested = depth < 2
    for flush, tokens, late in ((False, [6, 7, 8], 0), (True, [5, 6, 8], 1)):
        found, column, where = one_position_earlier(tested & flush, token, draft, depth + 4, depth)
        assert found.tolist() == [tokens]
        assert column.tolist() == [[4 - late, 5 - late, 6]]
        assert where.tolist() == [[-late, 1 - late, 2]]


def test_after_a_finished_row_a_token_has_the_distribution_it_was_accepted_with(model, monkeypatch):
    # A lane that may not resample commits accepted drafts alone, so every last token of a lane
    # has the q that it was tested against. In a full window that commits nothing, that q must
    # outlive the iteration.
    config = configure("pjd-released", context=3, window=3, guidance=2.0)
    stored, waiting = {}, {}
    kinds = {"start": 0, "after a commit": 0, "after a full window in vain": 0}

    def watched(target_probs, drafts, queries, band, *rest):
        done = verify(target_probs, drafts, queries, band, *rest)
        accepted = per_query(done.accepted, queries.lane)[0]
        tested = queries.depth[0] < per_query(band.n_drafts, queries.lane)[0]
        for query in tested.nonzero().flatten().tolist():
            row, column, depth = (
                int(part[0, query]) for part in (queries.row, queries.column, queries.depth)
            )
            q = drafts.probs[0, query]
            if queries.flush[0, 0] and depth == 0:
                if column < 0:
                    kinds["start"] += 1
                    assert q[queries.token[0, query]] == q.sum() == 1
                else:
                    kind = "full window in vain" if waiting[row] else "commit"
                    kinds[f"after a {kind}"] += 1
                    assert torch.equal(q, stored[row, column])
            if depth < accepted[query]:
                stored[row, column + 1] = q
        for lane, row in enumerate(band.row[0].tolist()):
            in_vain = band.n_drafts[0, lane] == config.window - 1 and not done.committed[0, lane]
            waiting[row] = bool(in_vain) or (waiting.get(row) and not done.committed[0, lane])
        return done

    monkeypatch.setattr("pjd.decoder.engine.verify", watched)
    for seed in range(20):
        stored.clear()
        waiting.clear()
        engine_of(model, config, ["cat"], torch.tensor([seed])).run()
    assert min(kinds.values()) > 0, kinds
