"""The scorers of extras/: one from end to end, the others with stand-ins for their packages."""

import ast
import csv
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import pjd
from pjd.measure.fidelity import bootstrap
from pjd.paths import ROOT
from pjd.pipeline import export, runs, scores
from pjd.pipeline.scores import compared
from tests.tiny import tiny_model, tiny_stamp

SCORERS = sorted(path.parent.name for path in ROOT.glob("extras/*/score.py"))
ROWS = pd.DataFrame({"run": ["ar", "ar-repeat", "pjd-4"], "setting": "emoji-64"})
"""Rows of the table of all runs, whose names params.yaml has."""


def run_scorer(name: str, *words: object, packages: Path | None = None):
    """Run a scorer as a user does, from another folder.

    Args:
        name: its folder in extras/.
        words: of its command line.
        packages: folder of modules that it finds before those of this environment.
    """
    command = [sys.executable, str(ROOT / "extras" / name / "score.py"), *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(packages or "")}
    more = {"capture_output": True, "text": True, "check": False}
    return subprocess.run(command, cwd=ROOT / "tests", env=environment, **more)


def test_from_a_run_to_the_table(tmp_path, monkeypatch):
    for module in (runs, scores):
        monkeypatch.setattr(module, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(runs, "PROVENANCE", tmp_path / "provenance")
    monkeypatch.setattr(runs, "weights_of", lambda name: "0123")
    model, prompts = tiny_model(), ["cat", "dog", "red cat", "red dog", "red", "cat dog"]
    monkeypatch.setattr(export, "load", lambda *_: model)
    table, grey = pd.DataFrame({"prompt": prompts, "group": "file"}), {}
    for run, method, seed in (("ar", "ar", 0), ("ar-repeat", "ar", 100), ("pjd-4", "pjd", 0)):
        made = pjd.generate(model, prompts, method, seed=seed)
        runs.save(run, tiny_stamp(made, "emoji-64"), made, table, model)
        layout = "geneval" if run == "pjd-4" else "flat"
        export.write(export.plan(run, layout), tmp_path / run)
        out = tmp_path / "scores" / "brightness" / f"{run}.csv"
        done = run_scorer("brightness", tmp_path / run, out)
        assert done.returncode == 0 and f"{out}: 6 scores" in done.stdout, done.stderr
        grey[run] = np.array([np.asarray(image.convert("L")).mean() for image in made.images])
    found = compared(tmp_path / "scores", ROWS).set_index("run")
    for run, of_run in grey.items():
        difference = bootstrap(of_run - grey["ar"])
        told = found.loc[run, ["mean", "difference", "difference_low", "difference_high"]]
        expected = [of_run.mean(), difference.mean, difference.low, difference.high]
        assert told.tolist() == pytest.approx(expected, abs=1e-9), run
    assert found.loc["pjd-4", "difference"] != 0
    assert found.loc["pjd-4", "noise"] == pytest.approx((grey["ar-repeat"] - grey["ar"]).mean())


def test_a_scorer_says_what_it_lacks(tmp_path):
    done = run_scorer("brightness", tmp_path, tmp_path / "out.csv")
    assert done.returncode == 1 and "must be one that `pjd export` wrote" in done.stderr
    line = {"index": 0, "file_name": "images/00000.png", "prompt": "cat"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(line) + "\n")
    done = run_scorer("brightness", tmp_path, tmp_path / "out.csv")
    assert done.returncode == 1 and "run `pjd export` again" in done.stderr
    assert not (tmp_path / "out.csv").exists()


PACKAGES = {
    "hpsv2/__init__.py": """
        def score(paths, prompt, hps_version):
            assert hps_version == "v2.1"
            return [len(prompt) + int(paths[0][-9:-4])]
    """,
    "hpsv3/__init__.py": """
        import numpy
        class HPSv3RewardInferencer:
            def __init__(self, device):
                assert device == "cuda"
            def reward(self, image_paths, prompts):
                return numpy.array([[len(prompts[0]) + int(image_paths[0][-9:-4]), 99]])
    """,
    "torch.py": "from contextlib import nullcontext as no_grad",
    "ImageReward.py": """
        class Model:
            def score(self, prompt, path):
                return len(prompt) + int(path[-9:-4])
        def load(name):
            assert name == "ImageReward-v1.0"
            return Model()
    """,
    "t2v_metrics.py": """
        import numpy
        def VQAScore(model):
            assert model == "clip-flant5-xxl"
            def forward(images, texts):
                return numpy.array([[len(texts[0]) + int(images[0][-9:-4])]])
            return forward
    """,
    # Packages, lest the real one is found.
    "accelerate/__init__.py": "",
    "accelerate/commands/__init__.py": "",
    "accelerate/commands/launch.py": """
        import runpy, sys
        assert sys.argv[1:3] == ["--num_processes", "1"]
        sys.argv = sys.argv[3:]
        runpy.run_path(sys.argv[0], run_name="__main__")
    """,
}
"""Stand-ins for packages, with the interface that scorers use: a score is the length of the prompt
plus the index of the image, both of which a scorer must hand over as they belong together."""

CLONES = {
    "tifascore/__init__.py": """
        from pathlib import Path
        def VQAModel(name):
            assert name == "mplug-large"
        def tifa_score_single(model, questions, path):
            assert [one["id"] for one in questions] == [path[-9:-4], path[-9:-4]]
            return {"tifa_score": len(questions[0]["caption"]) + int(path[-9:-4])}
    """,
    "tifa_v1.0/tifa_v1.0_question_answers.json": json.dumps(
        [
            {"id": f"{index:05d}", "caption": caption, "question": question}
            for question in ("is it?", "what colour?")
            for index, caption in enumerate(["cat", "a dog", "red cat"])
        ]
    ),
    "geneval2_data.jsonl": "".join(
        json.dumps({"prompt": prompt, "vqa_list": [[prompt, "Yes"]]}) + "\n"
        for prompt in ("another", "red cat", "cat", "a dog")
    ),
    "evaluation.py": """
        import argparse, json
        parser = argparse.ArgumentParser()
        for name in ("method", "benchmark_data", "image_filepath_data", "output_file"):
            parser.add_argument("--" + name)
        options = parser.parse_args()
        assert options.method == "soft_tifa_gm"
        paths = json.load(open(options.image_filepath_data))
        prompts = [json.loads(line)["prompt"] for line in open(options.benchmark_data)]
        # The geometric mean of x/4, 4x and x is x.
        values = [len(prompt) + int(paths[prompt][-9:-4]) for prompt in prompts]
        lists = [[value / 4, value * 4, value] for value in values]
        json.dump(lists, open(options.output_file, "w"))
    """,
    "dpg_bench/prompts/p7.txt": "cat\n",
    "dpg_bench/prompts/p8.txt": "a  dog",
    "dpg_bench/prompts/p9.txt": "red cat",
    "dpg_bench/compute_dpg_bench.py": """
        import argparse
        from pathlib import Path
        from PIL import Image
        parser = argparse.ArgumentParser()
        for name in ("image-root-path", "resolution", "pic-num", "res-path"):
            parser.add_argument("--" + name)
        options = parser.parse_args()
        assert options.pic_num == "1" and options.resolution == "8"
        with open(options.res_path, "w") as file:
            for path in sorted(Path(options.image_root_path).iterdir(), reverse=True):
                index = Image.open(path).getpixel((0, 0))[0]
                length = {"p7": 3, "p8": 5, "p9": 7}[path.stem]
                file.write(f"{path}, {length + index}, {length + index}\\n")
            file.write("Model: images\\nL1 category scores:\\nDPG-Bench score: 50.0\\n")
    """,
}
"""Stand-ins for the benchmarks' repositories, likewise."""


def lay_out(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


def exported(folder: Path, prompts: list[str]) -> Path:
    """A folder as `pjd export` writes it, of pictures whose red is their index."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for index, prompt in enumerate(prompts):
        name = f"images/{index:05d}.png"
        Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / name)
        lines.append(json.dumps({"file_name": name, "prompt": prompt, "index": index}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(lines))
    return folder


def benchmark_words(name: str, clone: Path) -> list[object]:
    return ["--benchmark", clone] if name in ("tifa", "geneval2", "dpg_bench") else []


@pytest.mark.parametrize("name", [name for name in SCORERS if name != "brightness"])
def test_a_scorer_hands_over_each_picture_with_its_prompt(name, tmp_path):
    packages = lay_out(tmp_path / "packages", PACKAGES)
    clone, out = lay_out(tmp_path / "clone", CLONES), tmp_path / "out.csv"
    folder = exported(tmp_path / "run", ["cat", "a dog", "red cat"])
    words = benchmark_words(name, clone)
    done = run_scorer(name, folder, out, *words, packages=packages)
    assert done.returncode == 0, done.stderr
    with out.open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["index", "score"] and [row[0] for row in rows] == ["0", "1", "2"]
    assert [float(row[1]) for row in rows] == pytest.approx([3, 6, 9])


@pytest.mark.parametrize("name", ["tifa", "geneval2", "dpg_bench"])
def test_a_prompt_that_a_benchmark_lacks_is_named(name, tmp_path):
    clone, out = lay_out(tmp_path / "clone", CLONES), tmp_path / "out.csv"
    folder = exported(tmp_path / "run", ["cat", "a bear"])
    done = run_scorer(name, folder, out, "--benchmark", clone)
    assert done.returncode == 1 and "'a bear'" in done.stderr and not out.exists()
    done = run_scorer(name, folder, out, "--benchmark", tmp_path / "absent")
    assert done.returncode == 1 and "--benchmark must be a clone of" in done.stderr


@pytest.mark.parametrize("name", SCORERS)
def test_all_scorers_have_one_command_line_and_a_lock(name):
    done = run_scorer(name, "--help")
    assert done.returncode == 0, done.stderr
    assert " folder out" in done.stdout
    source = (ROOT / "extras" / name / "score.py").read_text()
    # The oldest Python that a lock is for.
    tree = ast.parse(source, feature_version=(3, 9))
    unrun = "We have not run this script" in ast.get_docstring(tree)
    assert unrun == (name != "brightness")
    lock = (ROOT / "extras" / name / "requirements.txt").read_text().splitlines()
    pins = [line for line in lock if line and not line.startswith("#")]
    assert pins and all(re.fullmatch(r"[\w.-]+==[\w.+!-]+", line) for line in pins)


def test_the_page_lists_the_scorers():
    page = (ROOT / "docs" / "quality.md").read_text()
    listed = re.findall(
        r"^\| `(\w+)` \|", page.split("## Measures from other env")[1], re.MULTILINE
    )
    assert sorted(listed) == SCORERS
