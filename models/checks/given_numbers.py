"""Numbers that users give: whole ones, real ones and seeds, each wrong one told in a sentence."""

from __future__ import annotations

import math
import operator
from typing import Any

from bayesprune.models.checks.plain_numbers import is_array, is_finite, plain_number

__all__ = ["checked_seed", "real_number", "whole_number"]

_LARGEST_SEED = 2**62
"""Restarts and draws have seeds that lie above the one that was given, and torch takes 64 bits."""


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """Returns a whole number of any numeric type as an int.

    Args:
        name: What to call it in the message.
        value: The number; 3.0 is one, True is none. Arrays and tensors of no dimension are numbers.
        least: The smallest that is allowed; default 1.

    Raises:
        ValueError: If it is none, or too small.
    """
    number = plain_number(value)
    is_whole = isinstance(number, int) or (isinstance(number, float) and number.is_integer())
    if isinstance(number, bool) or not is_whole:
        raise ValueError(f"{name} must be a whole number, not {value!r}: give an int")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}")
    return int(number)


def restart_number(value: Any, restarts: int) -> int:
    """Returns the number of a restart as an int.

    Args:
        value: The number, counted from 0; all that Python takes for an index.
        restarts: How many restarts there are.

    Raises:
        ValueError: If it is none, or there is no such restart.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if not 0 <= number < restarts:
        raise ValueError(f"there is no restart {value!r}: this fit has {restarts}, counted from 0")
    return number


def real_number(name: str, value: Any) -> float:
    """Returns a finite number of any numeric type as an int or a float.

    Args:
        name: What to call it in the message.
        value: The number; True is none. Arrays and tensors of no dimension, or of one element, are numbers.

    Raises:
        ValueError: If it is none, or not finite.
    """
    is_one = is_array(value) and math.prod(value.shape) == 1
    number = plain_number(value.reshape(()) if is_one else value)
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not is_finite(number):
        raise ValueError(f"{name} must be a finite number, not {value!r}")
    return number


def checked_seed(seed: Any, least: int = -_LARGEST_SEED) -> int:
    """Returns a seed as an int; the one check of every place at which a seed comes in.

    Args:
        seed: The seed.
        least: The smallest that is allowed; default that of torch's generators.

    Raises:
        ValueError: If it is no integer, or out of range.
    """
    number = plain_number(seed)
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number < _LARGEST_SEED:
        low = "-2**62" if least == -_LARGEST_SEED else str(least)
        raise ValueError(f"seed is {seed!r}, but an integer from {low} up and below 2**62 is expected")
    return number
