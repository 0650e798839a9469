"""Measure decoded runs, and the real pictures that they are compared with."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps

from pjd.api import pixels
from pjd.decoder.model import ImageModel
from pjd.emoji import corpus
from pjd.errors import ParameterError
from pjd.measure.features import features, flat_codes
from pjd.measure.fidelity import log_likelihood
from pjd.models.emoji import EmojiModel
from pjd.models.tokenizer import psnr
from pjd.paths import DATA
from pjd.pipeline.files import folder, read_table, write_json
from pjd.pipeline.runs import column_tensor


def evaluate(path: Path, model: ImageModel, top_k: int, batch_size: int = 8) -> None:
    """Measure a decoded run: writes ``evaluate/images.parquet`` and ``evaluate/features.npy``.

    Args:
        path: folder of the run.
        model: the model that decoded it.
        top_k: the k of "share of codes outside the k likeliest".
        batch_size: images per forward pass.
    """
    config = json.loads((path / "decode" / "run.json").read_text())["config"]
    images = read_table(path / "decode" / "images.parquet")
    tokens = column_tensor(images.tokens)
    nats, outside = log_likelihood(
        model,
        list(images.prompt),
        tokens,
        config["guidance"],
        config["temperature"],
        top_k,
        batch_size,
    )
    decoded = pixels(model, tokens)
    flat = flat_codes(decoded, decoded.shape[1] // model.grid.rows)
    if isinstance(model, EmojiModel):
        flat = model.tokenizer.in_code_order(flat)
    with folder(path / "evaluate") as partial:
        table = images[["prompt", "group"]].assign(
            log_likelihood=nats.double().mean(1).numpy(),
            outside_top_k=outside.double().mean(1).numpy(),
            flat=flat.sum(1).numpy(),
            **{
                f"{name}_{where}": (column_tensor(images[f"{name}_at"]) * at).sum(1).numpy()
                for name in ("accepted", "rejected")
                for where, at in (("flat", flat), ("detail", ~flat))
            },
        )
        table.to_parquet(partial / "images.parquet", index=False)
        np.save(partial / "features.npy", features(decoded).numpy())


def described_pictures(table: pd.DataFrame, size: int, pictures: Path) -> torch.Tensor:
    """The pictures that COCO captions describe, as squares: uint8 [prompts, size, size, 3].

    Args:
        table: prompts, with ``image_id``.
        size: pixels per side; pictures are cropped to a square and resized.
        pictures: folder with COCO's ``000000000139.jpg`` and so on.

    Raises:
        ParameterError: if the prompts do not name the pictures that they describe.
        FileNotFoundError: naming the first picture that is missing.
    """
    if "image_id" not in table:
        allowed = "must be None unless the prompts are COCO captions, which name pictures"
        raise ParameterError("pictures", str(pictures), allowed)
    files = [pictures / f"{number:012d}.jpg" for number in table.image_id]
    missing = [file for file in files if not file.exists()]
    if missing:
        raise FileNotFoundError(f"no picture {missing[0]}, nor {len(missing) - 1} others")
    squares = [ImageOps.fit(Image.open(file).convert("RGB"), (size, size)) for file in files]
    return torch.from_numpy(np.stack([np.asarray(square) for square in squares]))


def evaluate_reference(
    path: Path, name: str, size: int, table: pd.DataFrame, pictures: Path | None
) -> None:
    """Measure the pictures that the prompts of a file describe, if there are any.

    Writes ``real.json``, and ``features.npy`` if there are pictures.

    Args:
        path: folder to write.
        name: of the model whose images they are compared with.
        size: see :func:`described_pictures`.
        table: prompts, with ``image_id`` if there are pictures.
        pictures: see :func:`described_pictures`; None: there are no pictures.

    Raises:
        ParameterError: see :func:`described_pictures`.
        FileNotFoundError: see :func:`described_pictures`.
    """
    with folder(path) as partial:
        if pictures is not None:
            pictured = described_pictures(table, size, pictures)
            np.save(partial / "features.npy", features(pictured).numpy())
        write_json(partial / "real.json", {"model": name})


def corpus_pictures(prompts: list[str], size: int) -> torch.Tensor:
    """The corpus' own pictures of its prompts, uint8 [prompts, size, size, 3]."""
    icons = corpus.load(DATA / "icons.parquet").set_index(["name", "style"])

    def picture(prompt: str) -> np.ndarray:
        name, style, ground = prompt.split(", ")
        rgba = corpus.resize(corpus.decode(icons.image[name, style]), size)
        return corpus.composite(rgba, corpus.background(ground.removeprefix("on "), size))

    return torch.from_numpy(np.stack([picture(prompt) for prompt in prompts]))


def evaluate_real(path: Path, model: EmojiModel, table: pd.DataFrame, guidance: float) -> None:
    """Measure the corpus' own pictures of the prompts, as :func:`evaluate` does a run.

    Writes ``features.npy``, and ``real.json`` with the nats per token of the real codes and the
    PSNR of the tokenizer, by group of prompts.
    """
    prompts = list(table.prompt)
    pictured = corpus_pictures(prompts, model.grid.rows * model.tokenizer.reduction)
    tokens = torch.cat([model.tokenizer.encode(part).flatten(1) for part in pictured.split(64)])
    guided, _ = log_likelihood(model, prompts, tokens, guidance, 1.0)
    plain, _ = log_likelihood(model, prompts, tokens, 1.0, 1.0)
    measured = table[["group"]].assign(
        nats_guided=-guided.double().mean(1).numpy(),
        nats=-plain.double().mean(1).numpy(),
        psnr=psnr(pixels(model, tokens), pictured).double().numpy(),
    )
    with folder(path) as partial:
        np.save(partial / "features.npy", features(pictured).numpy())
        by_group = measured.groupby("group").mean().to_dict()
        write_json(partial / "real.json", {"model": model.name, **by_group})
