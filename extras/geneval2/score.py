"""GenEval 2: Soft-TIFA, by the script evaluation.py of its repository, facebookresearch/GenEval2.

We have not run this script. The run's prompts must be those of the benchmark. It needs a GPU, and
downloads Qwen/Qwen3-VL-8B-Instruct, which answers questions about pictures.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

import json
import math
import subprocess
import tempfile

from extras.folder import Picture, by_prompt, main, plain


def score(pictures: list[Picture], benchmark: Path) -> Iterator[float]:
    """Yield the geometric mean of the probabilities of each picture's right answers, 0 to 1.

    Raises:
        SystemExit: if the benchmark does not have a prompt.
    """
    text = (benchmark / "geneval2_data.jsonl").read_text(encoding="utf-8")
    known = [json.loads(line) for line in text.splitlines() if line.strip()]
    tasks = {plain(task["prompt"]): task for task in known}
    asked = by_prompt(pictures)
    for prompt in asked:
        if prompt not in tasks:
            raise SystemExit(f"GenEval 2 has no prompt {prompt!r}")
    with tempfile.TemporaryDirectory() as made:
        data, images, out = (Path(made) / name for name in ("data.jsonl", "images.json", "out"))
        # Its script asks for a picture of every line: give it only those of the run, in order.
        data.write_text("".join(json.dumps(tasks[prompt]) + "\n" for prompt in asked))
        paths = {tasks[prompt]["prompt"]: str(picture.path) for prompt, picture in asked.items()}
        images.write_text(json.dumps(paths))
        command = [sys.executable, "evaluation.py", "--method", "soft_tifa_gm"]
        command += ["--benchmark_data", str(data), "--image_filepath_data", str(images)]
        subprocess.run([*command, "--output_file", str(out)], cwd=benchmark, check=True)
        answers = json.loads(out.read_text(encoding="utf-8"))
    # A list of probabilities per picture.
    for probabilities in answers:
        yield math.prod(probabilities) ** (1 / len(probabilities))


if __name__ == "__main__":
    main(score, __doc__, "a clone of GenEval 2")
