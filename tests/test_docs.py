"""Code that the documentation shows runs."""

import re

import pytest

from pjd.methods import PRESETS
from pjd.models.registry import available
from pjd.paths import ROOT
from pjd.rules import RULES


def examples(page: str) -> list[str]:
    """Python blocks of a page below the root."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


@pytest.mark.skipif(not available(), reason="no embedded model on disk: run `make data`")
def test_the_example_of_a_new_decoder_runs(capsys):
    (code,) = examples("docs/adding_a_decoder.md")
    assert len(code.splitlines()) < 40
    try:
        exec(code, {})
    finally:
        # What the example registers must not outlive it.
        RULES.pop("typical", None)
        PRESETS.pop("typical-rows", None)
    steps = re.findall(r"\[(\d+), (\d+)\]", capsys.readouterr().out)
    paper, typical = (sum(map(int, pair)) for pair in steps)
    assert typical < paper


def test_the_example_of_a_model_of_ones_own_runs(capsys):
    (code,) = examples("docs/your_own_model.md")
    exec(code, {})
    steps, size = re.fullmatch(r"(\[.*\]) (\(.*\))\n", capsys.readouterr().out).groups()
    assert size == "(8, 8)"
    # Fewer than the 64 forwards of AR, its row ends not counted.
    assert all(8 <= int(count) < 64 for count in steps.strip("[]").split(","))
