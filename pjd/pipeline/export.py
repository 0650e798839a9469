"""Export a run's pictures with prompts and seeds, for measures that live in other environments."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from tqdm.auto import tqdm

from pjd.api import pictures
from pjd.errors import ParameterError, check_choice, check_integer
from pjd.models.registry import load
from pjd.paths import replacing
from pjd.pipeline.files import read_run
from pjd.pipeline.runs import check_weights, column_tensor, run_folder

LAYOUTS = {"flat": "images/{:05d}.png", "geneval": "{:05d}/samples/0000.png"}
"""Where the picture of an image is, by the name of the layout and the image's index."""

METADATA = "metadata.jsonl"
"""Name of the file with one line per picture."""


class Export(NamedTuple):
    """What is written of a run.

    Attributes:
        model: that decoded the run, see :func:`pjd.load`.
        dtype: that it was decoded in.
        tokens: codes int64 [images, R * C].
        layout: a key of :data:`LAYOUTS`.
        records: one per image: file_name, prompt, group, image_id if there is one, run, index,
            seed, and digest, which differs if the codes or the model's weights do.
    """

    model: str
    dtype: str
    tokens: torch.Tensor
    layout: str
    records: list[dict[str, Any]]


def plan(run: str, layout: str = "flat") -> Export:
    """What is to be written of a run, before a model is loaded.

    Args:
        run: its name, a folder below runs/.
        layout: a key of :data:`LAYOUTS`.

    Raises:
        ParameterError: if a parameter is not allowed, or there is no such model here, or its
            weights are not those that the run was decoded with.
        FileNotFoundError: if the run has not been decoded.
        ValueError: if a file of the run or of the model is damaged.
    """
    check_choice("layout", layout, tuple(LAYOUTS))
    decoded = read_run(run_folder(run))
    table, tokens = decoded.images, column_tensor(decoded.images.tokens)
    origin = f"{check_weights(run, decoded)} {decoded.dtype}".encode()
    told = table[[name for name in ("prompt", "group", "image_id") if name in table]]
    records = [
        {
            "file_name": LAYOUTS[layout].format(index),
            **row,
            "run": run,
            "index": index,
            "seed": decoded.config["seed"] + index,
            "digest": hashlib.sha256(origin + tokens[index].numpy().tobytes()).hexdigest()[:16],
        }
        for index, row in enumerate(told.to_dict("records"))
    ]
    return Export(decoded.model, decoded.dtype, tokens, layout, records)


def write(export: Export, folder: Path, device: str = "cpu", batch_size: int = 64) -> int:
    """Write what is not in ``folder`` yet: metadata.jsonl and prompts.txt, then the pictures.

    Each file appears whole or not at all, so that a killed export goes on where it was.

    Args:
        export: from :func:`plan`.
        folder: new or empty, or begun by an export of the same.
        device: to decode pixels on.
        batch_size: images decoded together.

    Returns:
        The number of pictures that were made.

    Raises:
        ParameterError: before a model is loaded, if ``folder`` has something else, or a parameter
            is not allowed.
    """
    check_integer("batch_size", batch_size, 1)
    describe(export, folder)
    missing = [one for one in export.records if not is_picture(folder / one["file_name"])]
    if not missing:
        return 0
    model = load(export.model, device, export.dtype)
    # No bar where there is no terminal.
    for start in tqdm(range(0, len(missing), batch_size), desc="pictures", disable=None):
        batch = missing[start : start + batch_size]
        tokens = export.tokens[[one["index"] for one in batch]]
        for one, picture in zip(batch, pictures(model, tokens, batch_size), strict=True):
            path = folder / one["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as partial:
                picture.save(partial, "PNG")
    return len(missing)


def describe(export: Export, folder: Path) -> None:
    """Write what says which pictures ``folder`` has; see :func:`write`."""
    lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in export.records]
    texts = {METADATA: "".join(lines)}
    texts["prompts.txt"] = "".join(" ".join(one["prompt"].split()) + "\n" for one in export.records)
    if export.layout == "geneval":
        texts |= {f"{one['index']:05d}/{METADATA}": lines[one["index"]] for one in export.records}
    begun = folder / METADATA
    if begun.exists():
        if begun.read_text(encoding="utf-8", errors="replace") != texts[METADATA]:
            allowed = (
                f"its {METADATA} is that of other pictures (another run or layout, or this run "
                "before it was decoded anew): name another folder, or delete this one"
            )
            raise ParameterError("output", str(folder), allowed)
    elif folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
        allowed = f"must be a new or an empty folder, or one of `pjd export`: it has no {METADATA}"
        raise ParameterError("output", str(folder), allowed)
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")


def is_picture(path: Path) -> bool:
    """Whether a file is there, and is a picture that is whole."""
    try:
        with Image.open(path) as image:
            image.verify()
    # A file that is cut off, or is something else, may fail anywhere in its reader.
    except Exception:
        return False
    return True
