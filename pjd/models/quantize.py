"""Weights in 8 bits: half the memory of 16, and another model, which draws other codes.

The linear maps of the transformer's blocks get integers of 8 bits and one factor per output; inputs
and products keep the model's dtype. Embeddings, the output head, normalisations, what reads a
prompt's features and the image decoder stay as they are.
"""

import logging
import warnings
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def import_torchao() -> ModuleType:
    """The module of torchao that rounds weights, without its notices about unused kernels.

    transformers imports torchao where it is installed, and shows them: call this before.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        from torchao import quantization
    finally:
        logging.disable(before)
    # When such weights are compiled: that a later process may have to compile them again.
    warnings.filterwarnings("ignore", message=".*does not implement _stable_hash_for_caching")
    return quantization


def stored_bytes(tensor: Tensor) -> int:
    """Bytes that a tensor takes; of one with weights of 8 bits, its integers and factors.

    Such a tensor counts itself as if it had the dtype of the arithmetic.
    """
    if not is_traceable_wrapper_subclass(tensor):
        return tensor.nbytes
    parts, _ = tensor.__tensor_flatten__()
    return sum(getattr(tensor, part).nbytes for part in parts)


def blocks_of(model: Any) -> nn.ModuleList:
    """The transformer's blocks of a model, a list of modules.

    Args:
        model: what a family's ``load`` returns.
    """
    transformer = model.backbone if hasattr(model, "backbone") else model.transformer
    return transformer.h if hasattr(transformer, "h") else transformer.layers


def quantize_blocks(blocks: nn.ModuleList) -> None:
    """Replace every linear map below ``blocks`` by one with weights of 8 bits, one after the other.

    A weight [outputs, inputs] becomes int8 of the same shape and a factor per output, symmetric
    around 0: the largest of an output's weights is 127 or -128 times its factor. Biases stay.

    Args:
        blocks: on the CPU or any other device, where the weights stay.
    """
    torchao = import_torchao()
    # The compiler's settings are for all models of a process, and are not changed for one.
    config = torchao.Int8WeightOnlyConfig(set_inductor_config=False)
    for parent in list(blocks.modules()):
        for name, linear in list(parent.named_children()):
            if isinstance(linear, nn.Linear):
                # A map of our own would hand its weight to a kernel that knows no such tensor.
                plain = nn.Linear(linear.in_features, linear.out_features, device="meta")
                plain.weight, plain.bias = linear.weight, linear.bias
                setattr(parent, name, plain.requires_grad_(False))
                torchao.quantize_(plain, config)


def quantize_model(model: Any) -> None:
    """Give a model weights of 8 bits; its name says so from then on, and with it every record.

    Args:
        model: what a family's ``load`` returns, on the CPU; move it to its device afterwards, where
            the weights of 16 bits have then never been.
    """
    quantize_blocks(blocks_of(model))
    model.name = f"{model.name} (int8)"
