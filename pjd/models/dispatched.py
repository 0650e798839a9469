"""Transformers models that ``from_pretrained(device_map=...)`` has placed on several devices.

accelerate's hooks then bring what a module is given to the module's device, and weights that were
offloaded to memory or to a disk to the device that computes with them. So nothing here moves a
module: this module says where its layers compute, and keeps their hooks from copying the same
inputs once per layer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pjd.errors import ParameterError


def is_dispatched(module: nn.Module) -> bool:
    """Whether accelerate's hooks hold a module or a part of it, so that it must not be moved."""
    return any(hasattr(part, "_hf_hook") for part in module.modules())


def parameters_of(module: nn.Module) -> dict[str, Tensor]:
    """A module's own parameters by name, without gradients, even if they are offloaded.

    Args:
        module: without parts that have parameters, such as ``nn.Linear``.
    """
    if not is_dispatched(module):
        return {name: parameter.detach() for name, parameter in module.named_parameters()}
    # Whatever has hooks got them from accelerate, which is no dependency of ours.
    from accelerate.utils import align_module_device

    with align_module_device(module):
        return {name: parameter.detach() for name, parameter in module.named_parameters()}


def devices_of(name: str, module: nn.Module) -> list[torch.device]:
    """The devices that a module and its parts compute on, each once.

    Args:
        name: of the module, for an error.
        module: with parameters.

    Raises:
        ParameterError: if a weight is neither on a device nor brought by a hook.
    """
    found: dict[torch.device, None] = {}
    for part in module.modules():
        for own, parameter in part.named_parameters(recurse=False):
            device = parameter.device
            if device.type == "meta":
                # An offloaded weight is on no device until its module computes.
                hook: Any = getattr(part, "_hf_hook", None)
                if not getattr(hook, "offload", False):
                    allowed = "must be a device, or offloaded by device_map: load the model again"
                    raise ParameterError(f"device of {own} of {name}", str(device), allowed)
                # A map may say 0 or "cuda" for what tensors call cuda:0.
                device = torch.empty(0, device=hook.execution_device).device
            found[device] = None
    return list(found)


class Spread:
    """Where the layers of a dispatched transformer compute.

    Args:
        name: of the model, for errors.
        backbone: a transformers decoder with ``layers``.

    Attributes:
        home: the device of the input embeddings: decoding begins and ends there.
        devices: of each layer.

    Raises:
        ParameterError: if a layer is on two devices, or a weight on none.
    """

    def __init__(self, name: str, backbone: Any) -> None:
        """Read the devices off weights and hooks."""
        (self.home,) = devices_of(f"embeddings of {name}", backbone.get_input_embeddings())
        self.layers = list(backbone.layers)
        self.devices: list[torch.device] = []
        for index, layer in enumerate(self.layers):
            device, *others = devices_of(f"layers.{index} of {name}", layer)
            if others:
                found = ", ".join(map(str, (device, *others)))
                allowed = f"must be one device: let device_map name layers.{index}, not its parts"
                raise ParameterError(f"devices of layers.{index} of {name}", found, allowed)
            self.devices.append(device)

    @contextmanager
    def inputs_moved_once(self) -> Iterator[None]:
        """Within, what all layers are given (mask, rotation) is copied once per device.

        accelerate's own hooks would copy it for every layer that is not where it was made.
        """
        copies = Copies()
        handles = [
            layer.register_forward_pre_hook(partial(copies.bring, device), with_kwargs=True)
            for layer, device in zip(self.layers, self.devices, strict=True)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class Copies:
    """Copies of tensors on other devices, one per device."""

    def __init__(self) -> None:
        """Begin without copies."""
        self.made: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def to(self, value: Any, device: torch.device) -> Any:
        """``value`` with its tensors, if it is one or a tuple of some, on ``device``."""
        if isinstance(value, tuple):
            return tuple(self.to(part, device) for part in value)
        if not isinstance(value, Tensor) or value.device == device:
            return value
        key = id(value), device
        if key not in self.made:
            # The original is kept too: no other tensor can get its id meanwhile.
            self.made[key] = value, value.to(device)
        return self.made[key][1]

    def bring(
        self, device: torch.device, layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What torch calls before a layer: its named inputs, which other layers share, copied."""
        return inputs, {name: self.to(value, device) for name, value in named.items()}
