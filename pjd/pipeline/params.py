"""params.yaml, which says what the pipeline runs, and profiles that override parts of it."""

from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from pjd.paths import ROOT


def parameters() -> dict[str, Any]:
    """The pipeline's parameters, params.yaml."""
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def lay_over(profile: Path, parameters: Path) -> list[str]:
    """Replace values of the file ``parameters`` by those of a profile; comments stay.

    Returns:
        The keys that were replaced.

    Raises:
        FileNotFoundError: if there is no such profile.
        ValueError: if it has a key that ``parameters`` lacks.
    """
    from dvc.utils.serialize import modify_yaml

    if not profile.exists():
        known = ", ".join(sorted(path.stem for path in profile.parent.glob("*.yaml")))
        raise FileNotFoundError(f"no profile {profile.stem}: there are {known}")
    values = yaml.safe_load(profile.read_text())
    with modify_yaml(parameters) as present:
        unknown = sorted(set(values) - set(present))
        if unknown:
            raise ValueError(f"{profile}: {parameters.name} has no {', '.join(unknown)}")
        present.update(values)
    return list(values)


def planned() -> pd.DataFrame:
    """The runs of params.yaml: by name, their ``group`` and ``setting``."""
    runs = parameters()["runs"]
    table = pd.DataFrame.from_dict(runs, orient="index")
    return table[["group", "setting"]].rename_axis("run")


def shipped() -> list[str]:
    """Stages whose outputs come with the repository: all runs but those of the group main."""
    settings, runs = parameters()["settings"], planned()
    others = runs.index[runs.group != "main"]
    return [
        "fit-probe",
        *(f"{stage}@{name}" for stage in ("prepare", "compare") for name in settings),
        *(f"{stage}@{name}" for stage in ("decode", "evaluate") for name in others),
    ]


if __name__ == "__main__":
    print(*shipped())
