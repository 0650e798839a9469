"""Captions as ids of words, for the embedded models."""

import re

import torch
from torch import Tensor


class Words:
    """A word vocabulary; id 0 is padding and id 1 stands for every unknown word.

    Args:
        vocabulary: the known words, ids 2 and up.
        length: caption positions; longer captions lose their first words.
    """

    unknown = 1

    def __init__(self, vocabulary: list[str], length: int) -> None:
        """Index the words."""
        self.vocabulary = vocabulary
        self.length = length
        self.index = {word: number + 2 for number, word in enumerate(vocabulary)}

    def __len__(self) -> int:
        """Count the ids, padding and the unknown word included."""
        return len(self.vocabulary) + 2

    @staticmethod
    def split(text: str) -> list[str]:
        """Words of ``text``: lower case, runs of letters and digits."""
        return re.findall(r"\w+", text.lower())

    def ids(self, text: str) -> list[int]:
        """Ids of the words of ``text``; a text without words is one unknown word."""
        return [self.index.get(word, self.unknown) for word in self.split(text)] or [self.unknown]

    def unknown_words(self, text: str) -> list[str]:
        """Words of ``text`` that the vocabulary lacks."""
        return [word for word in self.split(text) if word not in self.index]

    def align(self, ids: Tensor) -> Tensor:
        """Right-align ids int64 [n, any], 0 = padding, in [n, length]; first words may be cut."""
        order = (ids > 0).to(torch.int8).argsort(dim=1, stable=True)
        ids = ids.gather(1, order)[:, -self.length :]
        return torch.nn.functional.pad(ids, (self.length - ids.shape[1], 0))

    def encode(self, captions: list[str]) -> Tensor:
        """Ids int64 [captions, length] of whole captions, right-aligned, 0-padded."""
        rows = [torch.tensor(self.ids(caption), dtype=torch.long) for caption in captions]
        return self.align(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))
