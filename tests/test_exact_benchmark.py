"""What was tried beyond MC-SJD: the stand-ins are exact where they say so, the sums are right."""

import json
import re
from contextlib import ExitStack
from unittest.mock import patch

import pytest
import torch
from typer.testing import CliRunner

from benchmarks import exact as tried
from benchmarks.__main__ import app
from benchmarks.exact import Case, cases, measured
from benchmarks.retest import Retest
from benchmarks.siblings import Siblings, one_of_siblings
from benchmarks.stand_ins import FirstDrafts, Redrafted, averaged, sharpened
from benchmarks.watch import Watch
from pjd.api import generate
from pjd.decoder.methods import PRESETS, configure
from pjd.paths import ROOT
from tests.decoding import DRAWS
from tests.enumeration import decode, exact, p_value, rectangle
from tests.tiny import tiny_model

CAPTIONS = ["cat", "dog", "red cat"]


def stand_in(rule: object) -> ExitStack:
    """The engine with a rule in place of its own."""
    stack = ExitStack()
    stack.enter_context(patch("pjd.decoder.shapes.KEEP_SHARE", 0.0))
    for name in tried.REPLACED:
        if hasattr(rule, name):
            stack.enter_context(patch(f"pjd.decoder.engine.{name}", getattr(rule, name)))
    return stack


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (FirstDrafts(1.0), {"window": 6}),
        (FirstDrafts(0.5), {"window": 5, "guidance": 2.0}),
        (FirstDrafts(0.0), {"window": 4}),
        (Redrafted(sharpened(0.5)), {"window": 6, "guidance": 2.0}),
        (Redrafted(averaged(0.8)), {"window": 6}),
        (Siblings(3, 1), {"window": 6, "guidance": 2.0}),
        (Siblings(2, 4), {"window": 4}),
    ],
)
def test_what_claims_to_be_exact_draws_from_the_model(rule, options):
    model = rectangle(2, 3, vocabulary=3)
    config = configure("mc-sjd", seed=100_000, **options)
    with stand_in(rule):
        counts = decode(model, config, 20_000, 2_500)
    assert p_value(counts, exact(model, config)) > 1e-3


def test_siblings_are_tested_one_after_the_other():
    # Token 0 was rejected: p is (0, 1/2, 1/2) then, and q is (0, 3/4, 1/4). A sibling 1 is
    # accepted with 2/3; a sibling 2 always.
    p, q = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([0.6, 0.3, 0.1])
    rejected, draws = torch.zeros(DRAWS, dtype=torch.long), torch.Generator().manual_seed(1)
    many = p.expand(DRAWS, -1), q.expand(DRAWS, -1), rejected
    token, accepted = one_of_siblings(*many, 2, draws)
    assert float(accepted.double().mean()) == pytest.approx(0.75 * 2 / 3 + 0.25, abs=0.01)
    # What is committed after a rejection is drawn from norm(max(0, p - q)), as without siblings.
    assert float((token == 1).double().mean()) == pytest.approx(0.5, abs=0.01)
    # After a failed sibling 1, p is (0, 0, 1), and the third sibling is token 2.
    assert one_of_siblings(*many, 3, draws)[1].all()


@pytest.mark.parametrize("rule", [Watch(), Retest()])
def test_watching_changes_no_code(rule):
    model, method = tiny_model(), "pjd-plus" if isinstance(rule, Retest) else "mc-sjd"
    plain = generate(model, CAPTIONS, method)
    with stand_in(rule):
        watched = generate(model, CAPTIONS, method)
    assert torch.equal(watched.tokens, plain.tokens)
    assert rule.found(model, CAPTIONS, watched)


def test_nothing_is_rejected_again_where_rows_were_complete():
    model, rule = tiny_model(), Retest()
    with stand_in(rule):
        result = generate(model, CAPTIONS, "pjd-plus", context=4)
    found = rule.found(model, CAPTIONS, result)["retested"]
    assert max(found.values()) < 1e-3
    with stand_in(rule):
        result = generate(model, CAPTIONS, "pjd-plus", context=1)
    found = rule.found(model, CAPTIONS, result)["retested"]
    assert 0 < found["rows with a rejection"] < found["tokens to decode again"] < 16


def test_a_case_is_measured_against_ar():
    model = tiny_model()
    of_ar = measured(model, CAPTIONS, Case("AR", "ar", {}), None)
    assert (of_ar["steps"], of_ar["compression"], of_ar["gap"]) == (16.0, 1.0, [0.0] * 3)
    baseline = torch.tensor(of_ar["log_likelihood"], dtype=torch.float64)
    again = measured(model, CAPTIONS, Case("AR", "ar", {}), baseline)
    assert again["gap"] == pytest.approx([0.0] * 3, abs=1e-4)
    other = measured(model, CAPTIONS, Case("watch", "mc-sjd", {}, Watch()), baseline)
    assert other["steps"] < 16 and other["watched"]


def test_every_case_has_its_own_name_and_a_method():
    for columns in (16, 32):
        listed = cases(columns)
        assert len({case.name for case in listed}) == len(listed)
        assert {case.method for case in listed} <= set(PRESETS)


def test_the_command_keeps_what_the_file_has(tmp_path, monkeypatch):
    monkeypatch.setattr(tried, "load", lambda name: tiny_model())
    monkeypatch.setattr(
        tried, "cases", lambda columns: [Case("AR", "ar", {}), Case("window", "sjd", {})]
    )
    monkeypatch.setattr(tried, "read", lambda source, count: Captions())
    output = tmp_path / "exact.json"
    arguments = ["exact", "-o", str(output), "--images", "3"]
    run = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert run.exit_code == 0 and "sjd" in run.stdout
    written = json.loads(output.read_text())["models"]["emoji-64, 3 images"]
    assert list(written) == ["ar", "sjd"]
    monkeypatch.setattr(tried, "measured", None)
    run = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert run.exit_code == 0
    assert json.loads(output.read_text())["models"]["emoji-64, 3 images"] == written


class Captions:
    """A table with the captions."""

    def __init__(self) -> None:
        """As pandas has them."""
        self.prompt = self

    def tolist(self) -> list[str]:
        """The captions."""
        return CAPTIONS


GRIDS = {"16×16": "emoji-64, 64 images", "32×32": "emoji-128, 32 images"}
"""First cells of the tables of docs/tried.md, and what the cases of each were measured on."""

COLUMNS = {"steps": "steps", "times fewer": "compression", "fed per step": "fed"}
"""Columns of these tables with one number, and where it is measured."""


def test_the_page_has_the_measured_numbers():
    text = (ROOT / "docs/tried.md").read_text(encoding="utf-8").replace("−", "-")
    known = json.loads(tried.RESULTS.read_text())["models"]
    seen = 0
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        head, _, *rows = (
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()
        )
        if head[0] not in GRIDS:
            continue
        for name, *cells in rows:
            case = known[GRIDS[head[0]]][name.strip("`")]
            for column, cell in zip(head[1:], cells, strict=True):
                measure = COLUMNS.get(column, re.split(r",| \[", column)[0].replace(" ", "_"))
                if cell == "–":
                    assert measure not in case
                    continue
                wanted = case[measure] if isinstance(case[measure], list) else [case[measure]]
                written = re.findall(r"[-+]?\d+\.\d+", cell)
                assert len(written) == len(wanted), (name, column)
                for one, number in zip(written, wanted, strict=True):
                    digits = len(one.partition(".")[2])
                    assert abs(float(one) - number) <= 0.51 * 10.0**-digits, (name, column)
            seen += 1
    assert seen > 20
