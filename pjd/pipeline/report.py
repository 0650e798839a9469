"""One self-contained HTML page with all figures and tables, and with what ran."""

import base64
import html
import json
import sys
from pathlib import Path

import pandas as pd

from pjd.emoji.corpus import SETS
from pjd.paths import FIGURES, REPORTS, RESULTS, RUNS
from pjd.pipeline.files import read_table
from pjd.pipeline.params import parameters
from pjd.pipeline.reproduction import check_reproduction

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>pjd: results</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 82rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1b1f; background: #fff; }}
p, figure {{ max-width: 62rem; }}
h1 {{ font-size: 1.7rem; }} h2 {{ font-size: 1.2rem; margin-top: 2.5rem; }}
img {{ max-width: 100%; height: auto; }}
figure {{ margin: 0; }} figcaption {{ color: #555; font-size: .9rem; margin-top: .4rem; }}
table {{ border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .45rem; text-align: right; border-bottom: 1px solid #ddd; }}
td {{ white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
.wide {{ overflow-x: auto; }}
</style></head><body>
<h1>Parallel Jacobi Decoding on {model}</h1>
<p>{summary}</p>
{verdict}
{sections}
{ran}
{credits}
</body></html>
"""


def picture(path: Path, title: str) -> str:
    """Section of one figure: the PNG or GIF, inline, and its caption."""
    name, kind = path.stem, path.suffix.removeprefix(".")
    encoded = base64.b64encode(path.read_bytes()).decode()
    caption = html.escape((FIGURES / name / "caption.txt").read_text().strip())
    return (
        f'<h2 id="{name}">{html.escape(title)}</h2><figure>'
        f'<img alt="{html.escape(title)}" src="data:image/{kind};base64,{encoded}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def table(name: str, title: str) -> str:
    """Section of one table: the CSV that its notebook wrote, and its caption."""
    rows = pd.read_csv(FIGURES / name / f"{name}.csv", dtype=str, keep_default_na=False)
    caption = html.escape((FIGURES / name / "caption.txt").read_text().strip())
    body = rows.to_html(index=False, border=0, escape=True)
    return (
        f'<h2 id="{name}">{html.escape(title)}</h2><div class="wide">{body}</div>'
        f"<p><small>{caption}</small></p>"
    )


def summary(runs: pd.DataFrame) -> str:
    """The main result in two sentences."""
    ar = runs[runs.run == "main/ar"].iloc[0]
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


def what_ran(runs: set[str]) -> str:
    """Section from the ``run.json`` of ``runs``: what all share, and what differs by run."""
    stamps = {
        path.parent.parent.relative_to(RUNS).as_posix(): json.loads(path.read_text())
        for path in sorted(RUNS.glob("*/*/decode/run.json"))
        if path.parent.parent.relative_to(RUNS).as_posix() in runs
    }
    where = ("model", "dtype", "python", "machine", "gpu")
    rows = {
        name: {key: stamp[key] for key in where} | stamp["versions"] | stamp["config"]
        for name, stamp in stamps.items()
    }
    text = pd.DataFrame(rows).T.astype(str)
    is_shared = text.nunique() == 1
    shared = text.loc[:, is_shared].iloc[0].to_dict()
    listed = html.escape("; ".join(f"{key}: {value}" for key, value in shared.items()))
    own = text.loc[:, ~is_shared].rename_axis("run").reset_index().to_html(index=False, border=0)
    return (
        f"<h2>What ran</h2><p>All runs: {listed}.</p><details><summary>What differs, by run"
        f'</summary><div class="wide">{own}</div></details>'
    )


def reproduction_section() -> str:
    """The first section: measured and expected values, side by side."""
    title = '<h2 id="verdict">Was it reproduced?</h2>'
    try:
        lines = check_reproduction()
    except (FileNotFoundError, ValueError) as error:
        return f"{title}<p>{html.escape(str(error))}.</p>"
    good = int((lines.verdict == "as expected").sum())
    main = lines.run.str.startswith("main/")
    body, rest = (part.to_html(index=False, border=0) for part in (lines[main], lines[~main]))
    more = f"<details><summary>The other runs</summary>{rest}</details>" if not main.all() else ""
    failed = ", ".join(lines.run[lines.verdict != "as expected"].unique()) or "none"
    return (
        f"{title}<p>{good} of {len(lines)} lines as expected; not as expected: {failed}. "
        "Tolerance: three standard deviations of the difference of two such runs.</p>"
        f'<div class="wide">{body}{more}</div>'
    )


MAIN = ("animation", "fig01_pairs", "table1_main", "fig06_context_tokens")
SECTIONS = {
    "animation": "AR, SJD and PJD at work",
    "fig01_pairs": "Figure 1: AR beside PJD, same prompts and seeds",
    "fig02_attention": "Figure 2: where the model looks",
    "fig03_iteration": "Figures 3 and 4: one iteration, and its mask",
    "fig05_methods": "Figure 5: the same prompts by several decoders",
    "fig06_context_tokens": "Figure 6: context tokens c",
    "fig07_top_k": "Figure 7: top-K",
    "fig08_guidance": "Figure 8: classifier-free guidance",
    "fig09_grid_size": "Figure 9: larger grids at coverage 0.25",
    "fig10_samples": "Figure 10: more samples",
    "fig11_larger": "Figure 11: another model, several decoders",
    "fig12_larger_pairs": "Figure 12: another model, AR beside PJD",
    "fig13_weak_locality": "Figure 13: weak locality",
    "fig14_mask": "Figure 14: with and without the row-causal mask",
    "fig15_tokens": "Figure 15: tokens drafted and accepted in each iteration",
    "table1_main": "Table 1: main result",
    "table1_methods": "Table 1, every method",
    "table2_held_out": "Table 2: held-out captions",
    "table3_quality": "Table 3: more measures of quality",
    "table4_mask": "Table 4: the row-causal mask",
    "pareto": "Step compression against fidelity",
    "falsification": "If neighbours tell nothing",
    "lag": "Lag at commit, and steps against their bound",
    "rows": "How many rows at once",
    "windows": "How far a row drafts",
    "ingredients": "From PJD to PJD-plus",
    "stand_ins": "What stands in for the token before a row",
    "latency": "From steps to seconds",
}
"""Titles of figures and tables in the order of the page, by the name of the notebook's output."""


def section(name: str, title: str) -> str:
    """Section of a figure or a table, whichever the notebook wrote."""
    for ending in ("png", "gif"):
        path = FIGURES / name / f"{name}.{ending}"
        if path.exists():
            return picture(path, title)
    return table(name, title)


def main(page: str = "index") -> int:
    """Write ``reports/index.html`` with everything, or ``reports/main.html`` with the main runs."""
    wanted = [*MAIN]
    if page == "index":
        wanted += [*parameters()["sweep_figures"], "latency"]
    runs = read_table(RESULTS / ("sweeps.parquet" if page == "index" else "collected.parquet"))
    chosen = {name: title for name, title in SECTIONS.items() if name in wanted}
    text = PAGE.format(
        summary=html.escape(summary(runs[runs.run.str.startswith("main/")])),
        verdict=reproduction_section(),
        sections="\n".join(section(name, title) for name, title in chosen.items()),
        ran=what_ran(set(runs.run)),
        credits=credits(set(runs.model)),
        model=html.escape(runs.model.iloc[0]),
    )
    REPORTS.mkdir(parents=True, exist_ok=True)
    path: Path = REPORTS / f"{page}.html"
    path.write_text(text)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
