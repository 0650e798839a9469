"""VQAScore: the probability that a picture shows its prompt, by the package t2v-metrics.

We have not run this script beyond the download of its weights, which we cannot make. It needs a
GPU, and downloads zhiqiulin/clip-flant5-xxl, of 11B parameters.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from extras.folder import Picture, main


def score(pictures: list[Picture], _: Path) -> Iterator[float]:
    """Yield the probability of "yes" for each picture, 0 to 1."""
    import t2v_metrics

    model = t2v_metrics.VQAScore(model="clip-flant5-xxl")
    for picture in pictures:
        # A tensor [pictures, texts].
        yield model(images=[str(picture.path)], texts=[picture.prompt])[0][0].item()


if __name__ == "__main__":
    main(score, __doc__)
