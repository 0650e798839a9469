"""Measure decoded runs, and the pictures and the AR run that they are compared with."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pjd.api import pixels
from pjd.decoder.model import ImageModel
from pjd.emoji import corpus
from pjd.errors import ParameterError
from pjd.measure.features import features, flat_codes, frechet
from pjd.measure.fidelity import Interval, log_likelihood
from pjd.measure.quality import (
    LEAST_FOR_INCEPTION,
    LEAST_FOR_KERNEL,
    inception_score,
    kernel_distance,
    lite0_classes,
)
from pjd.measure.retrieval import LinearProbe, rank_of_own_caption, shares_found
from pjd.models.emoji import EmojiModel
from pjd.models.tokenizer import psnr
from pjd.paths import BASELINES, DATA, RUNS
from pjd.pipeline.files import folder, read_run, write_json
from pjd.pipeline.prompts import SHARES
from pjd.pipeline.runs import check_weights, column_tensor, run_folder
from pjd.pipeline.settings import Setting

DECIMALS = 9
"""Of a distance in a file."""


def deviation(interval: Interval) -> float:
    """One standard deviation, of an interval of two on both sides."""
    return (interval.high - interval.mean) / 2


def quality(own: Tensor, real: Tensor | None) -> dict[str, float]:
    """Scores of pictures by their features [n, 1280], with one standard deviation where random.

    Not a number where there are no pictures to compare with, or fewer images than a score needs.
    """
    distance = None
    if real is not None and len(own) >= LEAST_FOR_KERNEL:
        distance = kernel_distance(real, own)
    variety = inception_score(lite0_classes(own)) if len(own) >= LEAST_FOR_INCEPTION else None
    scores = {"inception_score": variety, "kernel_real": distance}
    return {
        name: value
        for key, score in scores.items()
        for name, value in (
            (key, score.mean if score else np.nan),
            (f"{key}_deviation", deviation(score) if score else np.nan),
        )
    }


def distance_between(first: Tensor | None, second: Tensor) -> float:
    """Frechet distance of two sets of features; not a number if one has fewer than two images."""
    if first is None or min(len(first), len(second)) < 2:
        return np.nan
    # Rounding puts the distance of a set to itself on either side of 0.
    return max(0.0, frechet(first, second))


def captions_found(own: Tensor, prompts: list[str], model: ImageModel, probe: Path) -> np.ndarray:
    """Place of each picture's own caption among all, from 0; -1 for models of other captions."""
    if not isinstance(model, EmojiModel):
        return np.full(len(prompts), -1)
    scores = LinearProbe.load(probe, model.words).scores(own, prompts)
    return rank_of_own_caption(scores).numpy()


def setting_of(run: str, setting: str | None) -> tuple[str, str]:
    """The setting of a decoded run, and the model to measure it with, before that is loaded.

    Args:
        run: its name.
        setting: that is asked for; None: the run's own.

    Returns:
        The name of the setting, and the model that decoded the run, see :func:`pjd.load`.

    Raises:
        ParameterError: if the run belongs to no setting or to another one, its name is none, or
            its model is not here, or has other weights.
        FileNotFoundError: if it has not been decoded.
        ValueError: if a file of it or of the model is damaged.
    """
    saved = read_run(run_folder(run))
    if saved.setting is None:
        allowed = "belongs to no setting, so nothing is there to compare it with: decode it with "
        raise ParameterError("run", run, allowed + "--setting, which params.yaml lists")
    if setting not in (None, saved.setting):
        allowed = f"must be {saved.setting}, to which the run {run} belongs, or be left out"
        raise ParameterError("setting", setting, allowed)
    check_weights(run, saved)
    return saved.setting, saved.model


def evaluate(run: str, model: ImageModel, top_k: int, probe: Path, batch_size: int = 8) -> None:
    """Measure a decoded run: writes ``evaluate/images.parquet`` and ``evaluate/distances.json``.

    Args:
        run: its name; the setting that it belongs to has its baseline's features already.
        model: the model that decoded it.
        top_k: the k of "share of codes outside the k likeliest".
        probe: file of the linear probe for captions.
        batch_size: images per forward pass.
    """
    path = RUNS / run
    saved = read_run(path)
    assert saved.setting is not None, f"{run} belongs to no setting"
    config, images, baseline = saved.config, saved.images, BASELINES / saved.setting
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
    # In half precision, as the stored ones are: equal pictures have distance 0.
    own, of_baseline = features(decoded).half().float(), stored(baseline / "ar.npy")
    real = stored(baseline / "real.npy") if (baseline / "real.npy").exists() else None
    flat = flat_codes(decoded, decoded.shape[1] // model.grid.rows)
    if isinstance(model, EmojiModel):
        flat = model.tokenizer.in_code_order(flat)
    with folder(path / "evaluate") as partial:
        table = images[["prompt", "group"]].assign(
            log_likelihood=nats.double().mean(1).numpy(),
            outside_top_k=outside.double().mean(1).numpy(),
            flat=flat.sum(1).numpy(),
            caption_rank=captions_found(own, list(images.prompt), model, probe),
            **{
                f"{name}_{where}": (column_tensor(images[f"{name}_at"]) * at).sum(1).numpy()
                for name in ("accepted", "rejected")
                for where, at in (("flat", flat), ("detail", ~flat))
            },
        )
        table.to_parquet(partial / "images.parquet", index=False)
        distances = {
            "frechet_real": distance_between(real, own),
            "frechet_ar": distance_between(of_baseline, own),
        }
        scores = distances | quality(own, real)
        # The last digits depend on the number of threads.
        written = {name: round(float(score), DECIMALS) for name, score in scores.items()}
        write_json(partial / "distances.json", written)


def half(own: Tensor) -> np.ndarray:
    """Features in half precision, in which they ship."""
    return own.half().numpy()


def stored(path: Path) -> Tensor:
    """Features float32 [n, 1280] of a file that has them in half precision."""
    return torch.from_numpy(np.load(path)).float()


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


def corpus_pictures(prompts: list[str], size: int) -> torch.Tensor:
    """The corpus' own pictures of its prompts, uint8 [prompts, size, size, 3]."""
    icons = corpus.load(DATA / "icons.parquet").set_index(["name", "style"])

    def picture(prompt: str) -> np.ndarray:
        name, style, ground = prompt.split(", ")
        rgba = corpus.resize(corpus.decode(icons.image[name, style]), size)
        return corpus.composite(rgba, corpus.background(ground.removeprefix("on "), size))

    return torch.from_numpy(np.stack([picture(prompt) for prompt in prompts]))


def measure_baseline(setting: Setting, ar: str, model: ImageModel, probe: Path) -> None:
    """Measure what the runs of a setting are compared with: its run of AR, and real pictures.

    Writes ``ar.npy`` and, if the prompts describe pictures, ``real.npy``: their features. Writes
    ``real.json`` beside the folder: scores of the real pictures and, for the emoji corpus, their
    nats per token and the PSNR of the tokenizer, by group of prompts.

    Args:
        setting: the setting.
        ar: its run of AR, which is decoded.
        model: the model that decoded it.
        probe: file of the linear probe for captions.

    Raises:
        ParameterError: see :func:`described_pictures`.
        FileNotFoundError: see :func:`described_pictures`.
    """
    saved = read_run(RUNS / ar)
    decoded = pixels(model, column_tensor(saved.images.tokens))
    real: dict[str, object] = {}
    with folder(BASELINES / setting.name) as partial:
        np.save(partial / "ar.npy", half(features(decoded)))
        pictured = pictures_of(setting, model, decoded.shape[1])
        if pictured is not None:
            own = features(pictured)
            np.save(partial / "real.npy", half(own))
            ranks = captions_found(own, list(setting.prompts.prompt), model, probe)
            real |= quality(own, own) | shares_found(ranks)
            if isinstance(model, EmojiModel):
                guidance = saved.config["guidance"]
                real |= real_codes(setting.prompts, pictured, model, guidance)
    write_json(BASELINES / f"{setting.name}.json", real)


def pictures_of(setting: Setting, model: ImageModel, size: int) -> Tensor | None:
    """The pictures that a setting's prompts describe, uint8 [prompts, size, size, 3], if any."""
    if setting.pictures is not None:
        return described_pictures(setting.prompts, size, setting.pictures)
    if isinstance(model, EmojiModel) and set(setting.prompts.group) <= set(SHARES):
        return corpus_pictures(list(setting.prompts.prompt), size)
    return None


def real_codes(
    table: pd.DataFrame, pictured: Tensor, model: EmojiModel, guidance: float
) -> dict[str, dict[str, float]]:
    """Of real pictures, by group of prompts: nats per token of their codes, and PSNR in dB."""
    prompts = list(table.prompt)
    tokens = torch.cat([model.tokenizer.encode(part).flatten(1) for part in pictured.split(64)])
    guided, _ = log_likelihood(model, prompts, tokens, guidance, 1.0)
    plain, _ = log_likelihood(model, prompts, tokens, 1.0, 1.0)
    measured = table[["group"]].assign(
        nats_guided=-guided.double().mean(1).numpy(),
        nats=-plain.double().mean(1).numpy(),
        psnr=psnr(pixels(model, tokens), pictured).double().numpy(),
    )
    by_group: dict[str, dict[str, float]] = measured.groupby("group").mean().to_dict()
    return by_group
