"""Numbers that users give: whole ones, real ones and seeds, each wrong one told in a sentence."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import torch

__all__ = ["checked_seed", "real_number", "whole_number"]

_LARGEST_SEED = 2**62
"""Restarts and draws have seeds that lie above the one that was given, and torch takes 64 bits."""


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """Returns a whole number of any numeric type as an int.

    Args:
        name: What to call it in the message.
        value: The number; 3.0 is one, True is none.
        least: The smallest that is allowed; default 1.

    Raises:
        ValueError: If it is none, or too small.
    """
    is_whole = isinstance(value, Integral) or (isinstance(value, Real) and value == value // 1)
    if isinstance(value, bool) or not is_whole:
        raise ValueError(f"{name} must be a whole number, not {value!r}: give an int")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")
    return int(value)


def real_number(name: str, value: Any) -> float:
    """Returns a finite number of any numeric type, as it is or as a float.

    Raises:
        ValueError: If it is none, or not finite.
    """
    if torch.is_tensor(value) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}")
    return value if isinstance(value, (int, float)) else float(value)


def checked_seed(seed: Any, least: int = -_LARGEST_SEED) -> int:
    """Returns a seed as an int; the one check of every place at which a seed comes in.

    Args:
        seed: The seed.
        least: The smallest that is allowed; default that of torch's generators.

    Raises:
        ValueError: If it is no integer, or out of range.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not least <= int(seed) < _LARGEST_SEED:
        low = "-2**62" if least == -_LARGEST_SEED else str(least)
        raise ValueError(f"seed is {seed!r}, but an integer from {low} up and below 2**62 is expected")
    return int(seed)
