"""A moving picture of decoders at work, drawn from their traces."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from pjd.api import Result
from pjd.decoder.grid import Grid

EMPTY, DRAFT = 236, 190
"""Grey of a position without a token, and of one that holds a draft."""

MARGIN = 12
"""Pixels around each picture."""


def course(result: Result, image: int, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Which codes are committed, and which positions hold a draft, after each forward pass.

    Args:
        result: from :func:`pjd.api.generate`.
        image: index of the image.
        grid: of the model.

    Returns:
        Two bool arrays [steps, R, C]: committed, draft.
    """
    steps = int(result.trace.steps[image])
    committed = result.trace.committed[:, image].long()
    # The drafts that are tested in the next iteration are those that are held now.
    drafted = F.pad(result.trace.drafted[1:, image].long(), (0, 0, 0, 1))
    column = torch.arange(result.trace.columns)
    done = column < committed[..., None]
    held = (column < (committed + drafted)[..., None]) & ~done
    done, held = (grid.without_row_ends(part[:steps]) for part in (done, held))
    return done.numpy(), held.numpy()


def draw_frame(
    results: dict[str, Result],
    courses: dict[str, tuple[np.ndarray, np.ndarray]],
    image: int,
    step: int,
    side: int,
) -> Image.Image:
    """All decoders after the same number of forward passes, side by side.

    Args:
        results: label to result.
        courses: label to what :func:`course` returns.
        image: index of the image.
        step: index of the last forward pass; a decoder that needed fewer shows its last one.
        side: pixels per side of a picture.
    """
    width = len(results) * (side + MARGIN) + MARGIN
    frame = Image.new("RGB", (width, side + 44), "white")
    canvas, font = ImageDraw.Draw(frame), ImageFont.load_default(size=15)
    for number, (label, result) in enumerate(results.items()):
        done, held = courses[label]
        last = min(step, len(done) - 1)
        cell = side // done.shape[2]
        pixels = np.asarray(result.images[image].resize((side, side), Image.Resampling.NEAREST))
        mask = np.kron(done[last], np.ones((cell, cell), bool))
        grey = np.kron(np.where(held[last], DRAFT, EMPTY), np.ones((cell, cell), int))
        size = mask.shape[0]
        filled = np.where(mask[..., None], pixels[:size, :size], grey[..., None])
        x = MARGIN + number * (side + MARGIN)
        frame.paste(Image.fromarray(filled.astype(np.uint8)), (x, 8))
        state = f"{label}: {last + 1} steps" + (" - done" if last + 1 == len(done) else "")
        canvas.text((x, side + 14), state, fill="black", font=font)
    return frame.quantize(64, dither=Image.Dither.NONE)


def animate(
    results: dict[str, Result],
    image: int,
    grid: Grid,
    path: Path,
    side: int = 192,
    every: int | None = None,
    duration: int = 100,
    limit: int = 2_000_000,
) -> None:
    """Write a GIF of several decoders filling the same image, at equal numbers of forward passes.

    Args:
        results: label to result; the same prompts and seeds in each.
        image: index of the image.
        grid: of the model.
        path: the file.
        side: pixels per side of a picture.
        every: forward passes per frame; None: at least 3, and enough for about 90 frames.
        duration: milliseconds per frame; the last frame stays for two seconds.
        limit: the largest size in bytes; frames are left out until the file is not larger.
    """
    courses = {label: course(result, image, grid) for label, result in results.items()}
    longest = max(len(done) for done, _ in courses.values())
    every = every or max(3, longest // 90)
    shown = [*range(every - 1, longest - 1, every), longest - 1]
    frames = [draw_frame(results, courses, image, step, side) for step in shown]
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        durations = [duration] * (len(frames) - 1) + [2000]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)
        if path.stat().st_size <= limit or len(frames) <= 2:
            return
        # Half as many frames, each for twice as long; the last frame always stays.
        frames, duration = [*frames[1:-1:2], frames[-1]], 2 * duration
