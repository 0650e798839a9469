"""Do pictures show their captions? Retrieval with a linear probe for the words of the emoji corpus.

The package has no text-image model such as CLIP. In its place is a ridge regression from
EfficientNet-Lite0's features to the words of a caption, fitted on the corpus' training pictures.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from pjd.models.captions import Words


def bags(captions: list[str], words: Words) -> Tensor:
    """Bags of words: float [captions, words], 1 where the caption has the word, else 0."""
    rows = torch.zeros(len(captions), len(words))
    for row, caption in zip(rows, captions, strict=True):
        row[words.ids(caption)] = 1.0
    return rows


@dataclass
class LinearProbe:
    """A linear map from features of a picture to words.

    Attributes:
        weight: [features, words].
        mean: [features], of the training pictures.
        rarity: [words], the weight of each word: log(pictures / pictures with the word).
        words: the vocabulary.
    """

    weight: Tensor
    mean: Tensor
    rarity: Tensor
    words: Words

    @classmethod
    def fit(
        cls, features: Tensor, captions: list[str], words: Words, ridge: float = 0.1
    ) -> "LinearProbe":
        """Fit by ridge regression in double precision.

        Args:
            features: of the training pictures, [n, features].
            captions: of the pictures.
            words: the vocabulary.
            ridge: penalty, in units of the mean variance of the features.
        """
        present = bags(captions, words)
        rarity = (len(captions) / present.sum(0).clamp(min=1)).log()
        target = present * rarity
        target = (target - target.mean(0)).double()
        mean = features.mean(0)
        centred = (features - mean).double()
        gram = centred.T @ centred
        penalty = ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
        weight = torch.linalg.solve(gram + penalty, centred.T @ target)
        return cls(weight.float().contiguous(), mean, rarity, words)

    def scores(self, features: Tensor, captions: list[str]) -> Tensor:
        """Cosine of the words read from each picture and those of each caption.

        Args:
            features: [pictures, features].
            captions: any number.

        Returns:
            Float [pictures, captions].
        """
        read = F.normalize((features - self.mean) @ self.weight, dim=-1)
        wanted = bags(captions, self.words) * self.rarity
        return read @ F.normalize(wanted, dim=-1).T

    def save(self, path: Path) -> None:
        """Write the tensors; the vocabulary is not written, since it is the corpus'."""
        save_file({"weight": self.weight, "mean": self.mean, "rarity": self.rarity}, path)
        path.chmod(0o644)

    @classmethod
    def load(cls, path: Path, words: Words) -> "LinearProbe":
        """Read what :meth:`save` wrote."""
        return cls(**load_file(path), words=words)


def rank_of_own_caption(scores: Tensor) -> Tensor:
    """How many captions are scored above a picture's own one, int64 [pictures].

    Args:
        scores: [pictures, captions], the own caption on the diagonal; equal captions count as own.
    """
    own = scores.diagonal()[:, None]
    return (scores > own).sum(1)


def shares_found(ranks: np.ndarray) -> dict[str, float]:
    """Share of pictures whose own caption is among the best 1, 10 and 50.

    Args:
        ranks: int [pictures], of :func:`rank_of_own_caption`; -1 where there is no caption to find,
            which gives not a number.
    """
    known = ranks >= 0
    return {
        f"caption_best_{n}": float((ranks < n).mean()) if known.all() else np.nan
        for n in (1, 10, 50)
    }
