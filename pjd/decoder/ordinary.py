"""Torch as it is when it is imported: what a caller has changed must not change an image."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def ordinary_state() -> Iterator[None]:
    """Single precision and the CPU by default, and no autocast; afterwards all is as it was.

    Most tensors say what they are, but not those that modules, transformers, or a whole number
    times a fraction make. Where nothing was changed this does nothing: another thread may rely on
    the default dtype, and a mode for devices would make each operation slower.
    """
    with ExitStack() as stack:
        dtype = torch.get_default_dtype()
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield
