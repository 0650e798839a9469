"""Prompts of a run: those of the emoji corpus, or those of a file."""

import codecs
import json
import re
from pathlib import Path

import pandas as pd

from pjd.errors import ParameterError, check_integer, check_text, one_line
from pjd.paths import DATA

SHARES = {"unseen-style": 0.5, "unseen-name": 0.25, "train": 0.25}
"""Share of each group in the evaluation prompts of the corpus."""


def emoji(count: int | None) -> pd.DataFrame:
    """The first ``count`` evaluation prompts of the corpus: columns prompt and group; None: all.

    Half of them are training names in a style held out for them, a quarter are unseen names, and a
    quarter training captions. Each group has a fixed order, so a small set is part of a large one.
    """
    listed = json.loads((DATA / "prompts.json").read_text(encoding="utf-8"))
    if count is None:
        every = [pd.DataFrame({"prompt": listed[group], "group": group}) for group in SHARES]
        return pd.concat(every, ignore_index=True)
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


OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""What a file begins with if it is in another encoding than UTF-8; the longest ones first."""


def read_text(path: Path) -> str:
    """A file's text, which is UTF-8 whatever the locale, with or without a byte order mark.

    Raises:
        ParameterError: if it is not UTF-8, naming the line.
    """
    content = path.read_bytes()
    for mark, encoding in OTHER_ENCODINGS.items():
        if content.startswith(mark):
            raise ParameterError("prompts", str(path), f"is {encoding}: save it as UTF-8")
    if b"\0" in content:
        raise ParameterError("prompts", str(path), "has zero bytes, as UTF-16: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(LINE_END.findall(content[: error.start].decode("latin-1"))) + 1
        found = f"line {line} is not UTF-8 (byte {content[error.start]:#04x}): save it as UTF-8"
        raise ParameterError("prompts", str(path), found) from error


LINE_END = re.compile(r"\r\n|\r|\n")
"""What ends a line of a file. Other separators that Unicode has may stand in a prompt."""


def coco(path: Path) -> pd.DataFrame:
    """One caption per image of COCO's captions_val2017.json, in the order of the images' ids.

    COCO has five captions per image; this takes the one with the lowest id. Columns: prompt, group
    ("coco") and image_id, which names the picture that the caption describes.
    """
    first: dict[int, tuple[int, str]] = {}
    for annotation in json.loads(read_text(path))["annotations"]:
        image, number, caption = (annotation[name] for name in ("image_id", "id", "caption"))
        check_integer(f"{path}: image_id", image, 0, 2**62)
        check_integer(f"{path}: id of a caption of image_id {image}", number, 0, 2**62)
        check_text(f"{path}: caption of image_id {image}", caption)
        first[image] = min((number, caption), first.get(image, (number, caption)))
    images = sorted(first)
    prompt = [" ".join(first[image][1].split()) for image in images]
    return pd.DataFrame({"prompt": prompt, "group": "coco", "image_id": images})


def parti(path: Path) -> pd.DataFrame:
    """The prompts of PartiPrompts.tsv, with their categories as groups; blank lines are skipped.

    Raises:
        ParameterError: naming a line that has a cell beyond those of the first line.
        ValueError: if the first line does not name the columns Prompt and Category.
    """
    # Not by pandas: it takes the first column for an index where rows end with a tab, and reads
    # more than a text into a prompt that is a number or a lone quote.
    numbered = enumerate(LINE_END.split(read_text(path)), 1)
    filled = [(number, line.split("\t")) for number, line in numbered if line.strip(" ")]
    head = filled[0][1] if filled else []
    prompt, category = head.index("Prompt"), head.index("Category")
    listed = []
    for number, cells in filled[1:]:
        if any(cells[len(head) :]):
            found = f"line {number} has a cell beyond the {len(head)} columns: take it out"
            raise ParameterError("prompts", str(path), found)
        cells += [""] * len(head)
        listed.append((cells[prompt], cells[category]))
    return pd.DataFrame(listed, columns=["prompt", "group"])


def lines(path: Path) -> pd.DataFrame:
    """The prompts of a text file with one per line; blank lines are skipped."""
    listed = [line.strip() for line in LINE_END.split(read_text(path))]
    return pd.DataFrame({"prompt": [line for line in listed if line], "group": "file"})


READERS = {".json": coco, ".tsv": parti, ".txt": lines}
"""Functions that read prompt files, by the end of the file's name; see docs/prompts.md."""


def read(source: str, count: int | None = None) -> pd.DataFrame:
    """Prompts and their groups, one row per prompt.

    Args:
        source: "emoji" or the path of the corpus' own prompts; "none", for a model that takes
            none: each is empty; or the path of a file in one of the formats of :data:`READERS`.
        count: number of prompts, from the first one; None: all of them, but not of "none".

    Raises:
        ParameterError: if there are no prompts, or fewer than ``count``, if the source has no known
            format, if a file is not UTF-8 or not in the format of its name, or if a prompt is
            blank.
        FileNotFoundError: if there is no such file.
    """
    check_text("prompts", source)
    if count is not None:
        check_integer("images", count, 1)
    if source == "none":
        if count is None:
            raise ParameterError("prompts", source, "holds no prompt: name a file of them")
        return pd.DataFrame({"prompt": [""] * count, "group": "none"})
    if source == "emoji":
        return emoji(count)
    path = Path(source)
    if path.suffix not in READERS:
        allowed = f"must be emoji, none, or a file whose name ends in {', '.join(READERS)}"
        raise ParameterError("prompts", source, allowed)
    if not path.exists():
        raise FileNotFoundError(f"prompts: no file {path}")
    if path.resolve() == (DATA / "prompts.json").resolve():
        return emoji(count)
    try:
        table = READERS[path.suffix](path)
    except ParameterError:
        raise
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reader, why = READERS[path.suffix].__name__, one_line(error)
        allowed = f"is not in the format {reader} of docs/prompts.md ({why})"
        raise ParameterError("prompts", source, allowed) from error
    if table.empty:
        raise ParameterError("prompts", source, "holds no prompt")
    for number, prompt in enumerate(table.prompt, 1):
        check_text(f"{path}: prompt {number}", prompt)
    if count is not None and count > len(table):
        raise ParameterError("images", count, f"{path} has only {len(table)} prompts")
    return table.head(count if count is not None else len(table)).reset_index(drop=True)
