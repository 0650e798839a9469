"""params.yaml, which says what the pipeline runs, and profiles that override parts of it."""

import re
import shutil
import subprocess
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pjd.errors import one_line
from pjd.paths import ROOT


class Loader(yaml.SafeLoader):
    """Reads YAML as DVC does: 5e-05 is a number, and no key stands twice in a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping at ``node``.

        Raises:
            yaml.constructor.ConstructorError: if a key stands there twice, or is no key.
        """
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and keys.count(key.value) > 1:
                problem = f"{key.value} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, value.start_mark)
        return super().construct_mapping(node, deep)


# PyYAML takes a number with an exponent for a text unless it has a point, and the exponent a sign.
EXPONENT = re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)[eE][-+]?[0-9]+$")
Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+.0123456789"))


def read_yaml(text: str, source: str) -> Any:
    """What a YAML text says.

    Args:
        text: YAML.
        source: how an error names it.

    Raises:
        ValueError: if it is no YAML, in one line with the place.
    """
    try:
        return yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        raise ValueError(f"{source}{place}: {error.problem or 'no YAML'}") from error
    # PyYAML has no error of its own for letters that no YAML has, dates that no calendar has, ...
    except Exception as error:
        raise ValueError(f"{source} is no YAML: {one_line(error)}") from error


def parameters() -> dict[str, Any]:
    """The pipeline's parameters, params.yaml."""
    path = ROOT / "params.yaml"
    return read_yaml(path.read_text(encoding="utf-8"), path.name)


def lay_over(profile: Path, parameters: Path) -> list[str]:
    """Replace values of the file ``parameters`` by those of a profile; comments stay.

    Returns:
        The keys that were replaced.

    Raises:
        FileNotFoundError: if there is no such profile.
        ValueError: if it has a key that ``parameters`` lacks, or is no mapping.
    """
    from dvc.utils.serialize import modify_yaml

    if not profile.exists():
        known = ", ".join(sorted(path.stem for path in profile.parent.glob("*.yaml")))
        raise FileNotFoundError(f"no profile {profile.stem}: there are {known}")
    values = read_yaml(profile.read_text(encoding="utf-8"), profile.name)
    if not isinstance(values, dict):
        raise ValueError(f"{profile}: must be a mapping, such as 'images: 8'")
    with modify_yaml(parameters) as present:
        unknown = sorted(map(str, set(values) - set(present)))
        if unknown:
            raise ValueError(f"{profile}: {parameters.name} has no {', '.join(unknown)}")
        present.update(values)
    return list(values)


def keep_edits(parameters: Path) -> Path | None:
    """Before a profile is laid over the file ``parameters``: make sure that nothing in it is lost.

    Returns:
        None, if git's last commit has the file as it is; else the copy that was made of it, beside
        it, because git does not know it.

    Raises:
        ValueError: if the file has edits that git has not, such as an earlier profile; or if the
            copy that an earlier profile left would be overwritten.
    """
    command = ["git", "show", f"HEAD:./{parameters.name}"]
    try:
        shown = subprocess.run(command, cwd=parameters.parent, capture_output=True)
        committed = shown.stdout if shown.returncode == 0 else None
    except FileNotFoundError:
        # There is no git.
        committed = None
    if committed is not None:
        if committed != parameters.read_bytes():
            raise ValueError(
                f"{parameters.name} has edits that are not committed, which a profile would "
                f"replace: commit them, or undo them with `git checkout {parameters.name}`"
            )
        return None
    copy = parameters.with_name(f"{parameters.name}.before")
    if copy.exists():
        raise ValueError(
            f"{copy} is what an earlier profile replaced: move it back to {parameters.name}, or "
            "delete it to keep what is there now"
        )
    shutil.copyfile(parameters, copy)
    return copy


def planned() -> pd.DataFrame:
    """The runs of params.yaml: by name, their ``group``, ``setting`` and ``options``."""
    runs = parameters()["runs"]
    table = pd.DataFrame.from_dict(runs, orient="index")
    return table[["group", "setting", "options"]].rename_axis("run")


def shipped(lock: Path = ROOT / "dvc.lock") -> list[str]:
    """Stages whose outputs come with the repository: what is measured, but for the main runs.

    Args:
        lock: DVC's list of what has been made; what is not there does not ship yet.
    """
    settings, runs = parameters()["settings"], planned()
    others = runs.index[runs.group != "main"]
    wanted = [
        "fit-probe",
        *(f"{stage}@{name}" for stage in ("prepare", "compare") for name in settings),
        *(f"{stage}@{name}" for stage in ("decode", "evaluate") for name in others),
    ]
    made = read_yaml(lock.read_text(encoding="utf-8"), lock.name)["stages"]
    return [stage for stage in wanted if stage in made]


if __name__ == "__main__":
    print(*shipped())
