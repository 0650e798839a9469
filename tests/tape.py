"""CUDA graphs as they behave, on a CPU: operations are recorded with their very tensors."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}
"""Operations that the host waits for: a graph cannot have them."""


class Tape(TorchDispatchMode):
    """Records operations; :meth:`replay` repeats them on the memory that they had.

    Unlike a real graph it computes while it records, so what the function wrote must be put back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict, list[Tensor]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in READS:
            raise RuntimeError(f"the host reads: {func}")
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        owned = {one.untyped_storage().data_ptr() for one in tensors((args, kwargs))}
        # What shares memory with an argument is a view, or was written in place.
        new = [
            one if one.untyped_storage().data_ptr() not in owned else None
            for one in tensors(results)
        ]
        self.calls.append((func, args, kwargs, new))
        return results

    def replay(self) -> None:
        for func, args, kwargs, new in self.calls:
            for target, value in zip(new, tensors(func(*args, **kwargs)), strict=True):
                if target is not None:
                    target.copy_(value)


def tensors(tree: Any) -> list[Tensor]:
    return [one for one in tree_leaves(tree) if isinstance(one, Tensor)]


def recorder(written: Callable[[], list[Tensor]], made: list[Tape]):
    """A :data:`pjd.decoder.capture.Recorder` that makes tapes, and keeps them in ``made``.

    Args:
        written: all that the recorded function writes.
        made: takes the tapes.
    """

    def record(function: Callable[[], None]) -> Callable[[], None]:
        tape, before = Tape(), [one.clone() for one in written()]
        with tape:
            function()
        for one, value in zip(written(), before, strict=True):
            one.copy_(value)
        made.append(tape)
        return tape.replay

    return record
