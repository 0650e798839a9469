"""Training of the embedded model: one resumable loop for the tokenizer and the transformer."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from pjd.emoji.icons import Icons
from pjd.emoji.muon import Muon
from pjd.models.llamagen import LlamaGen
from pjd.models.tokenizer import Tokenizer, psnr, to_float


@dataclass
class Training:
    """A resumable training run with a warm-up, a plateau and a linear decay to zero.

    Args:
        model: what is trained.
        optimizers: stepped together; their configured learning rates are the plateau's.
        steps: optimiser steps in all.
        checkpoint: file that the run saves to every ``save_every`` seconds and resumes from.
        warmup: steps of linear warm-up.
        decay: share of the steps, at the end, over which the rate falls to zero.
        average: decay of the exponential moving average of the weights; its memory, about
            1 / (1 - average) steps, should be short against ``steps``.
        save_every: seconds between checkpoints.
    """

    model: nn.Module
    optimizers: list[Optimizer]
    steps: int
    checkpoint: Path
    warmup: int = 100
    decay: float = 0.3
    average: float = 0.99
    save_every: float = 180.0
    done: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start the average at the model's weights, then resume if there is a checkpoint."""
        self.averaged = torch.optim.swa_utils.AveragedModel(
            self.model,
            multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(self.average),
            use_buffers=False,
        )
        self.rates = [group["lr"] for opt in self.optimizers for group in opt.param_groups]
        if self.checkpoint.exists():
            state = torch.load(self.checkpoint, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.averaged.load_state_dict(state["averaged"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.done, self.history = state["done"], state["history"]
            torch.set_rng_state(state["rng"])

    def save(self) -> None:
        """Write the checkpoint atomically."""
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        partial = self.checkpoint.with_suffix(".partial")
        torch.save(
            {
                "model": self.model.state_dict(),
                "averaged": self.averaged.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "done": self.done,
                "history": self.history,
                "rng": torch.get_rng_state(),
            },
            partial,
        )
        os.replace(partial, self.checkpoint)

    def rate(self) -> float:
        """Share of the plateau's learning rate at the current step."""
        falling = max(1, int(self.decay * self.steps))
        return min(1.0, (self.done + 1) / self.warmup, (self.steps - self.done) / falling)

    def run(
        self,
        loss: Callable[[], Tensor],
        evaluate: Callable[[nn.Module], dict[str, float]],
        evaluate_every: int = 500,
    ) -> pd.DataFrame:
        """Train to the end.

        Args:
            loss: draws a batch and returns its scalar loss.
            evaluate: measures the averaged model.
            evaluate_every: steps between measurements.

        Returns:
            One row a measurement: step, seconds, mean training loss since the last, and what
            ``evaluate`` returned.
        """
        progress = tqdm(total=self.steps, initial=self.done, desc="training", mininterval=5)
        saved = clock = time.monotonic()
        running, counted = torch.zeros(()), 0
        seconds = self.history[-1]["seconds"] if self.history else 0.0
        while self.done < self.steps:
            self.model.train()
            groups = [group for opt in self.optimizers for group in opt.param_groups]
            for group, plateau in zip(groups, self.rates, strict=True):
                group["lr"] = plateau * self.rate()
            value = loss()
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
            self.averaged.update_parameters(self.model)
            running, counted = running + value.detach(), counted + 1
            self.done += 1
            progress.update()
            if self.done % evaluate_every == 0 or self.done == self.steps:
                seconds, clock = seconds + time.monotonic() - clock, time.monotonic()
                row = {"step": self.done, "seconds": seconds, "loss": float(running) / counted}
                row |= evaluate(self.averaged.module.eval())
                clock = time.monotonic()
                self.history.append(row)
                running, counted = torch.zeros(()), 0
                progress.set_postfix({k: f"{v:.3f}" for k, v in row.items() if k != "step"})
            if time.monotonic() - saved > self.save_every or self.done == self.steps:
                self.save()
                saved = time.monotonic()
        progress.close()
        return pd.DataFrame(self.history)


def fast_dtype(device: torch.device) -> torch.dtype:
    """Of products: bfloat16 on GPUs and on CPUs with instructions for it, else float32."""
    able = torch.cpu.get_capabilities()
    fast = device.type == "cuda" or any(able.get(name) for name in ("amx_bf16", "avx512_bf16"))
    return torch.bfloat16 if fast else torch.float32


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
        icons: the training icons, one entry a size; a batch is drawn from one of them.
        held_out: icons of another split, for the PSNR.
        checkpoint: see :class:`Training`.
        steps: optimiser steps.
        batch: crops a step.
        crop: pixels a side of a crop.
        rate: learning rate.
        continuous_steps: steps without quantisation before the codes are placed by k-means.

    Returns:
        The averaged tokenizer, and the history of loss, PSNR and share of codes in use.
    """
    tokenizer = tokenizer.to(memory_format=torch.channels_last)
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
        codes = tokenizer.codebook.weight[ids].view_as(vectors)
        tokenizer.codebook.learn(flat, ids)
        # Straight through: the decoder sees codes, the encoder gets the decoder's gradient.
        rendered = tokenizer.render(vectors + (codes - vectors).detach())
        commitment = F.mse_loss(vectors, codes) * vectors.shape[-1]
        distance = F.mse_loss(rendered, images) + 0.1 * F.l1_loss(rendered, images)
        return distance + 0.02 * commitment

    def evaluate(averaged: nn.Module) -> dict[str, float]:
        # The codebook is itself a moving average: take the current one.
        averaged.codebook.load_state_dict(tokenizer.codebook.state_dict())
        return tokenizer_quality(averaged, held_out)

    history = training.run(loss, evaluate, evaluate_every=250)
    averaged = training.averaged.module.eval()
    averaged.codebook.load_state_dict(tokenizer.codebook.state_dict())
    return averaged, history


def crops(icons: list[Icons], count: int, size: int) -> Tensor:
    """Random crops, float [count, 3, size, size] in [-1, 1], of one of the sets of ``icons``."""
    source = icons[int(torch.randint(len(icons), ()))]
    rows = torch.randint(len(source), (count,))
    images = source.images(rows, torch.randint(len(source.backgrounds), (count,)))
    corner = torch.randint(images.shape[1] - size + 1, (count, 2))
    place = torch.arange(size)
    down = (corner[:, :1] + place)[:, :, None]
    right = (corner[:, 1:] + place)[:, None]
    chosen = images[torch.arange(count)[:, None, None], down, right]
    return to_float(chosen).to(memory_format=torch.channels_last)


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
    """Train the decoder alone, on the codes as they are: what a code means does not change.

    The squared error hardly sees the faint grid that a decoder by pixel shuffling leaves on smooth
    grounds; differences of neighbouring pixels do.

    Args:
        tokenizer: trained.
        icons: the training icons, one entry a size.
        held_out: icons of another split, for the PSNR.
        checkpoint: see :class:`Training`.
        steps: optimiser steps.
        batch: crops a step.
        crop: pixels a side of a crop.
        rate: learning rate.
        smoothness: weight of the error of differences.

    Returns:
        The averaged tokenizer, and the history of loss, PSNR and share of codes in use.
    """
    tokenizer = tokenizer.to(memory_format=torch.channels_last).requires_grad_(False)
    tokenizer.decoder.requires_grad_(True)
    optimizer = torch.optim.AdamW(tokenizer.decoder.parameters(), lr=rate, betas=(0.9, 0.95))
    training = Training(tokenizer, [optimizer], steps, checkpoint, average=0.998)

    def loss() -> Tensor:
        images = crops(icons, batch, crop)
        with torch.no_grad():
            codes = tokenizer.codebook.weight[tokenizer.codebook.nearest(tokenizer.embed(images))]
        error = tokenizer.render(codes) - images
        down, right = error.diff(dim=2).abs().mean(), error.diff(dim=3).abs().mean()
        return error.square().mean() + 0.1 * error.abs().mean() + smoothness * (down + right)

    def evaluate(averaged: nn.Module) -> dict[str, float]:
        return tokenizer_quality(averaged, held_out)

    history = training.run(loss, evaluate, evaluate_every=250)
    return training.averaged.module.eval().requires_grad_(False), history


def tokenizer_quality(tokenizer: Tokenizer, icons: Icons, count: int = 256) -> dict[str, float]:
    """PSNR in dB and share of codes used, on the first ``count`` icons over all backgrounds."""
    rows = torch.arange(min(count, len(icons)))
    images = icons.images(rows, rows % len(icons.backgrounds))
    ids = torch.cat([tokenizer.encode(part) for part in images.split(64)])
    decoded = torch.cat([tokenizer.decode(part) for part in ids.split(64)])
    used = len(ids.unique()) / len(tokenizer.codebook.weight)
    return {"psnr": float(psnr(decoded, images).mean()), "codes_used": used}


def train_transformer(
    model: LlamaGen,
    words: nn.Embedding,
    tokenizer: Tokenizer,
    icons: Icons,
    held_out: dict[str, Icons],
    checkpoint: Path,
    steps: int,
    batch: int = 32,
    rate: float = 2e-3,
    weight_decay: float = 0.1,
    shift: int = 2,
    compiled: bool = True,
) -> tuple[nn.ModuleDict, pd.DataFrame]:
    """Train the transformer and its word vectors on codes of freshly composed images.

    Hidden matrices are trained by Muon, the rest by AdamW. A tenth of the captions is replaced
    by the unconditional one, for classifier-free guidance.

    Args:
        model: untrained transformer.
        words: word vectors, [vocabulary of words, caption_dim].
        tokenizer: trained tokenizer, frozen here.
        icons: training icons at the model's image size.
        held_out: icons by the name of their split, for held-out nats per token.
        checkpoint: see :class:`Training`.
        steps: optimiser steps.
        batch: images a step.
        rate: learning rate of Muon (update RMS matched to AdamW's) and of AdamW.
        weight_decay: decoupled decay of matrices.
        shift: each image's icon is moved by up to so many pixels.
        compiled: use ``torch.compile``.

    Returns:
        The averaged {"transformer", "words"}, and the history: loss and nats per token by split.
    """
    both = nn.ModuleDict({"transformer": model, "words": words})
    hidden = [p for p in model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in hidden}
    rest = [p for p in both.parameters() if id(p) not in chosen]
    dtype = fast_dtype(next(model.parameters()).device)
    optimizers = [
        Muon(hidden, lr=rate, weight_decay=weight_decay, dtype=dtype),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), weight_decay=weight_decay / 10),
    ]
    training = Training(both, optimizers, steps, checkpoint)
    forward = torch.compile(model.teacher_forced) if compiled else model.teacher_forced
    tokenizer.eval()

    def nats(
        forward: Callable[..., Tensor],
        words: nn.Embedding,
        source: Icons,
        rows: Tensor,
        learn: bool,
    ) -> Tensor:
        count = len(rows)
        backgrounds = torch.randint(len(source.backgrounds), (count,))
        offset = torch.randint(-shift, shift + 1, (count, 2)) if learn else None
        tokens = tokenizer.encode(source.images(rows, backgrounds, offset)).flatten(1)
        captions = source.captions(rows, backgrounds, drop=learn)
        unconditional = torch.rand(count) < (0.1 if learn else 0.0)
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=dtype is torch.bfloat16):
            logits = forward(words(captions), captions > 0, unconditional, tokens)
        return F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten())

    def loss() -> Tensor:
        return nats(forward, words, icons, torch.randint(len(icons), (batch,)), learn=True)

    @torch.no_grad()
    def evaluate(averaged: nn.Module) -> dict[str, float]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model, words = averaged["transformer"], averaged["words"]
            result = {}
            for name, source in {"train": icons, **held_out}.items():
                parts = torch.randperm(len(source))[:256].split(64)
                values = [
                    nats(model.teacher_forced, words, source, rows, learn=False) for rows in parts
                ]
                result[name] = float(torch.stack(values).mean())
        return result

    history = training.run(loss, evaluate, evaluate_every=250)
    return training.averaged.module.eval(), history
