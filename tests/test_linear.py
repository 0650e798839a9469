"""Linear maps by oneDNN are linear maps, and leave training and compiling alone."""

import pytest
import torch
from torch import nn

from pjd.models.linear import Linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(7,), (2, 3, 7), (0, 7), (5, 7)])
def test_it_is_a_linear_map(dtype, bias, shape):
    torch.manual_seed(0)
    linear = Linear(7, 5, bias=bias, dtype=dtype)
    plain = nn.Linear(7, 5, bias=bias, dtype=dtype)
    plain.load_state_dict(linear.state_dict())
    x = torch.randn(*shape, dtype=dtype)
    with torch.inference_mode():
        found = linear(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, plain(x).detach())


def test_it_has_gradients_and_can_be_compiled():
    linear, x = Linear(7, 5), torch.randn(2, 7)
    linear(x).sum().backward()
    torch.testing.assert_close(linear.weight.grad, x.sum(0).expand(5, -1))
    with torch.inference_mode():
        compiled = torch.compile(linear, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(x), linear(x))


def test_rows_do_not_depend_on_the_other_rows():
    # What an image draws may change with its batch through rounding alone.
    torch.manual_seed(1)
    linear, x = Linear(64, 32), torch.randn(100, 64)
    with torch.inference_mode():
        torch.testing.assert_close(linear(x)[40:50], linear(x[40:50]), atol=1e-6, rtol=1e-5)
