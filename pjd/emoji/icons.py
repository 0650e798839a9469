"""Training batches: icons on backgrounds, with their captions as word ids."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pjd.emoji import corpus
from pjd.models.captions import Words


@dataclass
class Icons:
    """All icons of a split at one size, premultiplied, and their words.

    Attributes:
        pixels: uint8 [icons, size, size, 4], premultiplied RGBA.
        backgrounds: uint8 [backgrounds, size, size, 3].
        names: int64 [icons, longest name], word ids, 0-padded.
        styles: int64 [icons, 2], word ids of the style, 0-padded.
        background_names: int64 [backgrounds, 2], word ids of "on" and the name.
        words: the vocabulary.
    """

    pixels: Tensor
    backgrounds: Tensor
    names: Tensor
    styles: Tensor
    background_names: Tensor
    words: Words

    @classmethod
    def load(cls, path: Path, size: int, split: str, words: Words) -> "Icons":
        """Read the icons of one ``split`` from the corpus at ``path``, resized to ``size``."""
        table = corpus.load(path)
        table = table[table.split == split]
        pixels = np.stack([corpus.resize(corpus.decode(image), size) for image in table.image])
        alpha = pixels[..., 3:].astype(np.float32) / 255
        pixels[..., :3] = np.round(pixels[..., :3] * alpha)

        def ids(texts: list[str]) -> Tensor:
            rows = [torch.tensor(words.ids(text)) for text in texts]
            return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

        # torch.tensor, unlike from_numpy, puts them on the default device, as all of training is.
        grounds = np.stack([corpus.background(name, size) for name in corpus.BACKGROUNDS])
        return cls(
            pixels=torch.tensor(pixels),
            backgrounds=torch.tensor(grounds),
            names=ids(list(table.name)),
            styles=ids(list(table["style"])),
            background_names=ids([f"on {name}" for name in corpus.BACKGROUNDS]),
            words=words,
        )

    def __len__(self) -> int:
        """Count the icons."""
        return len(self.pixels)

    def images(self, rows: Tensor, backgrounds: Tensor, shift: Tensor | None = None) -> Tensor:
        """Icons ``rows`` on ``backgrounds`` (int64 [n] both): uint8 [n, size, size, 3].

        ``shift`` int64 [n, 2] moves each icon down and right by so many pixels.
        """
        icons = self.pixels[rows]
        if shift is not None:
            size = icons.shape[1]
            place = torch.arange(size)
            down = place[None] - shift[:, :1]
            right = place[None] - shift[:, 1:]
            inside = ((down >= 0) & (down < size))[:, :, None] & ((right >= 0) & (right < size))[
                :, None
            ]
            batch = torch.arange(len(rows))[:, None, None]
            icons = icons[
                batch, down.clamp(0, size - 1)[:, :, None], right.clamp(0, size - 1)[:, None]
            ]
            icons = icons * inside[..., None]
        icons = icons.float()
        clear = 1 - icons[..., 3:] / 255
        mixed = icons[..., :3] + self.backgrounds[backgrounds].float() * clear
        return mixed.round().clamp(0, 255).to(torch.uint8)

    def captions(self, rows: Tensor, backgrounds: Tensor, drop: bool) -> Tensor:
        """Word ids int64 [n, words.length], right-aligned, 0-padded, of the same images.

        ``drop`` leaves out the style (1 in 10) or the background (1 in 10) and hides 1 word in 20,
        so that the model learns to do with less.
        """
        names, styles = self.names[rows], self.styles[rows]
        grounds = self.background_names[backgrounds]
        if drop:
            styles = styles * (torch.rand(len(rows), 1) > 0.1)
            grounds = grounds * (torch.rand(len(rows), 1) > 0.1)
            hidden = (torch.rand(names.shape) < 0.05) & (names > 0)
            names = torch.where(hidden, self.words.unknown, names)
        return self.words.align(torch.cat([names, styles, grounds], dim=1))
