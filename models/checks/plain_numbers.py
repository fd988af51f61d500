"""Numbers of NumPy and torch as those of Python, which compare, print and are stored like what a user types."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

__all__ = ["is_array", "is_finite", "plain_number", "plain_value"]


def is_finite(value: Any) -> bool:
    """Whether a real number is finite and no larger than floats are."""
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number, or a fraction, beyond the floats
        return False


def plain_number(value: Any) -> Any:
    """Returns a number of any type as a bool, an int or a float; all else as it is.

    Args:
        value: Anything. Numbers are those of Python, NumPy's scalars, and arrays and tensors of no dimension.
    """
    if is_array(value):
        if value.ndim:
            return value
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if is_finite(value) else value
    return value


def is_array(value: Any) -> bool:
    """Whether it is an array, a tensor or a scalar of NumPy's, known by its methods: neither package is imported."""
    return not isinstance(value, type) and all(hasattr(value, name) for name in ("ndim", "item", "tolist"))


def plain_value(value: Any) -> Any:
    """As `plain_number`, also inside of lists, tuples and mappings; arrays and tensors with dimensions become lists."""
    if is_array(value):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return type(value)([plain_value(one) for one in value]) if type(value) in (list, tuple) else value
    if type(value) is dict:
        return {key: plain_value(one) for key, one in value.items()}
    return plain_number(value)
