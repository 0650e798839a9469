"""What code says, comments, docstrings and layout aside: what decoded runs depend on."""

import argparse
import ast
import hashlib
import json
import sys
from pathlib import Path

import yaml

from pjd.paths import ROOT
from pjd.pipeline.files import write_json


def written(node: object) -> object:
    """An abstract syntax tree as nested lists, without what a version of Python adds empty."""
    if isinstance(node, ast.AST):
        fields = ((name, written(value)) for name, value in ast.iter_fields(node))
        return [type(node).__name__, *(field for field in fields if field[1] != [])]
    return [written(part) for part in node] if isinstance(node, list) else repr(node)


def statements(path: Path) -> str:
    """The statements of a module, or of a notebook's code cells.

    Raises:
        SyntaxError: if it is no Python.
    """
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(source)["cells"] if cell["cell_type"] == "code"]
        source = "\n".join("".join(cell["source"]) for cell in cells)
    tree = ast.parse(source, filename=str(path))
    for node in ast.walk(tree):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            node.body.pop(0)
    return json.dumps(written(tree))


def fingerprints(stage: str) -> dict[str, str]:
    """SHA-256 of the :func:`statements` of each file that ``stage`` of dvc.yaml depends on."""
    files = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]["deps"]
    return {file: hashlib.sha256(statements(ROOT / file).encode()).hexdigest() for file in files}


def main(arguments: list[str] | None = None) -> int:
    """Command line: ``python -m pjd.pipeline.fingerprint STAGE JSON``."""
    parser = argparse.ArgumentParser(prog="pjd.pipeline.fingerprint", description=__doc__)
    parser.add_argument("stage", help="of dvc.yaml")
    parser.add_argument("output", type=Path)
    options = parser.parse_args(arguments)
    try:
        write_json(options.output, fingerprints(options.stage))
    except (SyntaxError, OSError) as error:
        print(f"pjd: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
