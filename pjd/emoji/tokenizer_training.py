"""Training of the VQ tokenizer: the whole of it, then its decoder again."""

from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from pjd.emoji.icons import Icons
from pjd.emoji.training import Training
from pjd.models.tokenizer import Tokenizer, psnr, to_float


def train_tokenizer(
    tokenizer: Tokenizer,
    icons: list[Icons],
    held_out: Icons,
    checkpoint: Path,
    steps: int,
    batch: int = 64,
    crop: int = 32,
    rate: float = 1e-3,
    continuous_steps: int = 300,
) -> tuple[Tokenizer, pd.DataFrame]:
    """Train the VQ tokenizer on random crops of icons at several sizes.

    Args:
        tokenizer: untrained.
        icons: the training icons, one entry per size; a batch is drawn from one of them.
        held_out: icons of another split, for the PSNR.
        checkpoint: see :class:`Training`.
        steps: optimiser steps.
        batch: crops per step.
        crop: pixels per side of a crop.
        rate: learning rate.
        continuous_steps: steps without quantisation; then k-means initialises the codebook.

    Returns:
        The averaged tokenizer, and the history of loss, PSNR and share of codes in use.
    """
    tokenizer = in_fast_layout(tokenizer)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=rate, betas=(0.9, 0.95))
    training = Training(tokenizer, [optimizer], steps, checkpoint, average=0.998)

    def loss() -> Tensor:
        images = crops(icons, batch, crop)
        vectors = tokenizer.embed(images)
        if training.done < continuous_steps:
            return F.mse_loss(tokenizer.render(vectors), images)
        flat = vectors.detach().flatten(0, 2)
        if training.done == continuous_steps:
            with torch.no_grad():
                tokenizer.codebook.start(tokenizer.embed(crops(icons, 512, crop)).flatten(0, 2))
        ids = tokenizer.codebook.nearest(flat)
        quantised = tokenizer.codebook.weight[ids].view_as(vectors)
        tokenizer.codebook.learn(flat, ids)
        # Straight-through estimator: the decoder sees the codes' vectors, and its gradient goes
        # to the encoder as if there were no quantisation.
        rendered = tokenizer.render(vectors + (quantised - vectors).detach())
        commitment = F.mse_loss(vectors, quantised) * vectors.shape[-1]
        distance = F.mse_loss(rendered, images) + 0.1 * F.l1_loss(rendered, images)
        return distance + 0.02 * commitment

    def evaluate(averaged: Tokenizer) -> dict[str, float]:
        # The codebook is itself a moving average: take the current one.
        averaged.codebook.load_state_dict(tokenizer.codebook.state_dict())
        return tokenizer_quality(averaged, held_out)

    history = training.run(loss, evaluate, evaluate_every=250)
    averaged = training.average_model
    averaged.codebook.load_state_dict(tokenizer.codebook.state_dict())
    return averaged, history


def in_fast_layout(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer itself, its weights in the memory layout in which convolutions are fastest."""
    return tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def crops(icons: list[Icons], count: int, size: int) -> Tensor:
    """Random crops, float [count, 3, size, size] in [-1, 1], of one entry of ``icons``."""
    source = icons[int(torch.randint(len(icons), ()))]
    rows = torch.randint(len(source), (count,))
    images = source.images(rows, torch.randint(len(source.backgrounds), (count,)))
    corner = torch.randint(images.shape[1] - size + 1, (count, 2))
    pixel = torch.arange(size)
    row = (corner[:, :1] + pixel)[:, :, None]
    column = (corner[:, 1:] + pixel)[:, None]
    cropped = images[torch.arange(count)[:, None, None], row, column]
    return to_float(cropped).to(memory_format=torch.channels_last)


def polish_decoder(
    tokenizer: Tokenizer,
    icons: list[Icons],
    held_out: Icons,
    checkpoint: Path,
    steps: int,
    batch: int = 64,
    crop: int = 32,
    rate: float = 5e-4,
    smoothness: float = 0.5,
) -> tuple[Tokenizer, pd.DataFrame]:
    """Train only the tokenizer's decoder; encoder and codebook stay, and so do the codes of images.

    Pixel shuffling leaves a faint grid on smooth areas. The squared error hardly measures it;
    differences of neighbouring pixels do.

    Args:
        tokenizer: trained.
        icons: the training icons, one entry per size.
        held_out: icons of another split, for the PSNR.
        checkpoint: see :class:`Training`.
        steps: optimiser steps.
        batch: crops per step.
        crop: pixels per side of a crop.
        rate: learning rate.
        smoothness: weight of the differences of neighbouring pixels in the error.

    Returns:
        The averaged tokenizer, and the history of loss, PSNR and share of codes in use.
    """
    tokenizer = in_fast_layout(tokenizer).requires_grad_(False)
    tokenizer.decoder.requires_grad_(True)
    optimizer = torch.optim.AdamW(tokenizer.decoder.parameters(), lr=rate, betas=(0.9, 0.95))
    training = Training(tokenizer, [optimizer], steps, checkpoint, average=0.998)

    def loss() -> Tensor:
        images = crops(icons, batch, crop)
        with torch.no_grad():
            ids = tokenizer.codebook.nearest(tokenizer.embed(images))
            quantised = tokenizer.codebook.weight[ids]
        error = tokenizer.render(quantised) - images
        down, right = error.diff(dim=2).abs().mean(), error.diff(dim=3).abs().mean()
        return error.square().mean() + 0.1 * error.abs().mean() + smoothness * (down + right)

    def evaluate(averaged: Tokenizer) -> dict[str, float]:
        return tokenizer_quality(averaged, held_out)

    history = training.run(loss, evaluate, evaluate_every=250)
    return training.average_model.requires_grad_(False), history


def tokenizer_quality(tokenizer: Tokenizer, icons: Icons, count: int = 256) -> dict[str, float]:
    """PSNR in dB and share of codes in use, of the first ``count`` icons on all backgrounds."""
    rows = torch.arange(min(count, len(icons)))
    images = icons.images(rows, rows % len(icons.backgrounds))
    ids = torch.cat([tokenizer.encode(part) for part in images.split(64)])
    decoded = torch.cat([tokenizer.decode(part) for part in ids.split(64)])
    used = len(ids.unique()) / len(tokenizer.codebook.weight)
    return {"psnr": float(psnr(decoded, images).mean()), "codes_used": used}
