"""The figure of an ablation: what one option of the decoder changes."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pjd.pipeline.figures import GAP, distance, gap_noise, interval_line


def swept(table: pd.DataFrame, group: str, knob: str, also: list[str]) -> pd.DataFrame:
    """Rows of a sweep in order of its knob, with their ``place`` on an axis and its ``tick``.

    Args:
        table: of all runs.
        group: of the sweep's runs.
        knob: column of the table; no value, or no code for top-k, is "all", the largest.
        also: runs of other groups that belong to it.
    """
    rows = table[(table.group == group) | table.run.isin(also)].copy()
    values = rows[knob].astype(float)
    values = values.where(values.notna() & ((values > 0) | (knob != "top_k")), np.inf)
    rows["place"] = values.rank(method="dense")
    rows["tick"] = [f"{value:g}" if np.isfinite(value) else "all" for value in values]
    return rows.sort_values("place", kind="stable")


def ablation(lines: dict[str, pd.DataFrame], knob: str, repeat: pd.Series) -> Figure:
    """Step compression, fidelity gap and Frechet distance over a knob.

    Args:
        lines: by label, rows of :func:`swept`.
        knob: what the axis is called.
        repeat: the row of AR with other seeds, whose gap is the noise.
    """
    figure, axes = plt.subplots(1, 3, figsize=(15, 4))
    column, frechet = distance(pd.concat(lines.values()))
    for place, (name, points) in enumerate(lines.items()):
        look = {"marker": "os^D"[place], "color": f"C{place}", "label": name}
        axes[0].plot(points.place, points.compression, **look)
        interval_line(axes[1], points, "place", "gap", **look)
        axes[2].plot(points.place, points[column], **look)
    gap_noise(axes[1], repeat)
    names = ("step compression", GAP, frechet)
    ticks = pd.concat(lines.values()).drop_duplicates("place").sort_values("place")
    for axis, name in zip(axes, names, strict=True):
        axis.set(xlabel=knob, ylabel=name)
        axis.set_xticks(ticks.place, ticks.tick)
        axis.legend(fontsize=8)
    figure.tight_layout()
    return figure
