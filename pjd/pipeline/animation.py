"""A moving picture of decoders at work, drawn from their traces."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pjd.api import Result
from pjd.decoder.grid import Grid

EMPTY, DRAFT = 236, 190
"""Grey of a place that nothing is known of, and of one that holds a draft."""


def course(result: Result, image: int, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Which codes were committed, and which held a draft, after each forward.

    Args:
        result: from :func:`pjd.api.generate`.
        image: which of its images.
        grid: of the model.

    Returns:
        Two bool arrays [forwards, R, C].
    """
    committed = result.trace.committed[:, image].numpy().astype(int)
    # What is tested next is what is held now.
    drafted = result.trace.drafted[1:, image].numpy().astype(int)
    drafted = np.concatenate([drafted, np.zeros_like(drafted[:1])])
    place = np.arange(result.trace.columns)
    done = place < committed[..., None]
    held = (place < (committed + drafted)[..., None]) & ~done
    steps = int(result.steps[image])
    # Forced row-end tokens, which the raster view has, are not drawn.
    shape = (len(done), grid.rows, -1)
    done, held = (part.reshape(shape)[:steps, :, : grid.columns] for part in (done, held))
    return done, held


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
    """Write a GIF of several decoders filling the same image, at equal model forwards.

    Args:
        results: label to result; the same prompts and seeds in each.
        image: which image.
        grid: of the model.
        path: the file.
        side: pixels of a picture.
        every: forwards a frame; None: at least 3, and so many that there are about 90 frames.
        duration: milliseconds a frame; the last stays for two seconds.
        limit: bytes; a file that is larger is made again with half as many frames.
    """
    font = ImageFont.load_default(size=15)
    courses = {label: course(result, image, grid) for label, result in results.items()}
    longest = max(len(done) for done, _ in courses.values())
    every = every or max(3, longest // 90)
    shown = [*range(every - 1, longest - 1, every), longest - 1]
    frames = []
    for forward in shown:
        frame = Image.new("RGB", (len(results) * (side + 12) + 12, side + 44), "white")
        draw = ImageDraw.Draw(frame)
        for number, (label, result) in enumerate(results.items()):
            done, held = courses[label]
            last = min(forward, len(done) - 1)
            cell = side // grid.columns
            pixels = np.asarray(result.images[image].resize((side, side), Image.Resampling.NEAREST))
            mask = np.kron(done[last], np.ones((cell, cell), bool))
            grey = np.kron(np.where(held[last], DRAFT, EMPTY), np.ones((cell, cell), int))
            size = mask.shape[0]
            filled = np.where(mask[..., None], pixels[:size, :size], grey[..., None])
            left = 12 + number * (side + 12)
            frame.paste(Image.fromarray(filled.astype(np.uint8)), (left, 8))
            state = f"{label}: {last + 1} forwards" + (" - done" if last + 1 == len(done) else "")
            draw.text((left, side + 14), state, fill="black", font=font)
        frames.append(frame.quantize(64, dither=Image.Dither.NONE))
    path.parent.mkdir(parents=True, exist_ok=True)
    durations = [duration] * (len(frames) - 1) + [2000]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=durations, loop=0)
    if path.stat().st_size > limit and len(frames) > 2:
        animate(results, image, grid, path, side, 2 * every, 2 * duration, limit)
