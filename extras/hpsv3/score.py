"""HPSv3: how people would like a picture for its prompt, by the package hpsv3.

We have not run this script beyond the download of its weights, which we cannot make. It needs a
GPU, and downloads MizzenAI/HPSv3, a model of 7B parameters.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from extras.folder import Picture, main


def score(pictures: list[Picture], _: Path) -> Iterator[float]:
    """Yield the mean of the model's distribution of each picture's reward."""
    from hpsv3 import HPSv3RewardInferencer

    model = HPSv3RewardInferencer(device="cuda")
    for picture in pictures:
        # By name: versions of the package have these two in either order.
        rewards = model.reward(prompts=[picture.prompt], image_paths=[str(picture.path)])
        # A reward has a mean and a deviation.
        yield rewards[0][0].item()


if __name__ == "__main__":
    main(score, __doc__)
