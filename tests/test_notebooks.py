"""Every notebook is clean, parameterised and free of any one machine's paths."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pjd.models.embedded import embedded_in
from pjd.paths import NOTEBOOKS, WEIGHTS
from pjd.pipeline.notebook import run

MOST_CELLS = 14
ABSOLUTE_PATH = re.compile(r"(?<![\w.])/(?:work|root|home)\b")
PATHS = sorted(
    path for path in NOTEBOOKS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts
)

Notebook = dict[str, Any]


@pytest.fixture(params=PATHS, ids=lambda path: path.relative_to(NOTEBOOKS).as_posix())
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def notebook(path: Path) -> Notebook:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook: Notebook) -> list[Notebook]:
    """Return the notebook's code cells, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_has_no_outputs(notebook: Notebook) -> None:
    for index, cell in enumerate(code_cells(notebook)):
        assert cell["outputs"] == [], f"code cell {index} has outputs: run `make format`"
        assert cell["execution_count"] is None, f"code cell {index} was run: run `make format`"


def test_uses_the_active_environment(notebook: Notebook) -> None:
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"


def test_starts_with_what_it_is_about(notebook: Notebook) -> None:
    assert notebook["cells"][0]["cell_type"] == "markdown"


def test_has_one_parameters_cell_first(notebook: Notebook) -> None:
    tagged = [
        cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])
    ]
    assert len(tagged) == 1
    assert code_cells(notebook)[0] is tagged[0]


def test_is_short(notebook: Notebook) -> None:
    assert len(notebook["cells"]) <= MOST_CELLS, "move the work into pjd/"


def test_names_no_place_of_one_machine(notebook: Notebook) -> None:
    for index, cell in enumerate(notebook["cells"]):
        found = ABSOLUTE_PATH.search("".join(cell["source"]))
        assert found is None, f"cell {index} has an absolute path: {found[0]}"


@pytest.mark.parametrize(
    ("text", "blocked"),
    [
        ("open('/home/me/data')", True),
        ("/root", True),
        ("see /home/me/x.png", True),
        ("notebooks/work/x", False),
        ("../work/x", False),
        ("/homepage", False),
    ],
)
def test_the_path_rule_itself(text: str, blocked: bool) -> None:
    assert bool(ABSOLUTE_PATH.search(text)) == blocked


@pytest.mark.slow
@pytest.mark.skipif(not embedded_in(WEIGHTS / "emoji-64"), reason="no weights: run `make data`")
def test_the_first_notebook_decodes_one_image_by_five_decoders(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # A kernel shows its figures by its own backend.
    monkeypatch.delenv("MPLBACKEND")
    run(NOTEBOOKS / "00_one_image.ipynb", tmp_path / "one.html", {"model": "emoji-64"})
    page = (tmp_path / "one.html").read_text()
    # The image, boards, a step with its mask, and five pictures; and the steps of AR.
    assert page.count("data:image/png") >= 4
    assert "256 tokens, 16 rows of 16" in page and "in 256 steps" not in page
    for title in ("AR", "SJD", "MC-SJD", "PJD", "PJD-plus"):
        assert f"<th>{title}</th>" in page
