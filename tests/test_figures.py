import pandas as pd
import pytest
import yaml
from PIL import Image

from pjd.pipeline import figures
from pjd.pipeline.ablation import swept
from pjd.pipeline.figures import first_of_groups, image_rows, label, results
from pjd.pipeline.params import lay_over


def test_a_sweep_is_in_order_of_its_knob_and_no_limit_comes_last():
    table = pd.DataFrame(
        {
            "run": ["ar", "a", "b", "c", "d"],
            "group": ["main", "top-k", "top-k", "other", "top-k"],
            "top_k": [0, 256, 16, 64, 16],
        }
    )
    drawn = swept(table, "top-k", "top_k", ["ar"])
    assert drawn.run.tolist() == ["b", "d", "a", "ar"]
    assert drawn.place.tolist() == [1, 1, 2, 3]
    assert drawn.tick.tolist() == ["16", "16", "256", "all"]


def test_a_limit_of_none_is_all_and_a_guidance_of_zero_is_a_value():
    values = {"rows": [3, None], "guidance": [0.0, 2.5]}
    table = pd.DataFrame({"run": ["a", "b"], "group": ["rows", "main"], **values})
    assert swept(table, "rows", "rows", ["b"]).tick.tolist() == ["3", "all"]
    assert swept(table, "rows", "guidance", ["b"]).tick.tolist() == ["0", "2.5"]


def test_a_run_is_called_by_its_options():
    assert label("pjd-4") == "PJD c=4" and label("sjd") == "SJD"
    assert label("ar-repeat") == "AR, other seeds" and label("sjd-32") == "SJD W=32"
    assert label("mc-sjd-gumbel") == "MC-SJD W=16, redraft gumbel"


def test_an_absent_run_is_named(tmp_path, monkeypatch):
    pd.DataFrame({"run": ["ar"], "steps": [256]}).to_parquet(tmp_path / "runs.parquet")
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    assert results(["ar"]).steps["ar"] == 256
    with pytest.raises(ValueError, match=r"no run pjd-7 among those of params.yaml"):
        results(["ar", "pjd-7"])


def test_figures_show_as_many_of_each_group_after_those_left_out():
    table = pd.DataFrame({"group": ["a"] * 5 + ["b"] * 5})
    assert first_of_groups(table, 4) == [0, 1, 5, 6]
    assert first_of_groups(table, 3, skip=2) == [2, 3, 7]


def test_dollar_signs_in_a_prompt_are_no_formula(tmp_path):
    text = r"a $\frac$ b"
    figure = image_rows({text: [Image.new("RGB", (4, 4))]}, [text], {text: [text]})
    figure.savefig(tmp_path / "figure.png")


def test_a_profile_replaces_values_and_keeps_comments(tmp_path):
    parameters = tmp_path / "params.yaml"
    parameters.write_text("# How many.\nimages: 512\nsweeps: {a: 1}\n")
    (tmp_path / "small.yaml").write_text("images: 4\nsweeps: {b: 2}\n")
    assert lay_over(tmp_path / "small.yaml", parameters) == ["images", "sweeps"]
    assert yaml.safe_load(parameters.read_text()) == {"images": 4, "sweeps": {"b": 2}}
    assert "# How many." in parameters.read_text()
    (tmp_path / "wrong.yaml").write_text("imagez: 4\n")
    with pytest.raises(ValueError, match=r"params.yaml has no imagez"):
        lay_over(tmp_path / "wrong.yaml", parameters)
    with pytest.raises(FileNotFoundError, match="no profile other: there are"):
        lay_over(tmp_path / "other.yaml", parameters)
