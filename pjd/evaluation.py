"""Measuring runs, and the one tidy table of all of them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from pjd.emoji import corpus
from pjd.generation import pixels
from pjd.metrics import bootstrap, features, flat_codes, frechet, log_likelihood
from pjd.models.emoji import EmojiModel
from pjd.models.tokenizer import psnr
from pjd.paths import DATA
from pjd.runs import codes, folder, read_table, write_json


def evaluate(path: Path, model: EmojiModel, top_k: int) -> None:
    """Measure a decoded run: writes ``evaluate/images.parquet`` and ``evaluate/features.npy``.

    Args:
        path: folder of the run.
        model: the model that decoded it.
        top_k: the k of "share of codes outside the k likeliest".
    """
    config = json.loads((path / "decode" / "run.json").read_text())["config"]
    images = read_table(path / "decode" / "images.parquet")
    tokens = codes(images.tokens)
    nats, outside = log_likelihood(
        model, list(images.prompt), tokens, config["guidance"], config["temperature"], top_k
    )
    decoded = pixels(model, tokens)
    flat = flat_codes(decoded, model.tokenizer.reduction)
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


def evaluate_real(path: Path, model: EmojiModel, table: pd.DataFrame, guidance: float) -> None:
    """Measure the corpus' own pictures of the prompts, as :func:`evaluate` does a run.

    Writes ``features.npy``, and ``real.json`` with the nats a token of the real codes and the
    PSNR of the tokenizer, by group of prompts.
    """
    size = model.grid.rows * model.tokenizer.reduction
    icons = corpus.load(DATA / "icons.parquet").set_index(["name", "style"])

    def picture(prompt: str) -> np.ndarray:
        name, style, ground = prompt.split(", ")
        rgba = corpus.resize(corpus.decode(icons.image[name, style]), size)
        return corpus.composite(rgba, corpus.background(ground.removeprefix("on "), size))

    pictured = torch.from_numpy(np.stack([picture(prompt) for prompt in table.prompt]))
    tokens = torch.cat([model.tokenizer.encode(part).flatten(1) for part in pictured.split(64)])
    listed = list(table.prompt)
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


def collect(runs: Path, names: list[str], baseline: str = "main/ar") -> pd.DataFrame:
    """One row a run of ``names`` below ``runs``: steps, speed-up, fidelity and Frechet distances.

    Fidelity is the mean log-likelihood of the decoded codes under the exact autoregressive model
    minus that of the baseline's own samples for the same prompts, in nats a token; its interval is
    a bootstrap over prompts. A row of the baseline with other seeds is the noise floor of every
    column.
    """
    real = torch.from_numpy(np.load(runs / "main/real" / "features.npy"))
    reference = read_table(runs / baseline / "evaluate" / "images.parquet")
    reference_seen = torch.from_numpy(np.load(runs / baseline / "evaluate" / "features.npy"))

    def passed(table: pd.DataFrame, *places: str) -> float:
        """Share of tested drafts that was accepted; not a number if none was tested."""
        accepted = sum(table[f"accepted_{place}"].sum() for place in places)
        tested = accepted + sum(table[f"rejected_{place}"].sum() for place in places)
        return accepted / tested if tested else np.nan

    rows = []
    for name in names:
        path = runs / name / "decode" / "run.json"
        stamp = json.loads(path.read_text())
        config = stamp["config"]
        decoded = read_table(path.parent / "images.parquet")
        evaluated = read_table(path.parent.parent / "evaluate" / "images.parquet")
        seen = torch.from_numpy(np.load(path.parent.parent / "evaluate" / "features.npy"))
        lag = read_table(path.parent / "lag.parquet")
        trace = read_table(path.parent / "trace.parquet")
        depths = read_table(path.parent / "depths.parquet")
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
                "stand_in": config["stand_in"],
                "group": config["group"],
                "images": len(decoded),
                "steps": steps.mean,
                "steps_low": steps.low,
                "steps_high": steps.high,
                "compression": total / steps.mean,
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
                "frechet_real": frechet(real, seen),
                "frechet_ar": frechet(reference_seen, seen),
                "mean_lag": np.average(lag.lag, weights=lag.codes) if len(lag) else np.nan,
                "blocked_share": trace.blocked.sum() / limited,
                "variation_first": depths.variation.iloc[0] if len(depths) else np.nan,
                "variation_last": depths.variation.iloc[-1] if len(depths) else np.nan,
            }
        )
    return pd.DataFrame(rows)
