"""A training run that can be stopped and resumed, for the tokenizer and the transformer."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar, cast

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

Network = TypeVar("Network", bound=nn.Module)


@dataclass
class Training(Generic[Network]):
    """A resumable training run. Its learning rate warms up, stays, and falls linearly to zero.

    Args:
        model: what is trained.
        optimizers: stepped together; their learning rates are those of the plateau.
        steps: number of optimiser steps.
        checkpoint: file that the run saves to every ``save_every`` seconds and resumes from.
        warmup: steps of linear warm-up.
        decay: share of the steps, at the end, over which the rate falls to zero.
        average: decay of the exponential moving average of the weights; its memory, about
            1 / (1 - average) steps, should be much shorter than ``steps``.
        save_every: seconds between checkpoints.
        done: steps taken so far.
        history: one row per measurement so far.
    """

    model: Network
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

    @property
    def average_model(self) -> Network:
        """The model with the averaged weights, in evaluation mode."""
        return cast(Network, self.averaged.module.eval())

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
        evaluate: Callable[[Network], dict[str, float]],
        evaluate_every: int = 500,
    ) -> pd.DataFrame:
        """Train to the end.

        Args:
            loss: draws a batch and returns its scalar loss.
            evaluate: measures the averaged model.
            evaluate_every: steps between measurements.

        Returns:
            One row per measurement: step, seconds, mean training loss since the one before, and
            what ``evaluate`` returned.
        """
        progress = tqdm(total=self.steps, initial=self.done, desc="training", mininterval=5)
        saved_at = measured_at = time.monotonic()
        loss_sum, counted = torch.zeros(()), 0
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
            loss_sum, counted = loss_sum + value.detach(), counted + 1
            self.done += 1
            progress.update()
            if self.done % evaluate_every == 0 or self.done == self.steps:
                seconds += time.monotonic() - measured_at
                row = {"step": self.done, "seconds": seconds, "loss": float(loss_sum) / counted}
                row |= evaluate(self.average_model)
                # The time that measuring takes does not count.
                measured_at = time.monotonic()
                self.history.append(row)
                loss_sum, counted = torch.zeros(()), 0
                progress.set_postfix({k: f"{v:.3f}" for k, v in row.items() if k != "step"})
            if time.monotonic() - saved_at > self.save_every or self.done == self.steps:
                self.save()
                saved_at = time.monotonic()
        progress.close()
        return pd.DataFrame(self.history)
