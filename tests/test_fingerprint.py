"""Comments and docstrings make no run out of date; whatever else a file says does."""

import json

import pytest

from pjd.pipeline.fingerprint import fingerprints, main, statements

CODE = '''"""A module."""
LIMIT = 3

class A:
    """A class."""

def f(x: int = 1) -> str:
    """A function."""
    return f"{x!r:>4} {LIMIT}"  # a comment
'''
SAME = """LIMIT=3
class A: pass
def f(
    x: int = 1,
) -> str:
    # another comment
    return f'{x!r:>4} {LIMIT}'
"""


@pytest.fixture
def told(tmp_path):
    def tell(code: str) -> str:
        path = tmp_path / "module.py"
        path.write_text(code)
        return statements(path)

    return tell


def test_comments_docstrings_and_layout_say_nothing(told):
    assert told(CODE) == told(SAME.replace("class A: pass", "class A:\n  'Other.'"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("LIMIT = 3", "LIMIT = 4"),
        ("LIMIT = 3", "LIMIT = 3.0"),
        ("x: int", "x: float"),
        ("{x!r:>4}", "{x!r:>5}"),
        ("{x!r:>4}", "{x:>4}"),
        ("return ", ""),
        ("def f", "async def f"),
        ("x: int = 1", "x: int = 1, /"),
    ],
)
def test_what_else_changes_is_told(told, before, after):
    assert told(CODE.replace(before, after)) != told(CODE)


def test_a_notebook_says_what_its_code_cells_say(tmp_path):
    path = tmp_path / "a.ipynb"
    cells = [
        {"cell_type": "markdown", "source": ["# Not *Python*"]},
        {"cell_type": "code", "source": ["x = 1\n", "y = 2"]},
        {"cell_type": "code", "source": ["x  # a comment"]},
    ]
    path.write_text(json.dumps({"cells": cells}))
    (tmp_path / "a.py").write_text("x = 1; y = 2\nx")
    assert statements(path) == statements(tmp_path / "a.py")


def test_the_decoder_of_the_pipeline_has_one(tmp_path, capsys):
    assert main(["decoder", str(tmp_path / "decoder.json")]) == 0
    written = json.loads((tmp_path / "decoder.json").read_text())
    assert written == fingerprints("decoder") and len(set(written.values())) == len(written)
    assert {
        "notebooks/03_decode.ipynb",
        "pjd/decoder/engine.py",
        "pjd/decoder/verify.py",
    } <= written.keys()


def test_code_that_is_none_is_one_line(told, tmp_path, monkeypatch, capsys):
    (tmp_path / "dvc.yaml").write_text("stages: {decoder: {deps: [broken.py]}}")
    (tmp_path / "broken.py").write_text("def f(:")
    monkeypatch.setattr("pjd.pipeline.fingerprint.ROOT", tmp_path)
    assert main(["decoder", str(tmp_path / "x.json")]) == 1
    assert "broken.py" in capsys.readouterr().err and not (tmp_path / "x.json").exists()
