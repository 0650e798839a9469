"""Comments and docstrings make no run out of date; whatever else a file says does."""

import json

import pytest

from pjd.pipeline.fingerprint import fingerprints, imported_beside, main, stage_files

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
    def tell(code: str, name: str = "module.py") -> dict[str, list[str]]:
        folder = tmp_path / name.removesuffix(".py")
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(code)
        return fingerprints([folder])

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


@pytest.mark.parametrize(
    "more",
    [
        "import os\nfrom pjd.decoder import mask\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n",
        "'A text by itself documents what is before it.'\n",
    ],
)
def test_imports_and_texts_say_nothing(told, more):
    assert told(more + CODE) == told(CODE)
    assert told(CODE + more) == told(CODE)


def test_a_definition_may_move_to_another_module(tmp_path):
    first, function = CODE.split("def f")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "module.py").write_text(CODE)
    (tmp_path / "two" / "deep").mkdir(parents=True)
    (tmp_path / "two" / "a.py").write_text("from two.deep.b import f\n" + first)
    (tmp_path / "two" / "deep" / "b.py").write_text("def f" + function)
    assert fingerprints([tmp_path / "one"]) == fingerprints([tmp_path / "two"])
    (tmp_path / "two" / "deep" / "b.py").write_text("def f" + function.replace("1", "2"))
    assert fingerprints([tmp_path / "one"]) != fingerprints([tmp_path / "two"])


def test_an_import_within_a_function_says_nothing_and_its_use_does(told):
    inside = "def f():\n    from a import g\n    return g()\n"
    assert told(inside) == told(inside.replace("from a", "from b"))
    assert told(inside) != told(inside.replace("return g()", "return h()"))


def test_statements_that_define_nothing_are_told_in_order(told):
    assert told("f(1)\nf(2)\n") != told("f(2)\nf(1)\n")


def test_a_notebook_says_what_its_code_cells_say(tmp_path):
    def notebook(*cells: str) -> dict[str, list[str]]:
        path = tmp_path / "a.ipynb"
        coded = [{"cell_type": "code", "source": cell.splitlines(True)} for cell in cells]
        told = {"cell_type": "markdown", "source": ["# Not *Python*"]}
        path.write_text(json.dumps({"cells": [told, *coded]}))
        return fingerprints([path])

    assert notebook("x = 1\ny = 2", "x  # a comment") == notebook("x = 1; y = 2\nx")
    assert notebook("x = 1\ny = 2", "x") != notebook("y = 2\nx = 1", "x")


def test_the_decoder_of_the_pipeline_has_one(tmp_path):
    assert main(["hash-decoder", str(tmp_path / "decoder.json")]) == 0
    written = json.loads((tmp_path / "decoder.json").read_text())
    assert written == fingerprints(stage_files("hash-decoder"))
    names = {"03_decode.ipynb", "Engine", "verify", "visible", "schedule", "PRESETS"}
    assert names <= written.keys()


def test_an_adapter_is_itself_and_what_it_imports_of_its_folder(tmp_path):
    for name, text in {
        "a": "from pkg.b import x\nimport os",
        "b": "def f():\n    from pkg.c import y",
        "c": "from elsewhere import a",
        "d": "from pkg.a import z",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert [path.stem for path in imported_beside(tmp_path / "a.py")] == ["a", "b", "c"]


def test_code_that_is_none_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "dvc.yaml").write_text("stages: {hash-decoder: {deps: [broken.py]}}")
    (tmp_path / "broken.py").write_text("def f(:")
    monkeypatch.setattr("pjd.pipeline.fingerprint.ROOT", tmp_path)
    assert main(["hash-decoder", str(tmp_path / "x.json")]) == 1
    assert "broken.py" in capsys.readouterr().err and not (tmp_path / "x.json").exists()
