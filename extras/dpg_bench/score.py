"""DPG-Bench: the share of questions about a prompt that its picture answers, by its own script.

We have not run this script. The script, dpg_bench/compute_dpg_bench.py of TencentQQGYLab/ELLA,
knows a picture by the name of its prompt's file. The run's prompts must be those of the benchmark.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

import shutil
import subprocess
import tempfile

from PIL import Image

from extras.folder import Picture, by_prompt, main, plain


def score(pictures: list[Picture], benchmark: Path) -> Iterator[float]:
    """Yield the score of each picture, 0 to 1.

    Raises:
        SystemExit: if the benchmark does not have a prompt, or its script leaves out a picture.
    """
    names = {
        plain(path.read_text(encoding="utf-8")): path.stem
        for path in (benchmark / "dpg_bench" / "prompts").glob("*.txt")
    }
    asked = by_prompt(pictures)
    for prompt in asked:
        if prompt not in names:
            raise SystemExit(f"DPG-Bench has no prompt {prompt!r}")
    with Image.open(pictures[0].path) as image:
        side = image.width
    with tempfile.TemporaryDirectory() as made:
        images, out = Path(made) / "images", Path(made) / "out.txt"
        images.mkdir()
        for prompt, picture in asked.items():
            shutil.copy(picture.path, images / f"{names[prompt]}.png")
        command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1"]
        command += ["dpg_bench/compute_dpg_bench.py", "--image-root-path", str(images)]
        command += ["--resolution", str(side), "--pic-num", "1", "--res-path", str(out)]
        subprocess.run(command, cwd=benchmark, check=True)
        # "path, score of each picture of the prompt, their mean"; after these lines, a summary.
        lines = [line.split(", ") for line in out.read_text(encoding="utf-8").splitlines()]
    scores = {Path(line[0]).stem: line[-1] for line in lines if line[0].endswith(".png")}
    for prompt in asked:
        if names[prompt] not in scores:
            raise SystemExit(f"the script of DPG-Bench left out the picture of {prompt!r}")
        yield float(scores[names[prompt]])


if __name__ == "__main__":
    main(score, __doc__, "a clone of ELLA, which has DPG-Bench")
