"""Count what an iteration asks a device to do, without a device: its operations, one by one."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pjd.decoder.config import DecodeConfig
from pjd.decoder.engine import Engine
from pjd.decoder.model import ImageModel


class Operations(TorchDispatchMode):
    """Counts ATen operations that compute: views, which only describe memory, are left out.

    Attributes:
        counts: operations by part, then by name.
        part: what the next ones belong to.
    """

    def __init__(self) -> None:
        """Start at zero, outside the model."""
        super().__init__()
        self.counts: dict[str, Counter[str]] = {"outside": Counter(), "model": Counter()}
        self.part = "outside"

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Count ``func``, and run it."""
        if not is_view(func):
            self.counts[self.part][str(func)] += 1
        return func(*args, **(kwargs or {}))


def is_view(func: Any) -> bool:
    """Whether the operation ``func`` only gives another view of its argument."""
    returns = func._schema.returns
    aliases = [one.alias_info is not None and not one.alias_info.is_write for one in returns]
    return bool(returns) and all(aliases)


def count(model: ImageModel, config: DecodeConfig, lanes: int, images: int = 1) -> Operations:
    """Operations of one iteration in the middle of an image, with sizes as on a GPU.

    Args:
        model: any; only its structure counts.
        config: the method.
        lanes: rows that are computed.
        images: of the batch.
    """
    prompt = model.encode(["cat"] * images, config.guided)
    engine = Engine(model, config, prompt, torch.arange(images), static=True)
    counted = Operations()
    forward = engine.forward

    def watched(inputs: Any) -> Tensor:
        counted.part = "model"
        try:
            return forward(inputs)
        finally:
            counted.part = "outside"

    with torch.inference_mode():
        engine.shapes.bound = min(lanes, engine.slots.n_lanes)
        state, trace = engine.initial_state(), engine.empty_trace()
        engine.prefill()
        for _ in range(model.grid.columns):
            engine.step(state, trace)
        engine.forward = watched  # type: ignore[method-assign]
        with counted:
            engine.step(state, trace)
    return counted
