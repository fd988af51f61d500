"""Widths of layers: any positive multiple of those that a network has by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["require_positive", "scaled"]


def require_positive(**sizes: int) -> None:
    """Refuses a size below 1, by its name.

    Raises:
        ValueError: If there is one.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}, but a network needs at least 1: pass a positive integer")


def scaled(own: Sequence[int], width: float) -> list[int]:
    """Widths of hidden layers times `width`, rounded, at least 1.

    Args:
        own: The widths that a network has by itself.
        width: What they are multiplied by.

    Raises:
        ValueError: If `width` is not a positive number.
    """
    if not (math.isfinite(width) and width > 0):
        raise ValueError(
            f"width is {width}, but it multiplies the widths of layers: pass a positive number, such as 0.5"
        )
    return [max(1, round(width * each)) for each in own]
