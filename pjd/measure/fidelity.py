"""Fidelity to the autoregressive model: likelihood of decoded codes under the exact model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from pjd.decoder.config import DecodeConfig
from pjd.decoder.grids import encode_after, followed_by
from pjd.decoder.mask import causal
from pjd.decoder.model import ImageModel, Prompt
from pjd.decoder.sampling import guide, probabilities


@dataclass(frozen=True)
class Interval:
    """A mean over images with a bootstrap 95 % interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: np.ndarray, draws: int = 2000, seed: int = 0) -> Interval:
    """Mean of ``values`` [images] with the percentile interval of ``draws`` resamples.

    One image has no interval: its bounds are not numbers.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return Interval(float(values.mean()), np.nan, np.nan)
    rows = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    low, high = np.quantile(values[rows].mean(1), [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def teacher_forced(
    model: ImageModel, prompt: Prompt, tokens: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs of one forward pass over prompts and whole images, without each image's last token.

    Args:
        model: whose inputs they are.
        prompt: encoded; all its branches get the same images.
        tokens: codes int64 [images, R * C], on the model's device.

    Returns:
        Embeddings, position ids and causal mask for
        :meth:`pjd.decoder.model.ImageModel.forward`, forced row-end tokens included.
    """
    whole = followed_by(model, prompt, tokens)
    x, mask, positions = (field[:, :-1] for field in whole)
    return x, positions, causal(mask, x.shape[1])


@torch.inference_mode()
def code_logits(
    model: ImageModel,
    prompts: list[str],
    tokens: Tensor,
    guidance: float,
    temperature: float,
    batch_size: int = 8,
    previews: Sequence[Tensor] = (),
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits of all codes under the exact raster-order model, in one forward pass per image.

    Args:
        model: the model that decoded.
        prompts: one per image.
        tokens: codes int64 [images, R * C].
        guidance: classifier-free guidance scale.
        temperature: 0 counts as 1.
        batch_size: images per forward pass.
        previews: codes of the grids before the last, each int64 [images, R * C].

    Yields:
        For each batch its codes int64 [batch, R * C], and the guided logits that each is drawn
        from, over the temperature, float [batch, R * C, vocabulary]; both on the model's device.

    Raises:
        ParameterError: unless there are previews of all grids before the last.
    """
    grid, guided = model.grid, guidance != 1
    # Forced row-end tokens are fed too, but they are certain: only codes have a likelihood.
    raster = torch.arange(grid.length, device=model.device)
    raster = raster[~grid.is_row_end(raster)]
    for start in tqdm(range(0, len(prompts), batch_size), desc="likelihood", leave=False):
        part = slice(start, start + batch_size)
        codes = tokens[part].to(model.device)
        before = [grid_before[part] for grid_before in previews]
        prompt = encode_after(model, prompts[part], before, guided)
        x, positions, mask = teacher_forced(model, prompt, codes)
        logits = model.forward(x, positions, mask)
        logits = logits[:, prompt.mask.shape[1] - 1 :][:, raster]
        if guided:
            logits = guide(logits, model.guidance_at(guidance, raster))
        yield codes, logits.float() / (temperature or 1.0)


@torch.inference_mode()
def code_probs(
    model: ImageModel,
    prompts: list[str],
    tokens: Tensor,
    config: DecodeConfig,
    batch_size: int = 8,
) -> Iterator[tuple[Tensor, Tensor]]:
    """What AR draws each code from, after the codes before it.

    Args:
        model: of one grid.
        prompts: one per image.
        tokens: codes int64 [images, R * C].
        config: the sampling.
        batch_size: images per forward pass.

    Yields:
        For each batch its codes int64 [batch, R * C], and float32 [batch, R * C, vocabulary]; both
        on the model's device.
    """
    # The temperature is a part of the probabilities.
    for codes, logits in code_logits(model, prompts, tokens, config.guidance, 1.0, batch_size):
        yield codes, probabilities(logits, config)


@torch.inference_mode()
def log_likelihood(
    model: ImageModel,
    prompts: list[str],
    tokens: Tensor,
    guidance: float,
    temperature: float,
    top_k: int = 0,
    batch_size: int = 8,
    previews: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor]:
    """Log-likelihood of codes under the exact raster-order model, in one forward pass per image.

    The distribution has the decoder's guidance and temperature, but no top-k or top-p, so that
    every code has a finite likelihood. Where the model writes several grids it is that of the last
    one, given those before.

    Args:
        model: the model that decoded.
        prompts: one per image.
        tokens: codes int64 [images, R * C].
        guidance: classifier-free guidance scale.
        temperature: 0 counts as 1.
        top_k: for the second result.
        batch_size: images per forward pass.
        previews: codes of the grids before the last, each int64 [images, R * C].

    Returns:
        Log-likelihood of each code in nats, float [images, R * C], and whether it is outside the
        ``top_k`` likeliest codes, bool [images, R * C] (all False for ``top_k`` 0).

    Raises:
        ParameterError: unless there are previews of all grids before the last.
    """
    nats, outside = [], []
    for codes, logits in code_logits(
        model, prompts, tokens, guidance, temperature, batch_size, previews
    ):
        of_codes = logits.gather(-1, codes[..., None])
        nats.append((of_codes - logits.logsumexp(-1, keepdim=True)).squeeze(-1).cpu())
        rank = (logits > of_codes).sum(-1)
        outside.append(((rank >= top_k) & (top_k > 0)).cpu())
    return torch.cat(nats), torch.cat(outside)
