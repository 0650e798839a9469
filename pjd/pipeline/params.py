"""params.yaml, which says what the pipeline runs, and profiles that override parts of it."""

from pathlib import Path
from typing import Any

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


def planned(sweeps: bool = False) -> list[str]:
    """Names of the runs in params.yaml: the main ones and, with ``sweeps``, all others."""
    chosen = parameters()
    names = [*chosen["baselines"], *(f"context-{context}" for context in chosen["contexts"])]
    more = [f"{item['folder']}/{name}" for name, item in chosen["sweeps"].items()]
    more += [f"{item['model']}/{item['run']}" for item in chosen["other_runs"].values()]
    return [f"main/{name}" for name in names] + (more if sweeps else [])
