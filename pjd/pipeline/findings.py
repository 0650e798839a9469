"""What each figure shows, in a paragraph: written by hand, its numbers by the runs."""

import re

import pandas as pd

from pjd.paths import NOTEBOOKS
from pjd.pipeline.expected import check_reproduction

TEXT = NOTEBOOKS / "figures" / "findings.md"
"""One heading per figure, by its name in params.yaml, and a paragraph. A number is written as
``{run.column:format}``, such as ``{pjd-4.steps:.1f}``, and read off the table of all runs."""

NUMBER = re.compile(r"\{([\w-]+)\.(\w+):([^{}]+)\}")


def paragraphs() -> dict[str, str]:
    """The paragraph of each figure as it is written, by name of the figure."""
    parts = re.split(r"^## ", TEXT.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    named = (part.split("\n", 1) for part in parts)
    return {name.strip(): " ".join(text.split()) for name, text in named}


def findings(runs: pd.DataFrame) -> dict[str, str]:
    """The paragraph of each figure, its numbers from ``runs``, the table of all runs.

    They were written about the committed runs: if a line is not as expected, there are none.
    """
    try:
        lines = check_reproduction()
    except (FileNotFoundError, ValueError):
        return {}
    if (lines.verdict != "as expected").any():
        return {}
    return {name: fill(text, runs) for name, text in paragraphs().items()}


def fill(text: str, runs: pd.DataFrame) -> str:
    """Put the numbers of ``runs`` into a paragraph.

    Raises:
        KeyError: naming a run or a column that the table does not have.
    """
    by_name = runs.set_index("run")

    def number(found: re.Match[str]) -> str:
        run, column, form = found.groups()
        return format(by_name.at[run, column], form).replace("-", "−")

    return NUMBER.sub(number, text)
