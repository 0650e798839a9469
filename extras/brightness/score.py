"""Mean brightness of a picture, 0 to 255: a stand-in for a measure, which needs no network.

The tests run it from end to end. It says nothing of quality.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

import numpy as np
from PIL import Image

from extras.folder import Picture, main


def score(pictures: list[Picture], _: Path) -> Iterator[float]:
    """Yield the mean of each picture's grey values."""
    for picture in pictures:
        with Image.open(picture.path) as image:
            yield float(np.asarray(image.convert("L")).mean())


if __name__ == "__main__":
    main(score, __doc__)
