"""TIFA: the share of questions about a prompt that its picture answers as they should be answered.

We have not run this script. It takes the benchmark's questions and code from a clone of
Yushi-Hu/tifa, since the released package tifascore 1.0.1 has no code in it. The run's prompts must
be captions of TIFA v1.0: questions about others would need a paid service.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

import json
from collections import defaultdict

from extras.folder import Picture, main, plain


def score(pictures: list[Picture], benchmark: Path) -> Iterator[float]:
    """Yield the share of right answers of each picture, 0 to 1.

    Raises:
        SystemExit: if the benchmark has no questions for a prompt.
    """
    listed = benchmark / "tifa_v1.0" / "tifa_v1.0_question_answers.json"
    questions = defaultdict(list)
    for question in json.loads(listed.read_text(encoding="utf-8")):
        questions[plain(question["caption"])].append(question)
    for picture in pictures:
        if plain(picture.prompt) not in questions:
            raise SystemExit(f"TIFA v1.0 has no questions for {picture.prompt!r}")
    sys.path.insert(0, str(benchmark))
    from tifascore import VQAModel, tifa_score_single

    model = VQAModel("mplug-large")
    for picture in pictures:
        told = tifa_score_single(model, questions[plain(picture.prompt)], str(picture.path))
        yield told["tifa_score"]


if __name__ == "__main__":
    main(score, __doc__, "a clone of TIFA")
