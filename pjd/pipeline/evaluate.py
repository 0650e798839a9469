"""Measuring runs, and the one tidy table of all of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps

from pjd.api import pixels
from pjd.decoder.config import ParameterError
from pjd.decoder.model import ImageModel
from pjd.emoji import corpus
from pjd.measure.fidelity import bootstrap, features, flat_codes, frechet, log_likelihood
from pjd.models.emoji import EmojiModel
from pjd.models.tokenizer import psnr
from pjd.paths import DATA
from pjd.pipeline.runs import codes, folder, read_table, write_json


def evaluate(path: Path, model: ImageModel, top_k: int, batch_size: int = 8) -> None:
    """Measure a decoded run: writes ``evaluate/images.parquet`` and ``evaluate/features.npy``.

    Args:
        path: folder of the run.
        model: the model that decoded it.
        top_k: the k of "share of codes outside the k likeliest".
        batch_size: images a forward.
    """
    config = json.loads((path / "decode" / "run.json").read_text())["config"]
    images = read_table(path / "decode" / "images.parquet")
    tokens = codes(images.tokens)
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
        flat = model.tokenizer.laid_out(flat)
    with folder(path / "evaluate") as partial:
        table = images[["prompt", "group"]].assign(
            log_likelihood=nats.double().mean(1).numpy(),
            outside_top_k=outside.double().mean(1).numpy(),
            flat=flat.sum(1).numpy(),
            **{
                f"{name}_{where}": (codes(images[f"{name}_at"]) * at).sum(1).numpy()
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
        size: pixels a side; pictures are cropped to a square and resized to it.
        pictures: folder with COCO's ``000000000139.jpg`` and so on.

    Raises:
        ParameterError: if the prompts do not say which picture they describe.
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
    """Measure the pictures that prompts of a file describe, if there are any.

    Writes ``real.json``, and ``features.npy`` if there are pictures.

    Args:
        path: folder to write.
        name: of the model whose pictures they are compared with.
        size: see :func:`described_pictures`, which raises what is wrong.
        table: prompts, with ``image_id`` if there are pictures.
        pictures: see there; None: there are none.
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

    Writes ``features.npy``, and ``real.json`` with the nats a token of the real codes and the
    PSNR of the tokenizer, by group of prompts.
    """
    listed = list(table.prompt)
    pictured = corpus_pictures(listed, model.grid.rows * model.tokenizer.reduction)
    tokens = torch.cat([model.tokenizer.encode(part).flatten(1) for part in pictured.split(64)])
    guided, _ = log_likelihood(model, listed, tokens, guidance, 1.0)
    plain, _ = log_likelihood(model, listed, tokens, 1.0, 1.0)
    measured = table[["group"]].assign(
        nats_guided=-guided.double().mean(1).numpy(),
        nats=-plain.double().mean(1).numpy(),
        psnr=psnr(pixels(model, tokens), pictured).double().numpy(),
    )
    with folder(path) as partial:
        np.save(partial / "features.npy", features(pictured).numpy())
        by_group = measured.groupby("group").mean().to_dict()
        write_json(partial / "real.json", {"model": model.name, **by_group})


def sampling(run: dict[str, Any]) -> tuple[Any, ...]:
    """What a run shares with its baseline, from its ``run.json``: the model, and how it samples."""
    options = ("guidance", "temperature", "top_k", "top_p")
    return run["model"], *(run["config"][option] for option in options)


def read_decoded(path: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """``run.json`` and ``images.parquet`` of a decoded run."""
    decode = path / "decode"
    return json.loads((decode / "run.json").read_text()), read_table(decode / "images.parquet")


def collect(runs: Path, names: list[str]) -> pd.DataFrame:
    """One row a run of ``names`` below ``runs``: steps, speed-up, fidelity and Frechet distances.

    The baseline of a run is the first of ``names`` with method ar, the same prompts, model,
    guidance, temperature, top-k and top-p. Fidelity is the mean log-likelihood of the decoded
    codes under the exact autoregressive model minus that of the baseline's own samples for the
    same prompts, in nats a token; its interval is a bootstrap over prompts. A row of the baseline
    with other seeds is the noise floor of every column.

    Raises:
        ValueError: if a run has no baseline.
    """
    decodings = {name: read_decoded(runs / name) for name in names}
    baselines: dict[tuple[Any, ...], str] = {}
    for name, (stamp, decoded) in decodings.items():
        if stamp["config"]["method"] == "ar":
            baselines.setdefault((*sampling(stamp), *decoded.prompt), name)
    real = {
        json.loads(path.read_text())["model"]: path.parent
        for path in runs.glob("*/real/real.json")
        if (path.parent / "features.npy").exists()
    }

    def seen(path: Path) -> torch.Tensor:
        """Features of pictures."""
        return torch.from_numpy(np.load(path / "features.npy"))

    def passed(table: pd.DataFrame, *places: str) -> float:
        """Share of tested drafts that was accepted; not a number if none was tested."""
        accepted = sum(table[f"accepted_{place}"].sum() for place in places)
        tested = accepted + sum(table[f"rejected_{place}"].sum() for place in places)
        return accepted / tested if tested else np.nan

    rows = []
    for name, (stamp, decoded) in decodings.items():
        config, asked = stamp["config"], (*sampling(stamp), *decoded.prompt)
        if asked not in baselines:
            raise ValueError(
                f"run {name}: no run with method ar has its prompts, model and sampling, "
                f"{sampling(stamp)}"
            )
        # Distances compare at equal numbers only; other prompts than the pictures' have another.
        pictures = real.get(stamp["model"])
        if pictures and len(seen(pictures)) != len(decoded):
            pictures = None
        path, measured = runs / name / "decode", runs / name / "evaluate"
        evaluated = read_table(measured / "images.parquet")
        baseline = runs / baselines[asked] / "evaluate"
        reference = read_table(baseline / "images.parquet")
        lag = read_table(path / "lag.parquet")
        trace = read_table(path / "trace.parquet")
        depths = read_table(path / "depths.parquet")
        limited = max(1, trace.blocked.sum() + trace.rejected.sum())
        steps = bootstrap(decoded.steps)
        gap = bootstrap(evaluated.log_likelihood - reference.log_likelihood)
        total = len(decoded.tokens[0])
        rows.append(
            {
                "run": name,
                "model": stamp["model"],
                "method": config["method"],
                "context": config["context"],
                "window": config["window"],
                "rows": config["rows"],
                "guidance": config["guidance"],
                "top_k": config["top_k"],
                "stand_in": config["stand_in"],
                "group": config["group"],
                "images": len(decoded),
                "codes": total,
                "steps": steps.mean,
                "steps_low": steps.low,
                "steps_high": steps.high,
                "compression": decodings[baselines[asked]][1].steps.mean() / steps.mean,
                "tokens_per_step": decoded.fed.sum() / decoded.steps.sum(),
                "acceptance": passed(evaluated, "flat", "detail"),
                "acceptance_flat": passed(evaluated, "flat"),
                "acceptance_detail": passed(evaluated, "detail"),
                "flat_share": evaluated.flat.sum() / (len(evaluated) * total),
                "nats": -evaluated.log_likelihood.mean(),
                "gap": gap.mean,
                "gap_low": gap.low,
                "gap_high": gap.high,
                "outside_top_k": evaluated.outside_top_k.mean(),
                "frechet_real": frechet(seen(pictures), seen(measured)) if pictures else np.nan,
                "frechet_ar": frechet(seen(baseline), seen(measured)),
                "mean_lag": np.average(lag.lag, weights=lag.codes) if len(lag) else np.nan,
                "blocked_share": trace.blocked.sum() / limited,
                "variation_first": depths.variation.iloc[0] if len(depths) else np.nan,
                "variation_last": depths.variation.iloc[-1] if len(depths) else np.nan,
            }
        )
    return pd.DataFrame(rows)
