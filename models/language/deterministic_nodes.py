"""Deterministic nodes of a hierarchy: functions of the latents that return a tensor rather than a distribution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bayesprune.models.checks.plain_numbers import plain_number
from bayesprune.models.language.declaration_errors import WrongShapeError
from bayesprune.models.language.levels import broadcasts_to

__all__ = ["as_node", "check_node"]


def as_node(value: Any, like: Tensor) -> Tensor | None:
    """The value of a deterministic node, or None where a callable has returned anything else.

    Args:
        value: What the node's callable has returned; a number, NumPy's too, counts as a tensor of no
            dimensions.
        like: A tensor whose dtype and device numbers take.
    """
    if isinstance(value, Tensor):
        return value
    value = plain_number(value)
    if isinstance(value, (int, float)):
        return torch.full((), float(value), dtype=like.dtype, device=like.device)
    return None


def check_node(name: str, value: Tensor, shape: tuple[int, ...] | None, tensor: str) -> None:
    """Refuses a deterministic node that fits no entry of the tensor.

    Args:
        name: Name of the node.
        value: Its value.
        shape: The shape that it has to broadcast to, that of its level; None for one of named dimensions, which fits
            whatever takes it.
        tensor: Name of the parameter tensor.

    Raises:
        WrongShapeError: If it does not broadcast.
    """
    if shape is not None and not broadcasts_to(value.shape, shape):
        raise WrongShapeError(
            f"{name} is a deterministic node of shape {tuple(value.shape)}, which does not broadcast to its entries of "
            f"shape {shape} on {tensor}: keep dimensions that are summed over (keepdim=True), or give it the level "
            "that it has, Latent(..., per=...)"
        )
