"""What a later grid takes from the one before: first drafts, and its likelihood."""

import pytest
import torch

from pjd.api import generate
from pjd.decoder.engine import Engine
from pjd.decoder.grids import at_same_place, encode_after
from pjd.decoder.methods import configure
from pjd.decoder.verify import proposals
from pjd.errors import ParameterError
from pjd.measure.fidelity import log_likelihood
from tests.backbones import CODES, exact_greedy, plain_logits, sequence, tiny_llama
from tests.test_grids import LARGE, PROMPTS, SMALL, two_grids


@pytest.fixture(params=[False, True], ids=["plain", "row-ends"])
def row_end(request) -> bool:
    return request.param


def test_a_place_has_the_code_whose_patch_its_centre_lies_in():
    model, _ = two_grids(False)
    small = torch.arange(SMALL)[None]
    # Five columns on three, four rows on two.
    expected = [[0, 0, 1, 2, 2]] * 2 + [[3, 3, 4, 5, 5]] * 2
    assert at_same_place(small, model.before.grid, model.grid).view(4, 5).tolist() == expected
    whole = torch.arange(LARGE)[None]
    assert torch.equal(at_same_place(whole, model.grid, model.grid), whole)
    fewer = at_same_place(whole, model.grid, model.before.grid).view(2, 3).tolist()
    assert fewer == [[5, 7, 9], [15, 17, 19]]


@pytest.mark.parametrize("method", ["sjd", "pjd"])
def test_a_first_draft_is_the_code_of_the_preview_and_counts_as_certain(row_end, method):
    model, _ = two_grids(row_end)
    copied = torch.arange(LARGE)[None] % CODES
    config = configure(method, window=8, initial="preview")
    engine = Engine(model, config, model.encode(["cat"], False), torch.tensor([0]), preview=copied)
    state = engine.initial_state()
    if method == "pjd":
        # Rows 0 and 1 are complete, and row 2 has its first token.
        state.committed[0, :3] = torch.tensor([5, 5, 1])
        expected = [11 % CODES, 12 % CODES, 13 % CODES]
    else:
        ends = [CODES] if row_end else []
        expected = [0, 1, 2, 3, 4, *ends, 5, 6, 7][:7]
    fed = engine.feed(state)
    assert fed.windows.drafts[0, 0, : len(expected)].tolist() == expected
    drafts = proposals(state, engine.layout, config, fed.band, fed.windows, fed.queries)
    q = drafts.probs[0, : len(expected)]
    assert q.argmax(-1).tolist() == expected and (q.amax(-1) == 1).all() and (q.sum(-1) == 1).all()


def test_greedy_codes_are_those_of_ar_and_need_fewest_steps_if_the_preview_has_them(row_end):
    model, _ = two_grids(row_end)
    options = {"temperature": 0, "guidance": 2.0}
    expected = generate(model, PROMPTS, "ar", **options)
    for method, found in exact_greedy(model, PROMPTS, initial="preview", guidance=2.0):
        assert torch.equal(found.tokens, expected.tokens), method
        assert torch.equal(found.previews[0], expected.previews[0]), method
    config = configure("sjd", window=4, initial="preview", **options)
    prompt = encode_after(model, PROMPTS, expected.previews, guided=True)
    known = Engine(model, config, prompt, torch.arange(2), preview=expected.tokens).run()
    assert torch.equal(known.tokens, expected.tokens)
    assert known.trace.steps.tolist() == [model.grid.length // 4] * 2


def test_the_first_grid_has_nothing_to_copy(row_end):
    model, _ = two_grids(row_end)
    for method in ("sjd", "pjd", "pjd-plus"):
        plain = generate(model, PROMPTS, method)
        copied = generate(model, PROMPTS, method, initial="preview")
        assert torch.equal(plain.previews[0], copied.previews[0])
        assert not torch.equal(plain.tokens, copied.tokens)


def test_copying_from_a_preview_is_refused_where_there_is_none(monkeypatch):
    model, _ = tiny_llama(row_end=False)
    monkeypatch.setattr(model, "encode", lambda *_: pytest.fail("something was computed"))
    alone = r"initial = 'preview': must be another: tiny-llama has one grid alone"
    with pytest.raises(ParameterError, match=alone):
        generate(model, PROMPTS, "pjd", initial="preview")
    both, _ = two_grids(False)
    both.before.codebook = both.codebook.flip(0)
    with pytest.raises(ParameterError, match="the grids of tiny-llama have codebooks of their own"):
        generate(both, PROMPTS, "pjd", initial="preview")


def test_the_likelihood_of_a_later_grid_is_that_of_a_plain_forward_after_the_first(row_end):
    model, language = two_grids(row_end)
    drawn = torch.Generator().manual_seed(0)
    small, large = (torch.randint(CODES, (2, n), generator=drawn) for n in (SMALL, LARGE))
    nats, outside = log_likelihood(model, PROMPTS, large, 2.0, 0.7, top_k=CODES, previews=[small])
    assert not outside.any()
    place = torch.arange(LARGE)
    for number, text in enumerate(PROMPTS):
        branches = []
        for conditional in (True, False):
            prompt = model.prompt(text, conditional)
            before = sequence(model.before, prompt, small[number])[0].tolist()
            logits = plain_logits(model, language, sequence(model, before, large[number]))
            branches.append(logits[len(before) - 1 + place + place // 5 * row_end])
        guided = (branches[1] + 2.0 * (branches[0] - branches[1])) / 0.7
        expected = guided.log_softmax(-1).gather(1, large[number][:, None])[:, 0]
        torch.testing.assert_close(nats[number], expected, atol=1e-4, rtol=1e-4)


def test_a_likelihood_without_the_grids_before_is_refused(monkeypatch):
    model, _ = two_grids(False)
    codes = torch.zeros(2, LARGE, dtype=torch.long)
    monkeypatch.setattr(model.before, "encode", lambda *_: pytest.fail("something was computed"))
    missing = "previews = 0: must be 1, one for each grid before the last of tiny-llama"
    with pytest.raises(ParameterError, match=missing):
        log_likelihood(model, PROMPTS, codes, 1.0, 1.0)
