"""A part of a page in which a reader moves through the forward passes of one image."""

import base64
import io
import json
import zlib
from pathlib import Path

from pjd.api import Result
from pjd.decoder.grid import Grid
from pjd.measure.board import ACCEPTED, COMMITTED, RESAMPLED, STATES, boards

PAGE = Path(__file__).with_suffix(".html")
"""HTML, style and script; DATA stands for what is shown."""


def player(results: dict[str, Result], image: int, grid: Grid, start: int) -> str:
    """HTML in which decoders fill the same image, side by side after equal forward passes.

    Of each decoder it shows the picture as far as it is committed, and the board: drafts, accepted
    drafts, resampled tokens. It needs nothing from a network.

    Args:
        results: label to result; the same prompt and seed in each.
        image: index of the image.
        grid: of the model.
        start: forward passes that are shown first.
    """
    decoders = []
    for label, result in results.items():
        buffer = io.BytesIO()
        result.images[image].save(buffer, "PNG")
        states = zlib.compress(boards(result, image, grid).numpy().tobytes(), 9)
        decoders.append(
            {
                "label": label,
                "steps": int(result.trace.steps[image]),
                "boards": base64.b64encode(states).decode(),
                "picture": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode(),
            }
        )
    data = {
        "rows": grid.rows,
        "columns": grid.columns,
        "start": start,
        "states": STATES,
        "committed": [COMMITTED, ACCEPTED, RESAMPLED],
        "decoders": decoders,
    }
    # A label with </script> in it would end the script.
    text = json.dumps(data).replace("</", "<\\/")
    return PAGE.read_text(encoding="utf-8").replace("DATA", text)
