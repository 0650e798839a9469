"""Scores of pictures that were measured in other environments, for table 3; see docs/quality.md."""

import csv
import math
from pathlib import Path

import numpy as np
import pandas as pd

from pjd.errors import ParameterError, shown
from pjd.measure.fidelity import bootstrap
from pjd.paths import RUNS
from pjd.pipeline.figures import other_seeds, with_interval
from pjd.pipeline.files import read_run
from pjd.pipeline.params import parameters

COLUMNS = ["index", "score"]
"""Of a CSV of scores: the index of an image in its run, and its score."""


def refusal(path: Path, why: str) -> ParameterError:
    """The error that names a file or folder of scores, and says what is wrong with it."""
    return ParameterError("scores", str(path), why)


def read_scores(path: Path, images: int) -> np.ndarray:
    """Read a CSV of scores.

    Args:
        path: a file with the columns ``index`` and ``score``, in any order of the images.
        images: number of images of the run: it must have one score for each.

    Returns:
        Scores float64 [images], in the order of the run.

    Raises:
        ParameterError: naming the file and, of what is wrong, the line.
    """
    scores, lines = np.zeros(images), dict[int, int]()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            head = next(reader, [])
            if head != COLUMNS:
                found = ",".join(head)
                raise refusal(path, f"line 1 must be {','.join(COLUMNS)}, not {shown(found)}")
            for row in reader:
                if row:
                    index, score = read_row(path, reader.line_num, row, images)
                    if index in lines:
                        why = f"line {reader.line_num}: line {lines[index]} has index {index} too"
                        raise refusal(path, why)
                    scores[index], lines[index] = score, reader.line_num
    except (UnicodeDecodeError, csv.Error) as error:
        raise refusal(path, f"must be a CSV in UTF-8 ({error})") from error
    if len(lines) < images:
        first = min(set(range(images)) - set(lines))
        why = f"has {len(lines)} scores for the {images} images of the run: no line has index"
        raise refusal(path, f"{why} {first}")
    return scores


def read_row(path: Path, line: int, row: list[str], images: int) -> tuple[int, float]:
    """The index and the score of a line of a CSV; see :func:`read_scores`."""
    if len(row) != len(COLUMNS):
        raise refusal(path, f"line {line} must have an index and a score, not {len(row)} cells")
    index, score = (cell.strip() for cell in row)
    # Longer digits than any index's could not even be read.
    if not index.isdecimal() or len(index) > 18 or int(index) >= images:
        why = f"index {shown(index)} must be an integer from 0 to {images - 1}"
        raise refusal(path, f"line {line}: {why}")
    try:
        value = float(score)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise refusal(path, f"line {line}: score {shown(score)} must be a finite number")
    return int(index), value


def files_of(folder: Path) -> dict[str, dict[str, Path]]:
    """The files ``<measure>/<run>.csv`` in a folder, by measure and run.

    Raises:
        ParameterError: if there are none, or one is of a run that params.yaml does not have.
    """
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob("*/*.csv")):
        found.setdefault(path.parent.name, {})[path.stem] = path
        if path.stem not in parameters()["runs"]:
            raise refusal(path, "must have the name of a run of params.yaml, such as pjd-4.csv")
    if not found:
        raise refusal(folder, "must be a folder with files <measure>/<run>.csv")
    return found


def compared(folder: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Scores of runs, and their differences to those of AR for the same prompts.

    Args:
        folder: with files ``<measure>/<run>.csv``, see :func:`read_scores`. A run without one is
            left out.
        rows: of the table of all runs: ``run`` and ``setting``.

    Returns:
        One row per measure and run. mean: of the scores. deviation: of AR's scores, over images.
        difference: mean of a picture's score minus that of AR's picture for the same prompt, with
        its bootstrap 95 % interval (difference_low, difference_high). noise, noise_low, noise_high:
        the same of AR with other seeds; not a number if that has no file.

    Raises:
        ParameterError: naming a file that is missing or wrong, or whose run has other prompts than
            AR has.
        FileNotFoundError: if a run that has a file has not been decoded.
    """
    found = []
    for measure, paths in files_of(folder).items():
        for run, setting in zip(rows.run, rows.setting, strict=True):
            if run in paths:
                baseline = parameters()["settings"][setting]["ar"]
                told = against(paths, run, baseline)
                noise = {name: math.nan for name in ("noise", "noise_low", "noise_high")}
                if other_seeds(setting) in paths:
                    repeat = against(paths, other_seeds(setting), baseline)
                    noise = {name: repeat[name.replace("noise", "difference")] for name in noise}
                found.append({"measure": measure, "run": run, **told, **noise})
    if not found:
        raise refusal(folder, "has no <measure>/<run>.csv of a run that the table shows")
    return pd.DataFrame(found)


def against(paths: dict[str, Path], run: str, baseline: str) -> dict[str, float]:
    """A run's mean score, and its difference to the baseline's; see :func:`compared`.

    Args:
        paths: the files of a measure, by run.
        run: its name.
        baseline: the name of the run of AR.
    """
    if baseline not in paths:
        missing = paths[run].with_name(f"{baseline}.csv")
        raise refusal(missing, "is not there: the differences to AR need it")
    prompts, wanted = (list(read_run(RUNS / name).images.prompt) for name in (run, baseline))
    if prompts != wanted:
        raise refusal(paths[run], f"the prompts of {run} are not those of {baseline}")
    own, of_ar = (read_scores(paths[name], len(prompts)) for name in (run, baseline))
    difference = bootstrap(own - of_ar)
    return {
        "mean": float(own.mean()),
        "deviation": float(of_ar.std()),
        "difference": difference.mean,
        "difference_low": difference.low,
        "difference_high": difference.high,
    }


def decimals(deviation: float) -> int:
    """Digits after the point that show a hundredth of a deviation between images."""
    return min(6, max(0, 2 - math.floor(math.log10(deviation)))) if deviation > 0 else 2


def score_columns(folder: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Columns of table 3, as texts: of each measure the mean, the difference to AR, and the noise.

    Args:
        folder: see :func:`compared`.
        rows: of the table of all runs, likewise.

    Returns:
        One row per row of ``rows``, in their order; "-" where a run has no scores.
    """
    columns = {}
    for measure, part in compared(folder, rows).groupby("measure"):
        form = f".{decimals(part.deviation.iloc[0])}f"
        told = part.set_index("run").reindex(rows.run)
        columns[measure] = told["mean"].map(f"{{:{form}}}".format).where(told["mean"].notna(), "-")
        for title, column in (("less AR's", "difference"), ("noise", "noise")):
            texts = pd.Series(with_interval(told, column, f"+{form}"), told.index)
            columns[f"{measure}, {title}"] = texts.where(told[column].notna(), "-")
    return pd.DataFrame(columns)


EXPLANATION = (
    " Scores of other environments: mean over images; less AR's: mean difference to AR's picture "
    "for the same prompt; noise: the same of AR with other seeds."
)
"""What the caption of table 3 says of these columns."""
