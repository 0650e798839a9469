"""How every figure is styled and saved, and the pieces that several figures share."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL.Image import Image

from pjd.paths import FIGURES
from pjd.runs import folder


def style() -> None:
    """Set the look of all figures; the hash salt makes SVG bytes repeatable."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams.update(
        {"svg.hashsalt": "pjd", "savefig.dpi": 150, "figure.dpi": 100, "axes.titlesize": 11}
    )


def save(figure: Figure, name: str, caption: str) -> Path:
    """Write ``figure`` as PNG and SVG with equal bytes for equal content, and its caption.

    Args:
        figure: what to write.
        name: file name without its ending, the notebook's own.
        caption: one or two sentences: which model, how many images, which seeds, what hardware.
    """
    with folder(FIGURES / name) as partial:
        figure.savefig(partial / f"{name}.png", bbox_inches="tight", metadata={"Software": None})
        figure.savefig(partial / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
        (partial / "caption.txt").write_text(caption + "\n")
    return FIGURES / name / f"{name}.png"


def save_table(table: pd.DataFrame, name: str, caption: str) -> Path:
    """Write ``table`` as CSV, and its caption; see :func:`save`."""
    with folder(FIGURES / name) as partial:
        table.to_csv(partial / f"{name}.csv", index=False)
        (partial / "caption.txt").write_text(caption + "\n")
    return FIGURES / name / f"{name}.csv"


def image_rows(
    rows: dict[str, list[Image]], titles: list[str], notes: dict[str, list[str]]
) -> Figure:
    """Images in labelled rows, one column a prompt.

    Args:
        rows: label to images, one a column.
        titles: one a column.
        notes: label to texts under the images of that row.
    """
    columns = len(titles)
    figure, axes = plt.subplots(
        len(rows),
        columns,
        figsize=(1.6 * columns, 1.95 * len(rows)),
        squeeze=False,
        layout="constrained",
    )
    for line, (label, images) in zip(axes, rows.items(), strict=True):
        for place, (axis, image) in enumerate(zip(line, images, strict=True)):
            axis.imshow(image, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.grid(False)
            axis.set_xlabel(notes[label][place], fontsize=8, labelpad=2)
            if place == 0:
                axis.set_ylabel(label, fontsize=10)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=7.5)
    return figure


def label(run: str) -> str:
    """What a reader calls the run ``run`` of the pipeline, such as "main/context-4"."""
    run = run.rpartition("/")[2]
    names = {"ar": "AR", "ar-repeat": "AR, other seeds", "sjd": "SJD"}
    return names.get(run, run.replace("context-", "PJD c="))


def interval_line(axis: Axes, table: pd.DataFrame, x: str, y: str, **style: object) -> None:
    """A line of ``y`` over ``x`` with error bars from columns ``y``_low and ``y``_high."""
    table = table.sort_values(x)
    spread = np.abs(table[[f"{y}_low", f"{y}_high"]].to_numpy().T - table[y].to_numpy())
    axis.errorbar(table[x], table[y], yerr=spread, capsize=3, **style)


def noise_band(axis: Axes, low: float, high: float, label: str) -> None:
    """Shade where two runs of the baseline differ by chance."""
    axis.axhspan(low, high, color="0.85", zorder=0, label=label)
