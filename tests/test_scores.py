"""Scores of other environments: read strictly, and compared picture by picture with AR's."""

import re

import numpy as np
import pandas as pd
import pytest

from pjd.errors import ParameterError
from pjd.measure.fidelity import bootstrap
from pjd.pipeline import scores
from pjd.pipeline.files import write_json
from pjd.pipeline.scores import compared, decimals, read_scores, score_columns

IMAGES = 400
ROWS = pd.DataFrame({"run": ["ar", "ar-repeat", "pjd-4", "sjd"], "setting": "emoji-64"})
"""Rows of the table of all runs, whose names params.yaml has."""


def write_csv(path, values, order=None):
    order = range(len(values)) if order is None else order
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{index},{float(values[index])!r}\n" for index in order)
    path.write_text(f"index,score\n{text}")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Scores of three runs of 400 images: PJD's are 0.5 above AR's, which vary by 50."""
    monkeypatch.setattr(scores, "RUNS", tmp_path / "runs")
    random = np.random.default_rng(0)
    ar = random.normal(100, 50, IMAGES)
    values = {"ar": ar, "pjd-4": ar + 0.5 + random.normal(0, 1, IMAGES)}
    values["ar-repeat"] = ar + random.normal(0, 10, IMAGES)
    for run, of_run in values.items():
        decoded = tmp_path / "runs" / run / "decode"
        decoded.mkdir(parents=True)
        prompts = pd.DataFrame({"prompt": [f"cat {i}" for i in range(IMAGES)]})
        prompts.to_parquet(decoded / "images.parquet")
        stamp = {"setting": "emoji-64", "model": "emoji-64", "dtype": "float32", "config": {}}
        write_json(decoded / "run.json", stamp)
        # The lines of a file may have any order.
        write_csv(tmp_path / "scores" / "taste" / f"{run}.csv", of_run, random.permutation(IMAGES))
    return tmp_path / "scores"


def test_the_difference_is_paired(folder):
    found = compared(folder, ROWS).set_index("run")
    assert list(found.index) == ["ar", "ar-repeat", "pjd-4"]
    own, of_ar = (read_scores(folder / "taste" / f"{run}.csv", IMAGES) for run in ("pjd-4", "ar"))
    pjd_4 = found.loc["pjd-4"]
    assert pjd_4["mean"] == pytest.approx(own.mean())
    assert pjd_4.difference == pytest.approx((own - of_ar).mean())
    assert pjd_4.difference_low < 0.5 < pjd_4.difference_high and pjd_4.difference_low > 0
    # Of differences that vary by 1; if the images were not paired it would be 70 times as wide.
    width = pjd_4.difference_high - pjd_4.difference_low
    assert width == pytest.approx(2 * 1.96 / IMAGES**0.5, rel=0.15)
    assert found.loc["ar", "difference"] == found.loc["ar", "difference_high"] == 0


def test_the_noise_is_that_of_ar_with_other_seeds(folder):
    found = compared(folder, ROWS).set_index("run")
    repeat = found.loc["ar-repeat"]
    for end in ("", "_low", "_high"):
        assert (found[f"noise{end}"] == repeat[f"difference{end}"]).all()
    assert repeat.noise_low < 0 < repeat.noise_high
    (folder / "taste" / "ar-repeat.csv").unlink()
    assert compared(folder, ROWS).noise.isna().all()
    columns = score_columns(folder, ROWS)
    assert (columns["taste, noise"] == "-").all()


def test_the_interval_covers_the_true_difference_as_often_as_it_says():
    random = np.random.default_rng(1)
    shared = random.normal(0, 50, (200, 100))
    differences = shared + 0.3 + random.normal(0, 1, shared.shape) - shared
    intervals = [bootstrap(one, draws=400) for one in differences]
    covered = np.mean([interval.low <= 0.3 <= interval.high for interval in intervals])
    assert 0.89 <= covered <= 0.99


def test_the_table_has_texts_in_the_order_of_its_rows(folder):
    write_csv(folder / "length" / "ar.csv", np.linspace(0, 0.01, IMAGES))
    columns = score_columns(folder, ROWS)
    heads = [m + end for m in ("length", "taste") for end in ("", ", less AR's", ", noise")]
    assert list(columns.columns) == heads and list(columns.index) == list(ROWS.run)
    assert (columns.loc["sjd"] == "-").all() and (columns["length"].iloc[1:] == "-").all()
    assert re.fullmatch(r"\d+\.\d", columns.loc["pjd-4", "taste"])
    interval = r"[+-]\d\.\d \[[+-]\d\.\d, [+-]\d\.\d\]"
    assert re.fullmatch(interval, columns.loc["pjd-4", "taste, less AR's"])
    assert columns.loc["ar", "length"] == "0.00500"


@pytest.mark.parametrize(
    ("deviation", "digits"), [(50, 1), (5, 2), (0.003, 5), (1e-9, 6), (1e4, 0), (0, 2)]
)
def test_a_hundredth_of_a_deviation_is_shown(deviation, digits):
    assert decimals(deviation) == digits


GOOD = "index,score\n0,1.5\n2,-3\n1,2e-3\n"


def test_a_file_is_read_in_the_order_of_the_images(tmp_path):
    path = tmp_path / "ar.csv"
    for text in (GOOD, GOOD.replace("\n", "\r\n"), "\ufeff" + GOOD, GOOD + "\n"):
        path.write_bytes(text.encode())
        assert read_scores(path, 3).tolist() == [1.5, 0.002, -3]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1 must be index,score, not ''"),
        (GOOD.replace("score", "hpsv2"), "line 1 must be index,score, not 'index,hpsv2'"),
        (GOOD.removeprefix("index,score\n"), "line 1 must be index,score, not '0,1.5'"),
        (
            "index,score\n0,1\n2,1\n",
            "has 2 scores for the 3 images of the run: no line has index 1",
        ),
        (GOOD + "3,1\n", "line 5: index '3' must be an integer from 0 to 2"),
        (GOOD + "1,1\n", "line 5: line 4 has index 1 too"),
        (GOOD.replace("2,", "-2,"), "line 3: index '-2' must be an integer from 0 to 2"),
        (GOOD.replace("2,", "2.0,"), "line 3: index '2.0' must be an integer"),
        (GOOD.replace("2,", f"{'9' * 5000},"), "line 3: index '999"),
        (GOOD.replace("-3", "good"), "line 3: score 'good' must be a finite number"),
        (GOOD.replace("-3", "nan"), "line 3: score 'nan' must be a finite number"),
        (GOOD.replace("-3", "-inf"), "line 3: score '-inf' must be a finite number"),
        (GOOD.replace("-3", ""), "line 3: score '' must be a finite number"),
        (GOOD.replace("-3", "-3,4"), "line 3 must have an index and a score, not 3 cells"),
        (GOOD.replace("2,-3", "2"), "line 3 must have an index and a score, not 1 cells"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_its_line(tmp_path, text, told):
    path = tmp_path / "ar.csv"
    path.write_text(text)
    with pytest.raises(ParameterError) as error:
        read_scores(path, 3)
    assert f"scores = {str(path)!r}: " in str(error.value) and told in str(error.value)


def test_a_file_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "ar.csv"
    path.write_bytes(GOOD.encode("utf-16"))
    with pytest.raises(ParameterError, match=r"ar\.csv': must be a CSV in UTF-8"):
        read_scores(path, 3)


def test_a_folder_that_is_wrong_is_named(folder, tmp_path):
    with pytest.raises(ParameterError, match=r"absent': must be a folder with files <measure>/<r"):
        compared(tmp_path / "absent", ROWS)
    with pytest.raises(ParameterError, match="of a run that the table shows"):
        compared(folder, ROWS[ROWS.run == "sjd"])
    write_csv(folder / "taste" / "pjd4.csv", [1.0])
    with pytest.raises(ParameterError, match=r"taste/pjd4\.csv': must have the name of a run of"):
        compared(folder, ROWS)
    (folder / "taste" / "pjd4.csv").unlink()
    (folder / "taste" / "ar.csv").unlink()
    with pytest.raises(ParameterError, match=r"taste/ar\.csv': is not there: the differences to"):
        compared(folder, ROWS)


def test_a_run_with_other_prompts_is_named(folder, tmp_path):
    path = tmp_path / "runs" / "pjd-4" / "decode" / "images.parquet"
    pd.DataFrame({"prompt": [f"dog {i}" for i in range(IMAGES)]}).to_parquet(path)
    with pytest.raises(ParameterError, match="the prompts of pjd-4 are not those of ar"):
        compared(folder, ROWS)
