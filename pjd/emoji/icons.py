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
    """All icons of a split at one size, and the words of their captions.

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

        # torch.tensor, unlike from_numpy, puts them on the default device, where training runs.
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
        """Compose images uint8 [n, size, size, 3].

        Args:
            rows: int64 [n], which icons.
            backgrounds: int64 [n], which backgrounds.
            shift: int64 [n, 2], pixels by which each icon is moved down and right.
        """
        icons = self.pixels[rows]
        if shift is not None:
            size = icons.shape[1]
            # The pixel of the icon that comes to each pixel of the image; outside it is clear.
            row = (torch.arange(size) - shift[:, :1])[:, :, None]
            column = (torch.arange(size) - shift[:, 1:])[:, None]
            inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
            batch = torch.arange(len(rows))[:, None, None]
            icons = icons[batch, row.clamp(0, size - 1), column.clamp(0, size - 1)]
            icons = icons * inside[..., None]
        icons = icons.float()
        clear = 1 - icons[..., 3:] / 255
        mixed = icons[..., :3] + self.backgrounds[backgrounds].float() * clear
        return mixed.round().clamp(0, 255).to(torch.uint8)

    def captions(self, rows: Tensor, backgrounds: Tensor, drop: bool) -> Tensor:
        """Word ids int64 [n, words.length] of the captions, right-aligned, 0-padded.

        Args:
            rows: int64 [n], which icons.
            backgrounds: int64 [n], which backgrounds.
            drop: leave out 1 style in 10 and 1 background in 10, and hide 1 word of a name in 20,
                so that the model can draw shorter captions too.
        """
        names, styles = self.names[rows], self.styles[rows]
        grounds = self.background_names[backgrounds]
        if drop:
            styles = styles * (torch.rand(len(rows), 1) > 0.1)
            grounds = grounds * (torch.rand(len(rows), 1) > 0.1)
            hidden = (torch.rand(names.shape) < 0.05) & (names > 0)
            names = torch.where(hidden, self.words.unknown, names)
        return self.words.align(torch.cat([names, styles, grounds], dim=1))
