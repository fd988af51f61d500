"""Levels: how many entries a latent has for one parameter tensor, and how they spread over it.

A parameter tensor has shape ``(out, in)`` (Linear), ``(out, in, kernel height, kernel width)`` (Conv2d) or
``(out,)`` (bias). A latent of a coarser level keeps the tensor's number of dimensions, with ones where it is
shared, so that latents of different levels broadcast against one another and against the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LEVELS: tuple[str, ...] = ("weight", "output", "input", "kernel", "block", "edge", "layer", "network")
REPEATED: tuple[str, ...] = ("block", "edge")
"""Levels whose entries are repeated over rows and columns, since they do not broadcast."""
DEFAULT_BLOCK: tuple[int, int] = (16, 16)


def level_shape(
    level: str,
    shape: Sequence[int],
    block: tuple[int, int] = DEFAULT_BLOCK,
    tensor: str = "the tensor",
    gates: int = 1,
) -> tuple[int, ...]:
    """Returns the shape that a latent of `level` has for a parameter tensor of `shape`.

    Args:
        level: One of `LEVELS`. ``"output"`` is one entry a row (filter), ``"input"`` one a column (input
            channel), ``"kernel"`` one a pair of them, ``"block"`` one a tile of `block` rows and columns, ``"edge"``
            one a unit and input, whichever of its gates reads it, ``"layer"`` and ``"network"`` one number.
        shape: Shape of the parameter tensor, `(out, in, ...)`.
        block: Rows and columns of a tile; tiles at the edge may be smaller.
        tensor: Name of the tensor, for the error message.
        gates: How many gates a unit has whose rows stand one gate after the other, as in a GRU (3) and an LSTM (4).

    Returns:
        `shape` itself for ``"weight"``; `(out, 1, ...)`, `(1, in, ...)`, `(out, in, 1, ...)`,
        `(ceil(out / block[0]), ceil(in / block[1]), 1, ...)` and `(out / gates, in, 1, ...)` for the levels between;
        `()` for the last two.

    Raises:
        ValueError: If the level is unknown, needs an input dimension that the tensor lacks, or the rows are not those
            of so many gates.
    """
    shape = tuple(shape)
    if level not in LEVELS:
        raise ValueError(f"level {level!r} is unknown: expected one of {', '.join(LEVELS)}; pass it as per=...")
    if level in ("layer", "network"):
        return ()
    if level == "weight":
        return shape
    if level == "output":
        return (shape[0],) + (1,) * (len(shape) - 1)
    if len(shape) < 2:
        raise ValueError(
            f"per={level!r} needs a tensor with an input dimension, but {tensor} has shape {shape}: "
            "narrow the pattern to weight matrices or use per='weight'"
        )
    rest = (1,) * (len(shape) - 2)
    if level == "input":
        return (1, shape[1], *rest)
    if level == "kernel":
        return (shape[0], shape[1], *rest)
    if level == "edge":
        if shape[0] % gates:
            raise ValueError(
                f"per='edge' with gates={gates} needs rows that are a multiple of {gates}, but {tensor} has shape "
                f"{shape}: give the number of gates of the layer (1, of a GRU 3, of an LSTM 4)"
            )
        return (shape[0] // gates, shape[1], *rest)
    return (-(-shape[0] // block[0]), -(-shape[1] // block[1]), *rest)


def repeated(
    value: Tensor, level: str, shape: Sequence[int], block: tuple[int, int] = DEFAULT_BLOCK, gates: int = 1
) -> Tensor:
    """Repeats one entry a group to one entry a row and column, of a level whose entries do not broadcast.

    Args:
        value: Of the shape that `level_shape` says.
        level: The level; values of any but `REPEATED` are returned as they are.
        shape: Shape of the parameter tensor, `(out, in, ...)`.
        block: Rows and columns of a tile.
        gates: How many gates a unit has: the rows a, b become a, b, a, b.

    Returns:
        What broadcasts against the parameter tensor.
    """
    if level == "block":
        return expand_blocks(value, shape, block)
    if level == "edge" and gates > 1:
        return value.repeat(gates, *(1,) * (value.ndim - 1))
    return value


def expand_blocks(value: Tensor, shape: Sequence[int], block: tuple[int, int] = DEFAULT_BLOCK) -> Tensor:
    """Repeats one entry a block to one entry a row and column.

    Args:
        value: `(block rows, block columns, 1, ...)`, as `level_shape("block", ...)` says.
        shape: Shape of the parameter tensor, `(out, in, ...)`.
        block: Rows and columns of a tile.

    Returns:
        `(out, in, 1, ...)`, which broadcasts against the parameter tensor.
    """
    rows = value.repeat_interleave(block[0], dim=0).narrow(0, 0, shape[0])
    return rows.repeat_interleave(block[1], dim=1).narrow(1, 0, shape[1])


def broadcasts_to(found: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether numbers of one shape broadcast to entries of another, without adding any to them."""
    try:
        return torch.broadcast_shapes(found, shape) == torch.Size(shape)
    except RuntimeError:
        return False
