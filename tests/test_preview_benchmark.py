"""The benchmark of a preview: its tiny model of two grids, and what it sums up."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from benchmarks.likelihood import nats_and_excess
from benchmarks.preview import (
    CASES,
    captions,
    first_drafts,
    intervals,
    known,
    shown,
    summary,
)
from benchmarks.two_grids import WITH, WITHOUT, PreviewLlamaGen, PreviewTokenizer, assembled, halved
from pjd.api import generate
from pjd.decoder.grids import grids_of
from pjd.measure.fidelity import log_likelihood
from pjd.models.emoji import EmojiModel
from tests.tiny import tiny_model

PROMPTS = ["cat", "red dog"]


@pytest.fixture
def start() -> EmojiModel:
    """One grid of 4x4 codes, with guidance."""
    model = tiny_model()
    model.sampling = {"guidance": 2.0}
    return model


@pytest.fixture
def both(start) -> EmojiModel:
    """A preview of 2x2 codes, then 4x4."""
    transformer = PreviewLlamaGen(start.transformer.config, side=2)
    transformer.load_state_dict(transformer.state_dict() | start.transformer.state_dict())
    nn.init.normal_(transformer.mark)
    return assembled(WITH, transformer, start.word_vectors, start)


def test_a_preview_lies_on_the_plane_of_the_image_and_is_told_from_it(both):
    rotary = both.transformer.rotary
    _, small, image = rotary.split([4, 4, 16])
    assert torch.equal(small, image.view(4, 4, *image.shape[1:])[::2, ::2].flatten(0, 1))
    x, seen = torch.zeros(1, 24, 16), torch.eye(24, dtype=torch.bool)[None, None]
    hidden = both.transformer(x, torch.arange(24)[None], seen)[0]
    told = hidden.abs().amax(-1) > 0
    assert told.tolist() == [False] * 4 + [True] * 4 + [False] * 16


def test_training_and_decoding_see_the_same_sequence(both):
    result = generate(both, PROMPTS, "ar", temperature=0, guidance=1.0)
    assert [one.grid.n_codes for one in grids_of(both)] == [4, 16]
    # With c as large as the grid, the rows lose nothing.
    for method in ("mc-sjd", "pjd"):
        found = generate(both, PROMPTS, method, temperature=0, guidance=1.0)
        assert torch.equal(found.tokens, result.tokens), method
    ids = both.words.encode(PROMPTS)
    codes = torch.cat([result.previews[0], result.tokens], dim=1)
    unconditional = torch.zeros(2, dtype=torch.bool)
    logits = both.transformer.teacher_forced(both.word_vectors(ids), ids > 0, unconditional, codes)
    expected = logits.log_softmax(-1).gather(-1, codes[..., None]).squeeze(-1)
    small, _ = log_likelihood(both.before, PROMPTS, result.previews[0], 1.0, 1.0)
    large, _ = log_likelihood(both, PROMPTS, result.tokens, 1.0, 1.0, previews=result.previews)
    torch.testing.assert_close(torch.cat([small, large], dim=1), expected, atol=1e-4, rtol=1e-4)


def test_a_picture_of_half_the_size_is_encoded_first(start):
    tokenizer = PreviewTokenizer(codes=7, channels=(4, 8), blocks=(1, 1))
    tokenizer.load_state_dict(start.tokenizer.state_dict())
    drawn = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 16, 16, 3), dtype=torch.uint8, generator=drawn)
    codes = tokenizer.encode(images)
    assert torch.equal(codes[:, :4], start.tokenizer.encode(halved(images)).flatten(1))
    assert torch.equal(codes[:, 4:], start.tokenizer.encode(images).flatten(1))
    assert halved(images)[0, 0, 0, 0] == images[0, :2, :2, 0].double().mean().round()


def test_scores_are_the_likelihood_and_its_excess(both):
    result = generate(both, PROMPTS, "ar")
    previews = list(result.previews)
    nats, excess = nats_and_excess(both, PROMPTS, result.tokens, 2.0, previews=previews)
    expected, _ = log_likelihood(both, PROMPTS, result.tokens, 2.0, 1.0, previews=previews)
    torch.testing.assert_close(nats, expected.double().mean(1))
    # Over many images of AR the excess is 0, which the likelihood itself is not.
    many = generate(both, PROMPTS * 200, "ar")
    nats, excess = nats_and_excess(both, PROMPTS * 200, many.tokens, 2.0, previews=many.previews)
    error = float(excess.std()) / 400**0.5
    assert abs(float(excess.mean())) < 4 * error < float(-nats.mean()) / 4


def test_the_summary_compares_image_by_image():
    rows = []
    drafted = {"random": 2, "repeat-left": 1, "preview": 0}
    for model, initial in product((WITH, WITHOUT), drafted):
        for number, case in enumerate(CASES):
            if initial not in first_drafts(case, model == WITH):
                continue
            images = np.arange(4)
            steps = images + 10 * number + drafted[initial] + 5 * (model == WITH)
            table = {"model": model, "name": case.name, "initial": initial, "image": images}
            nats = -1.0 - 0.1 * number + 0.01 * images - (model == WITH)
            rows.append(pd.DataFrame(table | {"steps": steps, "nats": nats, "excess": -0.1}))
    # The order of the images does not matter.
    table = pd.concat([part[::-1] if len(rows) % 2 else part for part in rows])
    found = summary(table)
    assert len(found["cases"]) == len(rows)
    last = found["cases"][0]
    assert last["gap"]["mean"] == 0 and "AR" in shown(last)
    differences = {(one["name"], one["what"]): one for one in found["differences"]}
    sjd = differences["SJD", "context"]
    assert sjd["steps"] == {"mean": 5, "low": 5, "high": 5} and sjd["gap"]["mean"] == 0
    assert differences["SJD", "drafts"]["steps"]["mean"] == -2
    assert differences["SJD", "drafts, left"]["steps"]["mean"] == -1
    assert ("AR", "drafts") not in differences
    assert known(table, WITH, 0) >= {("SJD", "preview"), ("AR", "random")}
    assert known(pd.DataFrame(), WITH, 0) == set() and known(table, WITH, 4) == set()
    wide = intervals(pd.DataFrame({"steps": np.arange(100)}))["steps"]
    assert wide["low"] < wide["mean"] == 49.5 < wide["high"]


def test_prompts_are_held_out_and_fewer_are_the_first_ones():
    many = captions(8)
    assert captions(4) == many[:4] and len(set(many)) == 8
