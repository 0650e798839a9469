"""A model without a network: it predicts the letters of a text, whatever it is fed."""

import torch
from torch import Tensor

from pjd.decoder.cache import SlotCache
from pjd.decoder.config import DecodeConfig
from pjd.decoder.engine import Engine
from pjd.decoder.grid import Grid
from pjd.decoder.model import ModelDefaults, Prompt
from pjd.decoder.state import State

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Scripted(ModelDefaults):
    """An :class:`pjd.decoder.model.ImageModel` with fixed logits for each position.

    The letter of the script has probability 1 there, so a draft passes the ratio test exactly if
    it is that letter.

    Args:
        rows: the script, one string of capital letters per row of the grid.
    """

    name = "scripted"
    vocabulary = len(LETTERS)
    codebook = torch.eye(len(LETTERS))
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, *rows: str) -> None:
        """Write one line of logits per position."""
        self.grid = Grid(len(rows), len(rows[0]))
        self.sampling: dict[str, float | int] = {}
        codes = torch.tensor([LETTERS.index(letter) for letter in "".join(rows)])
        self.logits = torch.full((self.grid.length, self.vocabulary), -100.0)
        self.logits.scatter_(1, codes[:, None], 100.0)

    def encode(self, prompts: list[str], guided: bool) -> Prompt:
        """One position per prompt, with position id 0; the image begins at position id 1."""
        zeros = torch.zeros((1 + guided) * len(prompts), 1, dtype=torch.long)
        return Prompt(self.embed(zeros), zeros == 0, zeros)

    def cache(self, batch: int, slots: int) -> SlotCache:
        """The least that there can be; nothing is written there."""
        return SlotCache(layers=1, batch=batch, heads=1, slots=slots, head_dim=1)

    def embed(self, tokens: Tensor) -> Tensor:
        """Zeros: what is fed does not matter."""
        return torch.zeros(*tokens.shape, 1)

    def forward(
        self, x: Tensor, positions: Tensor, mask: Tensor, cache: SlotCache | None = None
    ) -> Tensor:
        """The logits of the position that follows each input, which is its position id."""
        return self.logits[positions.clamp(max=self.grid.length - 1)]

    def decode(self, tokens: Tensor) -> Tensor:
        """One grey pixel per code."""
        grey = tokens.view(-1, self.grid.rows, self.grid.columns, 1).to(torch.uint8)
        return grey.expand(-1, -1, -1, 3)


def board(state: State, grid: Grid) -> list[str]:
    """The rows of the first image: capitals are committed, small letters drafts, "." is empty."""
    rows = []
    for row in range(state.n_rows):
        committed, drafted = int(state.committed[0, row]), int(state.drafted[0, row])
        letters = "".join(LETTERS[token] for token in state.tokens[0, row, : committed + drafted])
        line = letters[:committed] + letters[committed:].lower()
        rows.append(line.ljust(grid.length // state.n_rows, "."))
    # A decoder in raster order has the whole image in one row.
    text = "".join(rows)
    return [text[first : first + grid.columns] for first in range(0, len(text), grid.columns)]


def boards(model: Scripted, config: DecodeConfig) -> list[list[str]]:
    """The board after every step of one image, until it is complete."""
    engine = Engine(model, config, model.encode(["any"], config.guided), torch.tensor([0]))
    state, trace, shown = engine.initial_state(), engine.empty_trace(), []
    engine.prefill()
    while int(state.committed_total) < engine.layout.length:
        engine.step(state, trace)
        shown.append(board(state, model.grid))
    return shown


def film(shown: list[list[str]]) -> list[str]:
    """Boards side by side, the first step on the left: one string per row of the grid."""
    return ["  ".join(rows) for rows in zip(*shown, strict=True)]
