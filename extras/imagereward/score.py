"""ImageReward: how people would like a picture for its prompt, by the package image-reward.

We have not run this script beyond the download of its weights, which we cannot make. It downloads
THUDM/ImageReward.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from extras.folder import Picture, main


def score(pictures: list[Picture], _: Path) -> Iterator[float]:
    """Yield the reward of each picture, about -2 to 2."""
    import ImageReward
    import torch

    model = ImageReward.load("ImageReward-v1.0")
    with torch.no_grad():
        for picture in pictures:
            yield model.score(picture.prompt, str(picture.path))


if __name__ == "__main__":
    main(score, __doc__)
