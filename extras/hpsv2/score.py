"""HPSv2.1: how people would like a picture for its prompt, by the package hpsv2.

We have not run this script beyond the download of its weights, which we cannot make. It downloads
xswu/HPSv2, and reads it anew for every picture.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from extras.folder import Picture, main


def score(pictures: list[Picture], _: Path) -> Iterator[float]:
    """Yield the score of each picture, about 0.2 to 0.35."""
    import hpsv2

    for picture in pictures:
        yield hpsv2.score([str(picture.path)], picture.prompt, hps_version="v2.1")[0]


if __name__ == "__main__":
    main(score, __doc__)
