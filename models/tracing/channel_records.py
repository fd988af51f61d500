"""What channel tracing records: slices of tensors, readings of channels, and sizes written in code."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Slice:
    """Which channel each index along one dimension of a parameter or buffer belongs to.

    Attributes:
        tensor: Name of the parameter or buffer.
        dim: The dimension.
        role: ``"output"`` (it makes the channel), ``"input"`` (it reads the channel) or ``"pass"`` (it acts on the
            channel alone, as batch normalisation does).
        channel: `(size of dim,)`.
    """

    tensor: str
    dim: int
    role: str
    channel: Tensor


@dataclass(frozen=True)
class Use:
    """One reading of channels by a layer that mixes them.

    Attributes:
        tensor: Name of the weights.
        bias: Name of the bias; it is there or can be added.
        inputs: Channel that each column reads, `(groups, columns)`; rows come in that many groups of one size.
        outputs: Channel that each row makes, `(rows,)`.
        weight: The weights themselves, `(rows, columns, positions)`.
        value: What each column reads where that is constant, the same everywhere and can be moved into the bias,
            else NaN; `(groups, columns)`.
    """

    tensor: str
    bias: str
    inputs: Tensor
    outputs: Tensor
    weight: Tensor
    value: Tensor


@dataclass(frozen=True)
class Count:
    """A size written in the network's code: how many of these channels there are."""

    channel: Tensor
