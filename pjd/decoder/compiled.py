"""Regions of an iteration that are compiled: a transformer block, the head, the engine's own parts.

A whole model would take minutes to compile for each shape. Its layers are alike, so one block is
compiled and serves all of them.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pjd.decoder.grids import grids_of
from pjd.errors import one_line

if TYPE_CHECKING:
    from pjd.decoder.model import ImageModel

SHAPES = 256
"""Shapes that a region may be compiled for; torch silently runs any more of them as they are."""


_plain: ContextVar[bool] = ContextVar("plain", default=False)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Let compiled functions run as they are within."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


class Compiled:
    """A function that is compiled for each shape; where that fails, it runs as it is.

    Args:
        function: what to compile; it has no graph break.
        dynamic: whether one compilation should serve many shapes.
    """

    def __init__(self, function: Callable[..., Any], dynamic: bool = False) -> None:
        """Prepare; the first call compiles."""
        self.function = function
        self.fast = torch.compile(function, fullgraph=True, dynamic=dynamic)

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Call the function."""
        if _plain.get():
            return self.function(*inputs, **options)
        try:
            return self.fast(*inputs, **options)
        except torch._dynamo.exc.TorchDynamoException as error:
            # It comes before anything is computed, so nothing is done twice.
            reason = one_line(error, 200)
            name = getattr(self.function, "__name__", "a region")
            warnings.warn(f"{name} is not compiled, which is slower: {reason}", stacklevel=2)
            self.fast = self.function
            return self.function(*inputs, **options)


def run_module(module: nn.Module, *inputs: Any, **options: Any) -> Any:
    """Call a module. All layers share this function, and so what it is compiled to."""
    return type(module).forward(module, *inputs, **options)


def compile_model(model: "ImageModel") -> "ImageModel":
    """Compile the regions of a model, and let the engine compile its own; returns the model.

    The first iteration of each shape then takes seconds, which pays for many images or a large
    model. Results differ by rounding.

    Raises:
        NotImplementedError: if the model cannot, for it has no method ``compile``.
    """
    compile_regions = getattr(model, "compile", None)
    if compile_regions is None:
        raise NotImplementedError(f"{model.name}: cannot be compiled, it has no method compile()")
    torch._dynamo.config.recompile_limit = max(SHAPES, torch._dynamo.config.recompile_limit)
    # On a CPU shapes follow what is in use, and few occur twice.
    dynamic = model.device.type == "cpu"
    compile_regions(lambda function: Compiled(function, dynamic))
    for one in grids_of(model):
        one.compiled = True  # type: ignore[attr-defined]
    return model
