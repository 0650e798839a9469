"""One HTML page with all figures and tables, and beside it one with where each run was decoded."""

import base64
import html
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from pjd.emoji.corpus import SETS
from pjd.paths import FIGURES, NOTEBOOKS, PROVENANCE, REPORTS, RESULTS, ROOT, RUNS
from pjd.pipeline.expected import check_reproduction
from pjd.pipeline.files import read_run, read_table
from pjd.pipeline.findings import findings
from pjd.pipeline.params import parameters

SHIPPED = ROOT / "docs" / "results" / "provenance.json"
"""Where the runs come from that come with the repository."""

DECODED_ON = "provenance.html"
"""Page beside the report that says where each run was decoded."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>pjd: results</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1b1f; background: #fff; overflow-wrap: break-word; }}
h1 {{ font-size: 1.7rem; line-height: 1.2; }} h2 {{ font-size: 1.2rem; margin-top: 2.5rem; }}
img {{ max-width: 100%; height: auto; display: block; margin: 0 auto; }}
figure {{ margin: 0; }} figcaption {{ color: #555; font-size: .9rem; margin-top: .4rem; }}
nav {{ columns: 18rem; font-size: .9rem; }} nav a {{ display: block; }}
table {{ border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums;
  margin: 0 auto; }}
th, td {{ padding: .3rem .45rem; text-align: right; border-bottom: 1px solid #ddd; }}
td {{ white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
.wide {{ overflow-x: auto; }}
</style></head><body>
<h1>Parallel Jacobi Decoding on {model}</h1>
<p>{summary}</p>
<nav aria-label="figures and tables">{contents}</nav>
{verdict}
{sections}
{ran}
{credits}
</body></html>
"""


def picture(path: Path, title: str) -> str:
    """A figure's PNG or GIF, inline."""
    kind, encoded = path.suffix.removeprefix("."), base64.b64encode(path.read_bytes()).decode()
    source = f"data:image/{kind};base64,{encoded}"
    return f'<img alt="{html.escape(title)}" src="{source}">'


def table(path: Path) -> str:
    """The CSV of a table."""
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    return f'<div class="wide">{rows.to_html(index=False, border=0, escape=True)}</div>'


def summary(runs: pd.DataFrame) -> str:
    """The main result in two sentences."""
    ar = runs[runs.run == "ar"].iloc[0]
    sjd = runs[runs.method == "sjd"].iloc[0]
    pjd = runs[runs.method == "pjd"].sort_values("context")
    parts = [
        f"PJD with {int(row.context)} context tokens: {row.steps:.1f} steps "
        f"({row.compression:.2f}x), {row.gap:+.3f} nats per token from AR"
        for row in pjd.itertuples()
    ]
    return (
        f"{int(ar.images)} images per run. AR needs {ar.steps:.0f} steps (forward passes) per "
        f"image, SJD {sjd.steps:.1f} ({sjd.compression:.2f}x). " + "; ".join(parts) + "."
    )


def credits(models: set[str]) -> str:
    """Section that credits the emoji models' training pictures; "" if ``models`` has none."""
    if not any(model.startswith("emoji") for model in models):
        return ""
    sources = "; ".join(f"{source.attribution} ({source.licence})" for source in SETS)
    text = (
        f"The emoji models were trained on {sources}; pictures in the style openmoji are adapted "
        "from OpenMoji and shared under CC-BY-SA-4.0. All sets were rasterised and laid on "
        "backgrounds."
    )
    return f"<h2>Credits</h2><p>{html.escape(text)}</p>"


def where_decoded(runs: list[str]) -> dict[str, dict[str, Any]]:
    """Commit, versions and machine of each of ``runs``: this machine's, or those that ship."""
    found = json.loads(SHIPPED.read_text())
    for run in runs:
        own = PROVENANCE / f"{run}.json"
        if own.exists():
            found[run] = json.loads(own.read_text())
    return {run: found.get(run, {}) for run in runs}


def what_ran(runs: list[str]) -> str:
    """Section on ``runs``: the options that all share, and those that differ.

    Where they were decoded differs between equal reproductions: it has a page of its own, so that
    this one has the same bytes.
    """
    rows = {}
    for run in runs:
        decoded = read_run(RUNS / run)
        rows[run] = {"model": decoded.model, "dtype": decoded.dtype, **decoded.config}
    text = pd.DataFrame(rows).T.astype(str)
    is_shared = text.nunique() == 1
    shared = text.loc[:, is_shared].iloc[0].to_dict()
    listed = html.escape("; ".join(f"{key}: {value}" for key, value in shared.items()))
    own = text.loc[:, ~is_shared].rename_axis("run").reset_index().to_html(index=False, border=0)
    return (
        f"<h2>What ran</h2><p>All runs: {listed}.</p><details><summary>What differs, by run"
        f'</summary><div class="wide">{own}</div></details>'
        f'<p><a href="{DECODED_ON}">Machine, versions, commit and seconds of each run</a></p>'
    )


def where_page(runs: list[str]) -> str:
    """Page with commit, versions, machine and seconds of each of ``runs``."""
    table = pd.DataFrame(where_decoded(runs)).T.astype(str).rename_axis("run").reset_index()
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>pjd: where it ran</title>'
        f"<h1>Where each run was decoded</h1>{table.to_html(index=False, border=0)}</html>\n"
    )


def reproduction_section(main: set[str]) -> str:
    """The first section: measured and expected values, side by side.

    Args:
        main: the runs that stand in sight.
    """
    title = '<h2 id="verdict">Was it reproduced?</h2>'
    try:
        lines = check_reproduction()
    except (FileNotFoundError, ValueError) as error:
        return f"{title}<p>{html.escape(str(error))}.</p>"
    good = int((lines.verdict == "as expected").sum())
    first = lines.run.isin(main)
    body, rest = (part.to_html(index=False, border=0) for part in (lines[first], lines[~first]))
    failed = ", ".join(lines.run[lines.verdict != "as expected"].unique()) or "none"
    return (
        f"{title}<p>{good} of {len(lines)} lines as expected; not as expected: {failed}. "
        "Tolerance: three standard deviations of the difference of two such runs.</p>"
        f'<div class="wide">{body}<details><summary>The other runs</summary>{rest}</details></div>'
    )


def section(name: str, figure: dict[str, Any], found: str) -> str:
    """Section of a figure or a table: what its notebook wrote, its caption, and what it shows.

    Args:
        name: key of ``figures`` in params.yaml.
        figure: what stands there.
        found: a paragraph on it, or "".
    """
    title = title_of(figure)
    path = shown_file(name)
    if path.suffix == ".html":
        body = path.read_text(encoding="utf-8")
    else:
        body = table(path) if path.suffix == ".csv" else picture(path, title)
    caption = html.escape(caption_of(name))
    text = f"<p>{html.escape(found)}</p>" if found else ""
    return (
        f'<h2 id="{name}">{html.escape(title)}</h2>{text}<figure>{body}'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def shown_file(name: str, endings: tuple[str, ...] = ("html", "png", "gif", "csv")) -> Path:
    """What a figure's notebook wrote: the first of ``endings`` that there is.

    Raises:
        FileNotFoundError: if it wrote none of them.
    """
    for ending in endings:
        path = FIGURES / name / f"{name}.{ending}"
        if path.exists():
            return path
    raise FileNotFoundError(
        f"figures/{name} has no {name}.png or the like: draw it, `make reproduce`"
    )


def caption_of(name: str) -> str:
    """Caption of a figure: which model, how many images, which seeds."""
    return (FIGURES / name / "caption.txt").read_text().strip()


def title_of(figure: dict[str, Any]) -> str:
    """Title of a figure of params.yaml: its own, or the first heading of its notebook."""
    return figure.get("title") or heading(NOTEBOOKS / "figures" / f"{figure['notebook']}.ipynb")


def contents(figures: dict[str, dict[str, Any]]) -> str:
    """Links to all figures and tables."""
    titles = {"verdict": "Was it reproduced?", **{n: title_of(f) for n, f in figures.items()}}
    return "\n".join(f'<a href="#{n}">{html.escape(title)}</a>' for n, title in titles.items())


def heading(notebook: Path) -> str:
    """The first heading of a notebook."""
    first = json.loads(notebook.read_text())["cells"][0]["source"][0]
    return first.removeprefix("# ").strip()


def main() -> int:
    """Write ``reports/index.html`` and ``reports/provenance.html``."""
    runs, figures = read_table(RESULTS / "runs.parquet"), parameters()["figures"]
    main, found = runs[runs.group == "main"], findings(runs)
    text = PAGE.format(
        summary=html.escape(summary(main)),
        contents=contents(figures),
        verdict=reproduction_section(set(main.run)),
        sections="\n".join(section(n, f, found.get(n, "")) for n, f in figures.items()),
        ran=what_ran(runs.run.tolist()),
        credits=credits(set(runs.model)),
        model=html.escape(runs.model.iloc[0]),
    )
    REPORTS.mkdir(parents=True, exist_ok=True)
    path = REPORTS / "index.html"
    path.write_text(text)
    (REPORTS / DECODED_ON).write_text(where_page(runs.run.tolist()))
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
