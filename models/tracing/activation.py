"""Activations as channel tracing sees them: which channel each number belongs to, and what is constant."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NO_CHANNEL = -1
"""Owner of numbers that are broadcast over channels (a scalar, a dimension of size 1)."""


@dataclass(frozen=True)
class Activation:
    """What is known of one activation, whatever the input of the network is.

    Numbers are known for inputs of any size: what differs along a border counts as unknown, since its mean, for one,
    is another for maps of another size.

    Attributes:
        channel: Channel of each number, int64, of the activation's shape; most of it expanded, not stored.
        value: The number where it does not depend on the input, NaN where it does; float64, same shape.
    """

    channel: Tensor
    value: Tensor

    @property
    def shape(self) -> torch.Size:
        """Shape of the activation."""
        return self.channel.shape


def activations(arguments: Any) -> list[Activation]:
    """All activations among nested arguments."""
    if isinstance(arguments, Activation):
        return [arguments]
    if isinstance(arguments, dict):
        arguments = list(arguments.values())
    if isinstance(arguments, slice):
        arguments = (arguments.start, arguments.stop, arguments.step)
    if isinstance(arguments, (tuple, list)):
        return [found for part in arguments for found in activations(part)]
    return []


def unknown(shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Values that depend on the input."""
    return torch.full([1] * len(shape), math.nan, dtype=torch.float64).expand(shape)


def constant_along(value: Tensor, dim: int) -> Tensor:
    """The number that is found all along the other dimensions, NaN where there is none or several; `(size of dim,)`."""
    lines = collapsed(value).movedim(dim, 0)
    lines = lines.reshape(len(lines), -1)
    low, high = lines.amin(dim=1), lines.amax(dim=1)
    return torch.where(low == high, low, math.nan).expand(value.shape[dim])


def collapsed(tensor: Tensor) -> Tensor:
    """The tensor with every expanded dimension (stride 0) taken back to size 1: what is really stored."""
    for dim in range(tensor.ndim):
        if tensor.shape[dim] > 1 and tensor.stride(dim) == 0:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def spread(function: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """Applies a function of single numbers to what is really stored, and expands the result again."""
    return function(collapsed(tensor)).expand(tensor.shape)


def known(function: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """Applies a function of single numbers to known values; unknown ones stay unknown whatever it does to NaN."""

    def each(part: Tensor) -> Tensor:
        return torch.where(torch.isnan(part), part, function(torch.where(torch.isnan(part), 0.0, part)).to(part.dtype))

    return spread(each, value)


def along_dimension(line: Tensor, dim: int, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Expands one entry for each index along a dimension to a tensor of this shape."""
    view = [1] * len(shape)
    view[dim] = -1
    return line.view(view).expand(shape)


def varying_dimensions(channels: Tensor) -> list[int]:
    """Dimensions along which the channels differ."""
    stored = collapsed(channels)
    return [
        dim
        for dim in range(stored.ndim)
        if stored.shape[dim] > 1 and not bool((stored == stored.narrow(dim, 0, 1)).all())
    ]


def concatenated(tensors: list[Tensor], dim: int) -> Tensor:
    """`torch.cat` that stores as little as its arguments do."""
    dim = dim % tensors[0].ndim
    shape = list(tensors[0].shape)
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    for other in range(len(shape)):
        if other != dim and all(tensor.stride(other) == 0 for tensor in tensors):
            tensors = [tensor.narrow(other, 0, 1) for tensor in tensors]
    return torch.cat(tensors, dim).expand(shape)
