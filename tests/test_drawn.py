"""What is drawn lies beside the figure as a table."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from pjd.pipeline import figures
from pjd.pipeline.drawn import drawn_values
from pjd.pipeline.figures import interval_line, noise_band


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def rows(figure: plt.Figure, series: str) -> list[list[object]]:
    """The rows of a series, without panel and series."""
    table = drawn_values(figure)
    chosen = table[table.series == series].drop(columns=["panel", "series"])
    return chosen.dropna(axis="columns", how="all").to_numpy().tolist()


def test_lines_bands_intervals_and_constants_are_read_off():
    table = pd.DataFrame({"x": [2, 1], "y": [5.0, 4.0], "y_low": [4.5, 3.0], "y_high": [6.0, 4.5]})
    figure, axis = plt.subplots()
    interval_line(axis, table, "x", "y", label="PJD")
    axis.plot([1, 2], [7, 8], label="bound")
    axis.axhline(3.5, label="SJD")
    axis.axvline(1.5)
    noise_band(axis, -0.1, 0.2, "noise")
    axis.set(ylabel="steps")
    assert rows(figure, "PJD") == [[1, 4.0, 3.0, 4.5], [2, 5.0, 4.5, 6.0]]
    assert rows(figure, "bound") == [[1, 7], [2, 8]]
    assert rows(figure, "SJD") == [[3.5]]
    assert rows(figure, "noise") == [pytest.approx([-0.1, 0.2])]
    values = drawn_values(figure)
    assert len(values) == 6 and set(values.panel) == {"steps"}


def test_bars_points_and_named_ticks():
    figure, (left, right) = plt.subplots(1, 2)
    left.bar([0, 1], [3, 4], label="forward")
    left.set_xticks([0, 1], ["AR", "SJD"])
    left.set(title="seconds")
    right.scatter([1, 2], [3, 5], label="points")
    assert rows(figure, "forward") == [["AR", 3], ["SJD", 4]]
    assert rows(figure, "points") == [[1, 3], [2, 5]]
    assert drawn_values(figure).panel.tolist()[:2] == ["seconds", "seconds"]


def test_grids_are_cells_and_photographs_are_nothing(tmp_path, monkeypatch):
    figure, (left, right) = plt.subplots(1, 2)
    left.imshow([[1, 2], [3, 4]])
    right.pcolormesh([[5, 6]])
    table = drawn_values(figure)
    assert table.value.tolist() == [1, 2, 3, 4, 5, 6]
    assert table.x.tolist() == [0, 1, 0, 1, 0, 1] and table.y.tolist() == [0, 0, 1, 1, 0, 0]
    photograph, axis = plt.subplots()
    axis.imshow(np.zeros((2, 2, 3)))
    monkeypatch.setattr(figures, "FIGURES", tmp_path)
    figures.save(photograph, "picture", "A picture.")
    figures.save(figure, "grid", "A grid.")
    assert not (tmp_path / "picture" / "picture.csv").exists()
    assert len(pd.read_csv(tmp_path / "grid" / "grid.csv")) == 6
