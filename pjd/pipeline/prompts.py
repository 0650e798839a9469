"""Prompts of a run: the embedded corpus' own, or those of a file."""

import json
from pathlib import Path

import pandas as pd

from pjd.errors import ParameterError
from pjd.paths import DATA

SHARES = {"unseen-style": 0.5, "unseen-name": 0.25, "train": 0.25}
"""Share of the corpus' evaluation prompts that comes from each group."""


def emoji(count: int) -> pd.DataFrame:
    """The first ``count`` evaluation prompts of the corpus.

    Half are training names in a style held out for them, a quarter unseen names, a quarter
    training captions. Each group is a prefix of a fixed order, so small sets are subsets of large.
    """
    listed = json.loads((DATA / "prompts.json").read_text())
    parts = []
    left = count
    for number, (group, share) in enumerate(SHARES.items()):
        last = number == len(SHARES) - 1
        size = left if last else min(left, -(-int(count * share * 4) // 4))
        if size > len(listed[group]):
            raise ParameterError("images", count, f"only {len(listed[group])} prompts of {group}")
        parts.append(pd.DataFrame({"prompt": listed[group][:size], "group": group}))
        left -= size
    return pd.concat(parts, ignore_index=True)


def coco(path: Path) -> pd.DataFrame:
    """One caption an image of COCO's captions_val2017.json, in the order of the images' ids.

    COCO has five captions an image; the first (least id) stands for it. Columns prompt, group
    ("coco") and image_id, which names the reference picture.
    """
    listed = pd.DataFrame(json.loads(path.read_text())["annotations"])
    first = listed.sort_values(["image_id", "id"]).drop_duplicates("image_id")
    prompt = first.caption.str.split().str.join(" ")
    return pd.DataFrame({"prompt": prompt, "group": "coco", "image_id": first.image_id})


def parti(path: Path) -> pd.DataFrame:
    """PartiPrompts.tsv, its prompts with their categories as groups."""
    # A prompt may be a number, or a word that pandas would take for a missing value.
    listed = pd.read_csv(path, sep="\t", quoting=3, dtype=str, keep_default_na=False)
    return pd.DataFrame({"prompt": listed["Prompt"], "group": listed["Category"]})


def lines(path: Path) -> pd.DataFrame:
    """A text file with one prompt a line; blank lines are skipped."""
    listed = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return pd.DataFrame({"prompt": [line for line in listed if line], "group": "file"})


READERS = {".json": coco, ".tsv": parti, ".txt": lines}
"""Formats of prompt files, by the ending of their names; docs/prompts.md describes them."""


def read(source: str, count: int | None = None) -> pd.DataFrame:
    """Prompts and their groups, one row a prompt.

    Args:
        source: "emoji", or the path of a file in one of the formats of :data:`READERS`.
        count: how many, the first ones; None: all of a file.

    Raises:
        ParameterError: if there are not so many, or the source is none of these or not in the
            format that its name says.
        FileNotFoundError: if there is no such file.
    """
    if source == "emoji":
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
