"""Settings: what runs share that are compared with each other, and with one run of AR."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pjd.errors import ParameterError, check_choice, check_text
from pjd.models.registry import adapter, takes_prompts, weights_of
from pjd.paths import ROOT, SETTINGS
from pjd.pipeline.files import folder, read_table, write_json
from pjd.pipeline.fingerprint import fingerprints, imported_beside
from pjd.pipeline.params import parameters
from pjd.pipeline.prompts import read

SAMPLING = ("guidance", "temperature", "top_k", "top_p", "min_p")
"""Options of the decoder that a setting has, for all its runs; a run has all others."""


class Setting(NamedTuple):
    """A prepared setting.

    Attributes:
        name: key of ``settings`` in params.yaml.
        model: what :func:`pjd.load` takes.
        sampling: options of the decoder; those that it does not name are the method's own.
        pictures: folder of the pictures that the prompts describe, if there are any.
        prompts: one row per image: prompt, group and, for captions of COCO, image_id.
    """

    name: str
    model: str
    sampling: dict[str, Any]
    pictures: Path | None
    prompts: pd.DataFrame


def prepare(name: str) -> None:
    """Write what decoding depends on: the prompts, the sampling, digests of weights and adapter.

    Args:
        name: key of ``settings`` in params.yaml.

    Raises:
        ParameterError: if there is no such setting, it has a key that no setting has, or its
            prompts are no prompts.
        FileNotFoundError: if there is no file of prompts.
        ValueError: if a file of the model is damaged.
    """
    settings = parameters()["settings"]
    check_choice("setting", name, tuple(settings))
    values = dict(settings[name])
    table = read(values.pop("prompts"), values.pop("images"))
    model, pictures = values.pop("model"), values.pop("pictures", None)
    values.pop("ar")
    unknown = sorted(set(values) - set(SAMPLING))
    if unknown:
        allowed = f"no setting has it; it may have {', '.join(SAMPLING)}"
        raise ParameterError(f"settings.{name}.{unknown[0]}", values[unknown[0]], allowed)
    with folder(SETTINGS / name) as partial:
        table.to_parquet(partial / "prompts.parquet", index=False)
        content = {"model": model, "sampling": values, "pictures": pictures}
        code = fingerprints(imported_beside(ROOT / "pjd" / "models" / f"{adapter(model)}.py"))
        content |= {"adapter": code, "weights": weights_of(model)}
        write_json(partial / "setting.json", content)


def read_setting(name: str) -> Setting:
    """What :func:`prepare` wrote.

    Raises:
        FileNotFoundError: if it has not been prepared.
    """
    path = SETTINGS / name
    prompts = read_table(path / "prompts.parquet")
    content = json.loads((path / "setting.json").read_text())
    pictures = content["pictures"]
    return Setting(
        name,
        content["model"],
        content["sampling"],
        None if pictures is None else Path(pictures),
        prompts,
    )


class Chosen(NamedTuple):
    """What the decode notebook decodes.

    Attributes:
        model: what :func:`pjd.load` takes.
        prompts: one row per image: prompt and group.
        options: of the decoder.
    """

    model: str
    prompts: pd.DataFrame
    options: dict[str, Any]


def choose(
    setting: str | None,
    model: str | None,
    prompts: str | None,
    images: int | None,
    options: dict[str, Any],
) -> Chosen:
    """Model, prompts and options of a run, each from one place: the setting, or the arguments.

    Args:
        setting: key of ``settings`` in params.yaml, prepared; None: there is none.
        model: what :func:`pjd.load` takes; None: "emoji".
        prompts: see :func:`pjd.pipeline.prompts.read`; None: "emoji", or "none" for a model that
            takes no prompts.
        images: number of prompts; None: 8.
        options: of the decoder, those that are given.

    Raises:
        ParameterError: if a value is given that the setting has, or the prompts are no prompts.
        FileNotFoundError: if the setting is not prepared, or there is no file of prompts.
    """
    if setting is None:
        model = "emoji" if model is None else model
        check_text("model", model)
        source = prompts or ("emoji" if takes_prompts(model) else "none")
        return Chosen(model, read(source, 8 if images is None else images), options)
    check_text("setting", setting)
    given = {"model": model, "prompts": prompts, "images": images}
    given |= {name: options.get(name) for name in SAMPLING}
    for name, value in given.items():
        if value is not None:
            raise ParameterError(name, value, f"must not be given: the setting {setting} has it")
    prepared = read_setting(setting)
    return Chosen(prepared.model, prepared.prompts, {**options, **prepared.sampling})


def main(arguments: list[str] | None = None) -> int:
    """Command line: ``python -m pjd.pipeline.settings NAME``."""
    parser = argparse.ArgumentParser(prog="pjd.pipeline.settings", description=__doc__)
    parser.add_argument("name", help="key of settings in params.yaml")
    try:
        prepare(parser.parse_args(arguments).name)
    except (ValueError, OSError) as error:
        print(f"pjd: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
