"""Supports of latents: what they are called, and values inside them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

__all__ = ["fixed_values", "interval_bounds", "shuffled", "support_name"]


def support_name(support: Any) -> str:
    """What a support is called: see `Site`."""
    if support is constraints.real:
        return "real"
    if support is constraints.boolean:
        return "boolean"
    if support is constraints.unit_interval or str(support) in ("Interval(lower_bound=0.0, upper_bound=1.0)",):
        return "unit"
    lower = getattr(support, "lower_bound", None)  # a tensor where it depends on a parent
    if lower is not None and not hasattr(support, "upper_bound") and bool((torch.as_tensor(lower) == 0).all()):
        return "positive"
    return "other" if interval_bounds(support) is None else "interval"


def interval_bounds(support: Any) -> tuple[float, float] | None:
    """The ends of an interval of positive numbers that are the same for all entries, else None."""
    ends = [torch.as_tensor(getattr(support, name, -1.0)) for name in ("lower_bound", "upper_bound")]
    if any(end.numel() != 1 for end in ends) or not 0.0 < float(ends[0]) < float(ends[1]):
        return None
    return float(ends[0]), float(ends[1])


def fixed_values(shape: tuple[int, ...], support: str, constraint: Any = None) -> Tensor:
    """Values inside the support, the same on every machine and with every random state."""
    if support == "boolean":
        return torch.ones(shape)
    count = int(torch.Size(shape).numel())
    # The far end is no fraction, so that no entry is exactly zero (a signed scale may not be).
    line = torch.linspace(-1.0, math.sqrt(0.83), count).reshape(shape) if count > 1 else torch.full(shape, 0.5)
    if support == "real":
        return line
    if support == "positive":
        return line.exp()
    if support == "unit":
        return line.sigmoid()
    return biject_to(constraint)(line)


def shuffled(value: Tensor) -> Tensor:
    """The entries by turns from the front and from the back, so that they are no longer in order."""
    flat = value.flatten()
    places = [place // 2 if place % 2 == 0 else len(flat) - 1 - place // 2 for place in range(len(flat))]
    return flat[places].reshape(value.shape)
