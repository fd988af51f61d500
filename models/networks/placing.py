"""What inputs a network takes: on which device, in which dtype, and whether they are whole numbers to be looked up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["like", "looks_up", "zeros_for"]


def like(part: Tensor, reference: Tensor) -> Tensor:
    """Inputs or targets on the device of a reference, floating-point numbers in its dtype.

    Args:
        part: Any tensor.
        reference: One of the network's parameters.
    """
    return part.to(reference.device, reference.dtype if part.is_floating_point() else part.dtype)


def looks_up(network: nn.Module) -> bool:
    """Whether a network looks its inputs up by number, so that they are whole numbers and no measurements.

    Args:
        network: The network.
    """
    return any(isinstance(module, (nn.Embedding, nn.EmbeddingBag)) for module in network.modules())


def zeros_for(network: nn.Module, input_shape: Sequence[int], n: int = 1) -> Tensor:
    """Inputs of zeros that a network takes, to be run or traced with: whole numbers where it looks them up.

    Args:
        network: The network.
        input_shape: Shape of one input.
        n: How many; default 1.

    Returns:
        `(n, *input_shape)`, on the device and, where they are no whole numbers, in the dtype of its parameters.
    """
    own = next((one for one in network.parameters() if one.is_floating_point()), torch.zeros(()))
    dtype = torch.int64 if looks_up(network) else own.dtype
    return torch.zeros((n, *input_shape), dtype=dtype, device=own.device)
