"""pyproject.toml, requirements.lock and environment.yml describe one environment."""

import re
import tomllib
from importlib.metadata import version

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from pjd.paths import ROOT

CARD = ["torch", "jupyter", "papermill", "transformers", "torchmetrics", "seaborn", "dvc"]

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
RUNTIME = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = PROJECT["optional-dependencies"]
DEVELOPMENT = [
    Requirement(line) for line in (*EXTRAS["ray"], *EXTRAS["dev"]) if not line.startswith("pjd[")
]
DIRECT = RUNTIME + DEVELOPMENT
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())


def read_pins(lines: list[str]) -> dict[str, Version]:
    """Read lines of `name==version` as {canonical name: version}; anything else is an error."""
    pins = {}
    for line in lines:
        name, separator, pinned = line.partition("==")
        assert separator, f"not a pin: {line!r}"
        assert re.fullmatch(r"[A-Za-z0-9][\w.-]*", name), f"not a plain name: {line!r}"
        assert canonicalize_name(name) not in pins, f"pinned twice: {line!r}"
        pins[canonicalize_name(name)] = Version(pinned)
    return pins


def lock_lines() -> list[str]:
    """Return the lock's lines, less comments."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def conda_pip_lines() -> list[str]:
    """Return the lines of environment.yml that pip reads."""
    (section,) = (entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict))
    return section


LOCK = read_pins(lock_lines())


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda requirement: requirement.name)
def test_lock_satisfies_pyproject(requirement: Requirement) -> None:
    name = canonicalize_name(requirement.name)
    assert name in LOCK, f"{requirement.name} is in pyproject.toml, not in requirements.lock"
    assert requirement.specifier.contains(LOCK[name])


@pytest.mark.parametrize("requirement", RUNTIME, ids=lambda requirement: requirement.name)
def test_every_range_is_bounded_above(requirement: Requirement) -> None:
    assert not requirement.specifier.contains("99999")


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_every_range_of_an_extra_is_bounded_above(extra: str) -> None:
    for requirement in map(Requirement, EXTRAS[extra]):
        assert requirement.name == "pjd" or not requirement.specifier.contains("99999")


def test_environment_pins_what_the_lock_pins() -> None:
    pins = read_pins([line for line in conda_pip_lines() if not line.startswith("-")])
    assert set(pins) == {canonicalize_name(requirement.name) for requirement in DIRECT}
    assert pins == {name: LOCK[name] for name in pins}


def test_environment_takes_the_rest_from_the_lock() -> None:
    options = [line for line in conda_pip_lines() if line.startswith("-")]
    assert options == ["-c requirements.lock", "-e ."]
    assert CONDA["name"] == PROJECT["name"]
    assert CONDA["channels"] == ["conda-forge"]


def test_environment_python_is_supported() -> None:
    (python,) = (
        entry.removeprefix("python=")
        for entry in CONDA["dependencies"]
        if isinstance(entry, str) and entry.startswith("python=")
    )
    supported = SpecifierSet(PROJECT["requires-python"])
    assert supported.contains(python)
    assert not supported.contains("3.10") and not supported.contains("3.13")


@pytest.mark.parametrize("name", CARD)
def test_card_packages_are_direct(name: str) -> None:
    assert name in {canonicalize_name(requirement.name) for requirement in RUNTIME}


def test_build_tool_is_locked() -> None:
    # The Makefile installs pjd with --no-build-isolation: nothing else would bring the tool.
    for requirement in map(Requirement, PYPROJECT["build-system"]["requires"]):
        assert requirement.specifier.contains(LOCK[canonicalize_name(requirement.name)])


def test_lock_has_no_local_build() -> None:
    # A registry serves no `+cpu`: such a pin installs on the machine that made it only.
    assert not [name for name, pinned in LOCK.items() if pinned.local]


def test_this_environment_is_the_locked_one() -> None:
    """What the tests run in is what the lock says, or their results say nothing about the lock."""
    names = [canonicalize_name(requirement.name) for requirement in RUNTIME]
    other = {
        name: (version(name), str(LOCK[name]))
        for name in names
        if Version(Version(version(name)).public) != LOCK[name]
    }
    assert not other, f"(installed, locked): {other}"
