"""Imports go one way: cli, benchmarks -> pipeline -> measure, emoji -> models, api -> decoder."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from pjd.paths import ROOT

# What each part of pjd may import of pjd; a part is a folder, or a module directly in pjd/.
BOTTOM = {"errors", "paths"}
CORE = BOTTOM | {"decoder", "models"}
RULES = {
    "errors": set(),
    "paths": set(),
    "decoder": BOTTOM | {"decoder"},
    "models": CORE,
    "api": {"decoder", "errors", "models"},
    "emoji": CORE | {"api", "emoji"},
    "measure": CORE | {"api", "measure"},
    "pipeline": CORE | {"api", "measure", "emoji", "pipeline"},
}
SHELL = {"__init__", "cli", "console", "jobs", "upkeep", "doctor", "custom_generate"}
"""Modules that may import all of pjd."""
LONGEST = 300
"""Lines of a file. Adapters, which mirror a checkpoint, and lists of the corpus may be longer."""


def modules(*packages: str) -> dict[str, Path]:
    """Files of all modules of ``packages`` by dotted name; a package has the name of its folder."""
    found = {}
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules("pjd")


def nodes(body: ast.AST, late: bool) -> Iterator[ast.AST]:
    """All nodes below ``body``; without ``late``, only what runs when the module is imported."""
    for node in ast.iter_child_nodes(body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not late:
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not late:
            continue
        yield node
        yield from nodes(node, late)


def imports(name: str, path: Path, late: bool = True) -> set[str]:
    """Names that a module imports, as full dotted names.

    Args:
        name: of the module.
        path: its file.
        late: with imports within functions, and with those for type checkers alone.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in nodes(ast.parse(path.read_text(encoding="utf-8")), late):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            # `from pjd import errors` imports a module, `from pjd.errors import x` a name of one.
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def module_of(imported: str) -> str:
    """The module of ``pjd`` that a dotted name is in."""
    while imported not in MODULES:
        imported = imported.rpartition(".")[0]
    return imported


def part(module: str) -> str:
    """The folder or module directly in ``pjd`` that a module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def is_of(imported: str, package: str) -> bool:
    """Whether a dotted name is ``package`` or in it."""
    return imported == package or imported.startswith(f"{package}.")


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_is_below_it(name):
    own = part(name)
    assert own in RULES or own in SHELL, f"{own} has no rule: say in RULES what it may import"
    imported = imports(name, MODULES[name])
    wrong = {other for other in imported if is_of(other, "benchmarks") or is_of(other, "tests")}
    if own in RULES:
        ours = {module_of(other) for other in imported if is_of(other, "pjd")}
        wrong |= {other for other in ours if part(other) not in RULES[own]}
    assert not wrong, f"{name} must not import {', '.join(sorted(wrong))}"


def test_no_module_imports_itself_through_others():
    below = {
        name: {module_of(o) for o in imports(name, path, late=False) if is_of(o, "pjd")} - {name}
        for name, path in MODULES.items()
    }
    # Take away, again and again, what imports nothing that is left: a circle cannot be taken away.
    left = dict(below)
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"in a circle, or above one: {', '.join(sorted(left))}"


def test_the_imports_of_a_module_are_read_wherever_they_stand(tmp_path):
    path = tmp_path / "module.py"
    path.write_text(
        "import pjd.api\n"
        "from pjd import errors\n"
        "from . import cache\n"
        "from .. import paths\n"
        "if TYPE_CHECKING:\n"
        "    from pjd.decoder.state import State\n"
        "def f():\n"
        "    from pjd.models.registry import load\n"
    )
    first = {"pjd.api", "pjd.errors", "pjd.decoder.cache", "pjd.paths"}
    late = {"pjd.decoder.state.State", "pjd.models.registry.load"}
    assert imports("pjd.decoder.module", path) == first | late
    assert imports("pjd.decoder.module", path, late=False) == first
    assert module_of("pjd.decoder.state.State") == "pjd.decoder.state"
    assert module_of("pjd.ParameterError") == "pjd"
    assert [part(name) for name in ("pjd.decoder", "pjd.api", "pjd")] == [
        "decoder",
        "api",
        "__init__",
    ]


def test_few_modules_lie_directly_in_the_package():
    assert len(list((ROOT / "pjd").glob("*.py"))) <= 10


@pytest.mark.parametrize(
    "name", [name for name in MODULES if part(name) != "models" and name != "pjd.emoji.corpus"]
)
def test_a_file_is_short(name):
    lines = len(MODULES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST, f"{name} has {lines} lines: split it"
