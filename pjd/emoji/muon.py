"""The optimiser Muon, in a precision of choice.

``torch.optim.Muon`` orthogonalises in bfloat16. On a CPU without bfloat16 arithmetic that is eight
times slower than float32: it took longer than the rest of a training step.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def orthogonal(matrices: Tensor, rounds: int = 5) -> Tensor:
    """Bring the singular values of ``matrices`` [n, rows, columns] close to 1.

    By the quintic Newton-Schulz iteration of Jordan et al. (Muon, 2024).
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(rounds):
        gram = x @ x.mT
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    return x.mT if tall else x


class Muon(Optimizer):
    """Momentum orthogonalised by Newton-Schulz, for the hidden matrices of a network.

    Args:
        params: matrices.
        lr: learning rate; updates have the RMS of AdamW's, so AdamW's learning rates fit.
        momentum: Nesterov's.
        weight_decay: decoupled.
        dtype: of the orthogonalisation; bfloat16 is precise enough, where it is fast.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Group the parameters."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all matrices that have a gradient; those of one shape are stacked for speed."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in shapes.items():
                updates = []
                for parameter in parameters:
                    state = self.state[parameter]
                    if not state:
                        state["momentum"] = torch.zeros_like(parameter)
                    gradient = cast(Tensor, parameter.grad)
                    momentum = state["momentum"].lerp_(gradient, 1 - group["momentum"])
                    updates.append(gradient.lerp(momentum, group["momentum"]))
                scale = 0.2 * max(shape) ** 0.5
                steps = orthogonal(torch.stack(updates).to(self.dtype))
                for parameter, update in zip(parameters, steps, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=-group["lr"] * scale)
