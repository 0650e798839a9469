"""Prompts of a run: those of the emoji corpus, or those of a file."""

import json
from pathlib import Path

import pandas as pd

from pjd.errors import ParameterError
from pjd.paths import DATA

SHARES = {"unseen-style": 0.5, "unseen-name": 0.25, "train": 0.25}
"""Share of each group in the evaluation prompts of the corpus."""


def emoji(count: int) -> pd.DataFrame:
    """The first ``count`` evaluation prompts of the corpus: columns prompt and group.

    Half of them are training names in a style held out for them, a quarter are unseen names, and a
    quarter training captions. Each group has a fixed order, so a small set is part of a large one.
    """
    listed = json.loads((DATA / "prompts.json").read_text())
    parts = []
    remaining = count
    for number, (group, share) in enumerate(SHARES.items()):
        last = number == len(SHARES) - 1
        size = remaining if last else min(remaining, -(-int(count * share * 4) // 4))
        if size > len(listed[group]):
            raise ParameterError("images", count, f"only {len(listed[group])} prompts of {group}")
        parts.append(pd.DataFrame({"prompt": listed[group][:size], "group": group}))
        remaining -= size
    return pd.concat(parts, ignore_index=True)


def coco(path: Path) -> pd.DataFrame:
    """One caption per image of COCO's captions_val2017.json, in the order of the images' ids.

    COCO has five captions per image; this takes the one with the lowest id. Columns: prompt, group
    ("coco") and image_id, which names the picture that the caption describes.
    """
    listed = pd.DataFrame(json.loads(path.read_text())["annotations"])
    chosen = listed.sort_values(["image_id", "id"]).drop_duplicates("image_id")
    prompt = chosen.caption.str.split().str.join(" ")
    return pd.DataFrame({"prompt": prompt, "group": "coco", "image_id": chosen.image_id})


def parti(path: Path) -> pd.DataFrame:
    """The prompts of PartiPrompts.tsv, with their categories as groups."""
    # A prompt may be a number, or a word that pandas would read as a missing value.
    listed = pd.read_csv(path, sep="\t", quoting=3, dtype=str, keep_default_na=False)
    return pd.DataFrame({"prompt": listed["Prompt"], "group": listed["Category"]})


def lines(path: Path) -> pd.DataFrame:
    """The prompts of a text file with one per line; blank lines are skipped."""
    listed = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return pd.DataFrame({"prompt": [line for line in listed if line], "group": "file"})


READERS = {".json": coco, ".tsv": parti, ".txt": lines}
"""Functions that read prompt files, by the end of the file's name; see docs/prompts.md."""


def read(source: str, count: int | None = None) -> pd.DataFrame:
    """Prompts and their groups, one row per prompt.

    Args:
        source: "emoji" or the path of the corpus' own prompts, or the path of a file in one of the
            formats of :data:`READERS`.
        count: number of prompts, from the first one; None: all prompts of a file.

    Raises:
        ParameterError: if there are fewer prompts than ``count``, if the source has no known
            format, or if a file is not in the format of its name.
        FileNotFoundError: if there is no such file.
    """
    if source == "emoji" or Path(source).absolute() == DATA / "prompts.json":
        if count is None:
            raise ParameterError("images", count, "must be given for the prompts of emoji")
        return emoji(count)
    path = Path(source)
    if path.suffix not in READERS:
        allowed = f"must be emoji, or a file whose name ends in {', '.join(READERS)}"
        raise ParameterError("prompts", source, allowed)
    if not path.exists():
        raise FileNotFoundError(f"prompts: no file {path}")
    try:
        table = READERS[path.suffix](path)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        reader = READERS[path.suffix].__name__
        allowed = f"is not in the format {reader} of docs/prompts.md ({error})"
        raise ParameterError("prompts", source, allowed) from error
    if count is not None and count > len(table):
        raise ParameterError("images", count, f"{path} has only {len(table)} prompts")
    return table.head(count if count is not None else len(table)).reset_index(drop=True)
