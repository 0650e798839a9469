"""How many bytes of tensors exist at once. On the device "meta" nothing is computed or stored."""

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class Peak(TorchDispatchMode):
    """Count the bytes of tensors that are made within, until they are freed.

    What an operation needs for itself, such as a convolution's workspace, is not counted.

    Attributes:
        live: bytes of those that exist now.
        most: the largest ``live`` so far.
    """

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        self.live = self.most = 0
        self.known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation, and count what it returns."""
        out = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.count, out)
        return out

    def count(self, tensor: Tensor) -> None:
        """Count the memory of a tensor, once for all tensors that share it."""
        storage = tensor.untyped_storage()
        if storage in self.known:
            return
        self.known.add(storage)
        self.live += storage.nbytes()
        self.most = max(self.most, self.live)
        weakref.finalize(storage, self.free, storage.nbytes())

    def free(self, size: int) -> None:
        """Take away what is freed."""
        self.live -= size
