"""Hash code, so that what it made is out of date only if the code has changed.

Comments, docstrings, formatting, imports and the module of a definition are left out: otherwise
a corrected text or a moved function would cost hours of decoding.
"""

import argparse
import ast
import hashlib
import json
import sys
from collections import defaultdict
from pathlib import Path

import yaml

from pjd.paths import ROOT
from pjd.pipeline.files import write_json

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def plain(node: object) -> object:
    """A syntax tree as nested lists, without empty fields, which not all Python versions have."""
    if isinstance(node, ast.AST):
        fields = ((name, plain(value)) for name, value in ast.iter_fields(node))
        return [type(node).__name__, *(field for field in fields if field[1] != [])]
    return [plain(part) for part in node] if isinstance(node, list) else repr(node)


def is_silent(statement: ast.stmt) -> bool:
    """Whether a statement computes nothing: an import, or a condition for type checkers only."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return True
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"


def read_tree(path: Path) -> ast.Module:
    """The syntax tree of a module, or of a notebook's code cells, without docstrings and imports.

    Raises:
        SyntaxError: if it is not Python.
    """
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(source)["cells"] if cell["cell_type"] == "code"]
        source = "\n".join("".join(cell["source"]) for cell in cells)
    tree = ast.parse(source, filename=str(path))
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body.pop(0)
        for block in ("body", "orelse", "finalbody"):
            statements = getattr(node, block, None)
            # A string after an assignment documents it, as a comment would.
            if isinstance(statements, list):
                computing = [one for one in statements if not is_silent(one) and not is_text(one)]
                setattr(node, block, computing)
    return tree


def is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a string by itself."""
    expression = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(expression, ast.Constant) and isinstance(expression.value, str)


def name_of(statement: ast.stmt) -> str:
    """The name that a statement at the top of a module defines; "" if it defines none."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return statement.name
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return ", ".join(ast.unparse(target) for target in targets)
    return ""


def fingerprints(paths: list[Path]) -> dict[str, list[str]]:
    """SHA-256 of every definition in ``paths``, by name; a folder stands for all its modules.

    Statements that define nothing, and all cells of a notebook, are hashed together, in order. A
    file of another kind is hashed as it is.
    """
    files = []
    for path in paths:
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    found: dict[str, list[str]] = defaultdict(list)

    def add(name: str, content: object) -> None:
        found[name].append(hashlib.sha256(json.dumps(content).encode()).hexdigest())

    for path in files:
        if path.suffix not in (".py", ".ipynb"):
            add(path.name, path.read_text(encoding="utf-8"))
            continue
        body = read_tree(path).body
        if path.suffix == ".ipynb":
            add(path.name, plain(body))
            continue
        for statement in body:
            if name_of(statement):
                add(name_of(statement), plain(statement))
        others = [plain(statement) for statement in body if not name_of(statement)]
        if others:
            add("", others)
    return {name: sorted(hashes) for name, hashes in found.items()}


def imported_beside(path: Path) -> list[Path]:
    """A module, and all modules of its folder that it imports, itself or through others."""
    found, waiting = {path}, [path]
    while waiting:
        tree = ast.parse(waiting.pop().read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                beside = path.parent / f"{(node.module or '').rpartition('.')[2]}.py"
                if beside.exists() and beside not in found:
                    found.add(beside)
                    waiting.append(beside)
    return sorted(found)


def stage_files(stage: str) -> list[Path]:
    """The files and folders that ``stage`` of dvc.yaml depends on."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return [ROOT / name for name in stages[stage]["deps"]]


def main(arguments: list[str] | None = None) -> int:
    """Command line: ``python -m pjd.pipeline.fingerprint STAGE JSON``."""
    parser = argparse.ArgumentParser(prog="pjd.pipeline.fingerprint", description=__doc__)
    parser.add_argument("stage", help="of dvc.yaml")
    parser.add_argument("output", type=Path)
    options = parser.parse_args(arguments)
    try:
        write_json(options.output, fingerprints(stage_files(options.stage)))
    except (SyntaxError, OSError) as error:
        print(f"pjd: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
