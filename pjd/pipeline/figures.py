"""How every figure is styled and saved, and the pieces that several figures share."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL.Image import Image

from pjd.decoder.methods import KNOBS, PRESETS
from pjd.models.registry import resolve
from pjd.paths import FIGURES, RESULTS, RUNS
from pjd.pipeline.drawn import drawn_values
from pjd.pipeline.files import folder, read_run, read_table
from pjd.pipeline.params import parameters
from pjd.pipeline.prompts import SHARES

if TYPE_CHECKING:
    # It imports torch, which figures of measured numbers need not wait for.
    from pjd.decoder.model import ImageModel

TITLE = 26
"""Letters that fit above a picture."""


def style() -> None:
    """Set the look of all figures; the hash salt makes SVG bytes repeatable."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams.update(
        {"svg.hashsalt": "pjd", "savefig.dpi": 150, "figure.dpi": 100, "axes.titlesize": 11}
    )


def save(figure: Figure, name: str, caption: str) -> Path:
    """Write ``figure`` as PNG and SVG, what it shows as CSV, and its caption.

    Equal content gives equal bytes. A figure of photographs alone has no CSV.

    Args:
        figure: what to write.
        name: file name without its ending, the notebook's own.
        caption: one or two sentences: which model, how many images, which seeds, what hardware.
    """
    with folder(FIGURES / name) as partial:
        figure.savefig(partial / f"{name}.png", bbox_inches="tight", metadata={"Software": None})
        figure.savefig(partial / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
        values = drawn_values(figure)
        if len(values):
            values.to_csv(partial / f"{name}.csv", index=False, float_format="%.6g")
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
    """Images in labelled rows, one column per prompt.

    Args:
        rows: label to images, one per column.
        titles: one per column.
        notes: label to texts under the images of that row.
    """
    # A prompt with dollar signs is no formula.
    text = {"parse_math": False}
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
            axis.set_xlabel(notes[label][place], fontsize=8, labelpad=2, **text)
            if place == 0:
                axis.set_ylabel(label, fontsize=10, **text)
    for axis, title in zip(axes[0], titles, strict=True):
        wrapped = "\n".join(textwrap.fill(part, TITLE) for part in title.splitlines())
        axis.set_title(wrapped, fontsize=7.5, **text)
    return figure


def first_of_groups(table: pd.DataFrame, columns: int, skip: int = 0) -> list[int]:
    """Rows of ``table`` to show: as many of each group of prompts, in order.

    Args:
        table: prompts with their ``group``.
        columns: how many rows in all.
        skip: leave out so many of each group.
    """
    per_group = -(-columns // table.group.nunique())
    chosen = table.groupby("group", sort=False).nth(slice(skip, skip + per_group))
    return list(chosen.index[:columns])


def compared(model: "ImageModel", runs: list[str], chosen: list[int]) -> Figure:
    """The same prompts and seeds by several runs, one row each, with the steps of every image.

    Args:
        model: that decoded the runs.
        runs: their names.
        chosen: which images of each.
    """
    from pjd.api import pictures
    from pjd.pipeline.runs import column_tensor

    tables = {run: read_run(RUNS / run).images for run in runs}
    first = tables[runs[0]]
    titles = [f"{first.prompt[i]}\n({first.group[i]})".replace(", ", "\n") for i in chosen]
    rows = {
        label(run): pictures(model, column_tensor(table.tokens[chosen]))
        for run, table in tables.items()
    }
    notes = {
        label(run): [f"{table.steps[i]} steps" for i in chosen] for run, table in tables.items()
    }
    return image_rows(rows, titles, notes)


GAP = "gap to AR, nats per token"
"""Name of the axis: mean log-likelihood of a token under the exact model, less that of AR's."""


def explained(groups: pd.Series) -> str:
    """What the corpus' groups of prompts mean, for a caption; nothing where ``groups`` are others.

    Args:
        groups: of the prompts that are shown.
    """
    if not set(groups) <= set(SHARES):
        return ""
    return (
        " Groups: unseen-style: the name was trained in other styles only; unseen-name: never "
        "seen; train: a training caption."
    )


TITLES = {name: preset.title for name, preset in PRESETS.items()}
"""What a figure calls the presets."""


def knob(method: str) -> str:
    """Letter of the option that a preset is swept over: window W, group size G or context c."""
    return KNOBS[PRESETS[method].knob or "context"]


def label(run: str, with_knob: bool = True) -> str:
    """What a reader calls a run of params.yaml, by its options: "PJD c=4", "AR, other seeds"."""
    options = dict(parameters()["runs"][run]["options"])
    method = options.pop("method")
    preset = PRESETS[method]
    text, value = preset.title, options.pop(preset.knob, None)
    if with_knob and value is not None:
        text += f" {knob(method)}={value}"
    more = ["other seeds"] if options.pop("seed", 0) else []
    more += [f"{name.replace('_', ' ')} {value}" for name, value in options.items()]
    return ", ".join([text, *more])


def results(runs: list[str] | None = None) -> pd.DataFrame:
    """The table of all runs, by name of the run.

    Args:
        runs: names of the rows, in order; None: all rows.

    Raises:
        ValueError: if there is no such run.
    """
    table = read_table(RESULTS / "runs.parquet").set_index("run", drop=False)
    missing = [run for run in runs or [] if run not in table.index]
    if missing:
        raise ValueError(f"no run {', '.join(missing)} among those of params.yaml")
    return table if runs is None else table.loc[runs]


def other_seeds(setting: str) -> str:
    """The run of AR with other seeds that a setting has: its noise."""
    return f"{parameters()['settings'][setting]['ar']}-repeat"


def noise(setting: str) -> float:
    """The largest gap in size, in nats per token, that AR's own chance makes: at 95 %."""
    repeat = results().loc[other_seeds(setting)]
    return max(-repeat.gap_low, repeat.gap_high)


def sweep(setting: str, also: list[str] | tuple[str, ...] = ()) -> pd.DataFrame:
    """Runs of a setting that change nothing but their method's knob, and those named in ``also``.

    Rows of the table of all runs, with the ``knob``, its ``letter``, and the ``decoder``'s label.
    """
    table, planned, shown = results(), parameters()["runs"], {}
    for run in table.index[table.setting == setting]:
        options = planned[run]["options"]
        name, letter = PRESETS[options["method"]].knob, knob(options["method"])
        if run in also or (name is not None and set(options) <= {"method", name}):
            shown[run] = (table.loc[run, name], letter, label(run, with_knob=False))
    columns = ["knob", "letter", "decoder"]
    return table.join(pd.DataFrame.from_dict(shown, "index", columns=columns), how="inner")


def with_interval(table: pd.DataFrame, column: str, form: str) -> list[str]:
    """Values of ``column`` with their intervals, "a [b, c]", each in the format ``form``.

    A run of one image has no intervals.
    """
    return [
        f"{value:{form}} [{low:{form}}, {high:{form}}]" if low <= high else f"{value:{form}}"
        for value, low, high in zip(
            table[column], table[f"{column}_low"], table[f"{column}_high"], strict=True
        )
    ]


def score_texts(scores: dict[str, float]) -> dict[str, str]:
    """Columns of table 3: scores of pictures by EfficientNet-Lite0's features, and captions found.

    Args:
        scores: a row of the table of all runs, or what was measured on real pictures.
    """
    texts = {}
    for title, key, scale, form in (
        ("KID (Lite0) x 1000", "kernel_real", 1000, ".1f"),
        ("IS (Lite0)", "inception_score", 1, ".2f"),
    ):
        value, deviation = scale * scores[key], scale * scores[f"{key}_deviation"]
        texts[title] = f"{value:{form}} ± {deviation:{form}}"
    for n in (1, 10, 50):
        texts[f"caption in best {n}"] = f"{scores[f'caption_best_{n}']:.1%}"
    return texts


def image_counts(table: pd.DataFrame) -> str:
    """How many images the runs of a table have: "512", or "512 or 128"."""
    return " or ".join(f"{int(count)}" for count in table.images.unique())


def measured_on(model: str, table: pd.DataFrame, unit: str) -> str:
    """First words of a caption: model, images and seeds, and what intervals are.

    Args:
        model: what :func:`pjd.load` takes.
        table: the runs that are shown.
        unit: what has so many images: "row", "point".
    """
    return (
        f"Model {resolve(model).name}, {image_counts(table)} images per {unit}, image i with "
        "seed i. Intervals: bootstrap 95 % over prompts."
    )


def distance(table: pd.DataFrame) -> tuple[str, str]:
    """The Frechet distance that a table has, as a column and in words: real pictures come first."""
    if table.frechet_real.notna().all():
        return "frechet_real", "Frechet distance (Lite0) to real pictures"
    return "frechet_ar", "Frechet distance (Lite0) to AR's pictures"


def interval_line(axis: Axes, table: pd.DataFrame, x: str, y: str, **style: Any) -> None:
    """A line of ``y`` over ``x`` with error bars from columns ``y``_low and ``y``_high."""
    table = table.sort_values(x)
    spread = np.abs(table[[f"{y}_low", f"{y}_high"]].to_numpy().T - table[y].to_numpy())
    axis.errorbar(table[x], table[y], yerr=spread, capsize=3, **style)


def noise_band(axis: Axes, low: float, high: float, label: str) -> None:
    """Shade where two runs of the baseline differ by chance."""
    axis.axhspan(low, high, color="0.85", zorder=0, label=label)


def gap_noise(axis: Axes, repeat: pd.Series) -> None:
    """Shade the gaps that two runs of AR have by chance.

    Args:
        axis: where.
        repeat: the row of AR with other seeds.
    """
    low, high = min(repeat.gap_low, -repeat.gap_high), max(repeat.gap_high, -repeat.gap_low)
    noise_band(axis, low, high, "AR against AR, 95 %")
