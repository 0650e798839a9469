"""Linear maps."""

import torch
from torch import Tensor, nn


class Linear(nn.Linear):
    """A linear map that oneDNN, a part of torch, computes where it is faster.

    In single precision on a CPU torch uses MKL by default, which has half of oneDNN's speed on
    AMD's processors. Results differ by rounding. oneDNN's call has no gradient, and what is
    compiled stays as it is: the compiler chooses for itself.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., inputs] to [..., outputs]."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or not usable(x, self.weight):
            return super().forward(x)
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


def usable(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can compute this product here."""
    single = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    return single and torch.backends.mkldnn.is_available()
