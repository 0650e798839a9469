"""What all scorers share: read a folder of `pjd export`, and write one score per picture.

Only the standard library of Python 3.9 and later, and nothing of pjd: a scorer runs in an
environment of its own.
"""

# Python 3.9 cannot compute `str | None`.
from __future__ import annotations

import argparse
import csv
import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Picture:
    """One picture of a run.

    Attributes:
        index: of the image in its run, from 0.
        path: of its file, absolute.
        prompt: that it was made for.
    """

    index: int
    path: Path
    prompt: str


Score = Callable[[list[Picture], Path], Iterable[float]]
"""A scorer: from pictures, and the path that ``--benchmark`` names, one score per picture."""


def read(folder: Path) -> list[Picture]:
    """The pictures that a folder's metadata.jsonl lists.

    Raises:
        SystemExit: if the folder is none of `pjd export`, or lacks a picture.
    """
    listed = folder / "metadata.jsonl"
    if not listed.is_file():
        raise SystemExit(f"no {listed}: FOLDER must be one that `pjd export` wrote")
    lines = [json.loads(line) for line in listed.read_text(encoding="utf-8").splitlines()]
    found = [
        Picture(line["index"], (folder / line["file_name"]).resolve(), line["prompt"])
        for line in lines
    ]
    for picture in found:
        if not picture.path.is_file():
            raise SystemExit(f"no {picture.path}: run `pjd export` again, which goes on")
    return found


def write(path: Path, pictures: list[Picture], scores: list[float]) -> None:
    """Write a CSV with the columns index and score, whole or not at all.

    Raises:
        SystemExit: unless there is one finite score per picture.
    """
    if len(scores) != len(pictures):
        raise SystemExit(f"{len(scores)} scores for {len(pictures)} pictures: nothing is written")
    for place, picture in enumerate(pictures):
        if not math.isfinite(scores[place]):
            raise SystemExit(f"{picture.path}: the score {scores[place]} is no finite number")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["index", "score"])
        for place, picture in enumerate(pictures):
            writer.writerow([picture.index, repr(scores[place])])
    os.replace(partial, path)


def plain(prompt: str) -> str:
    """A prompt without the spaces and line ends that a file of prompts may have, and a run not."""
    return " ".join(prompt.split())


def by_prompt(pictures: list[Picture]) -> dict[str, Picture]:
    """The pictures by their plain prompts, for a benchmark that takes one picture per prompt.

    Raises:
        SystemExit: if two pictures have the same prompt.
    """
    found = {plain(picture.prompt): picture for picture in pictures}
    if len(found) < len(pictures):
        raise SystemExit("two pictures have the same prompt: this benchmark takes one per prompt")
    return found


def main(score: Score, text: str | None, benchmark: str | None = None) -> None:
    """Command line of a scorer: ``score.py FOLDER OUT.csv``.

    Args:
        score: the scorer.
        text: what it measures, for ``--help``.
        benchmark: what ``--benchmark`` must name; None: the scorer has no such option.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of `pjd export`")
    parser.add_argument("out", type=Path, help="the CSV to write: scores/<measure>/<run>.csv")
    if benchmark is not None:
        parser.add_argument("--benchmark", type=Path, required=True, help=benchmark)
    options = parser.parse_args()
    path = Path() if benchmark is None else options.benchmark.resolve()
    if not path.exists():
        raise SystemExit(f"no {path}: --benchmark must be {benchmark}")
    pictures = read(options.folder)
    scores = [float(one) for one in score(pictures, path)]
    write(options.out, pictures, scores)
    print(f"{options.out}: {len(scores)} scores, mean {sum(scores) / len(scores):.4f}")
