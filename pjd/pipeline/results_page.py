"""The results as Markdown with pictures, to be read without running anything: docs/results."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from pjd.paths import RESULTS, ROOT
from pjd.pipeline.expected import check_reproduction
from pjd.pipeline.files import read_table
from pjd.pipeline.findings import findings
from pjd.pipeline.params import parameters
from pjd.pipeline.report import caption_of, shown_file, summary, title_of, where_decoded

TARGET = ROOT / "docs" / "results"

WIDTH = 1400
"""Pixels of a picture at most, so that all of them take a few megabytes."""

LARGEST = 500_000
"""Bytes of a file at most. A larger picture is one of photographs, and gets a palette; a larger CSV
is not copied: the map of figure 2 has every pair of positions."""

STAMP = ("machine", "gpu", "python", "torch", "transformers", "torchmetrics", "commit")
"""What is told of where the runs come from."""


def markdown_table(table: pd.DataFrame) -> str:
    """A table of texts in Markdown."""
    lines = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def where_from(runs: list[str]) -> pd.DataFrame:
    """Machines, versions and commits that the runs were decoded with: what, and which values."""
    stamps = where_decoded(runs).values()
    rows = []
    for key in STAMP:
        values = sorted({str(stamp[key])[:12] for stamp in stamps if key in stamp})
        rows.append({"": key, "of the runs": ", ".join(values)})
    return pd.DataFrame(rows)


def section(name: str, figure: dict[str, Any], found: str, folder: Path) -> str:
    """One figure or table: what it shows, its caption, and its numbers; copies what it shows.

    Args:
        name: key of ``figures`` in params.yaml.
        figure: what stands there.
        found: a paragraph on it, or "".
        folder: where the page is written.
    """
    title, source = title_of(figure), shown_file(name, ("png", "gif", "csv"))
    values = source.with_suffix(".csv")
    if source.suffix == ".png":
        shrink(source, folder / source.name)
        shown = f"![{title}]({source.name})"
    elif source.suffix == ".gif":
        # It is the one of the README.
        shown = f"![{title}](../images/{source.name})"
    else:
        shown = markdown_table(pd.read_csv(source, dtype=str, keep_default_na=False))
    numbers = ""
    if values.exists() and values.stat().st_size <= LARGEST:
        shutil.copyfile(values, folder / values.name)
        numbers = f" Numbers: [{values.name}]({values.name})."
    parts = [f"## {title}", found, shown, f"*{caption_of(name)}*{numbers}"]
    return "\n\n".join(part for part in parts if part)


def shrink(source: Path, target: Path) -> None:
    """Write a picture with fewer pixels, and with fewer colours if it is large all the same."""
    with Image.open(source) as picture:
        small = picture.convert("RGB")
    if small.width > WIDTH:
        size = (WIDTH, round(small.height * WIDTH / small.width))
        small = small.resize(size, Image.Resampling.LANCZOS)
    small.save(target, optimize=True)
    if target.stat().st_size > LARGEST:
        small.quantize(256, dither=Image.Dither.NONE).save(target, optimize=True)


def write(folder: Path = TARGET) -> Path:
    """Write the page, its pictures and its tables from what was collected and drawn.

    Raises:
        FileNotFoundError: if the runs were not collected, or a figure was not drawn.
        ValueError: if the runs are not those of expected.json.
    """
    runs, figures = read_table(RESULTS / "runs.parquet"), parameters()["figures"]
    lines = check_reproduction()
    good = int((lines.verdict == "as expected").sum())
    main = runs[runs.group == "main"]
    found = findings(runs)
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.suffix in (".png", ".csv"):
            old.unlink()
    runs.to_csv(folder / "runs.csv", index=False, float_format="%.6g")
    sections = [section(n, f, found.get(n, ""), folder) for n, f in figures.items()]
    titles = [title_of(figure) for figure in figures.values()]
    # As a Markdown heading is named by GitHub.
    anchors = ["".join(c for c in t.lower() if c.isalnum() or c in " -_") for t in titles]
    listed = [f"- [{t}](#{a.replace(' ', '-')})" for t, a in zip(titles, anchors, strict=True)]
    text = "\n\n".join(
        [
            "# Results",
            "Written by `python -m pjd.pipeline.results_page` from the committed results; "
            "`make reproduce` repeats them, and makes a page with a slider through the forward "
            "passes of an image. Numbers of all runs: [runs.csv](runs.csv), explained in "
            "[docs/runs.md](../runs.md).",
            summary(main),
            "\n".join(listed),
            "## Was it reproduced?",
            f"{good} of {len(lines)} lines as expected (`pjd verify`). Tolerance: three standard "
            "deviations of the difference of two such runs. The main runs:",
            markdown_table(lines[lines.run.isin(main.run)].astype(str)),
            *sections,
            "## Where it comes from",
            markdown_table(where_from(runs.run.tolist())),
        ]
    )
    path = folder / "README.md"
    path.write_text(text + "\n", encoding="utf-8")
    return path


def main() -> int:
    """Write docs/results."""
    try:
        path = write()
    except (FileNotFoundError, ValueError) as error:
        print(f"pjd: {error}", file=sys.stderr)
        return 1
    size = sum(file.stat().st_size for file in path.parent.iterdir()) / 1e6
    print(f"{path}: {size:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
