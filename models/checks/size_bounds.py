"""Bounds of what a file may ask for: numbers are checked before anything of their size is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

__all__ = [
    "MOST",
    "MOST_DATA",
    "MOST_DIMENSIONS",
    "MOST_NUMBERS",
    "MOST_PARAMETERS",
    "WIDEST",
    "checked_count",
    "checked_input_shape",
    "checked_settings",
    "checked_width",
    "require_holdable",
]

MOST = 10**6
"""Of outputs, and of one dimension of an input."""
MOST_DIMENSIONS = 5
"""Of an input."""
MOST_NUMBERS = 2**26
"""In one input: an image of three channels and 4,700 x 4,700 pixels; 256 MiB in float32."""
MOST_DATA = 2**53
"""Training data: up to here a float holds every count."""
MOST_PARAMETERS = 2**30
"""Of a ready network: 4 GiB in float32."""
WIDEST = 1000.0
"""What the widths of a ready network may be multiplied by."""
_DEEPEST = 8  # lists in lists of settings
_LARGEST = 2**63


def checked_count(value: Any, name: str, most: int = MOST) -> int:
    """Returns a whole number from 1 to `most`.

    Args:
        value: What a file has.
        name: What it is called there, for the message.
        most: The largest that is taken.

    Raises:
        ValueError: If it is something else; booleans and floats are.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"{name} is {_shown(value)}, but a whole number from 1 to {most:,} is expected")
    return value


def checked_input_shape(value: Any) -> tuple[int, ...]:
    """Returns the shape of one input: 1 to 5 whole numbers from 1 to a million, of a product up to `MOST_NUMBERS`.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(value, (list, tuple)) or not 1 <= len(value) <= MOST_DIMENSIONS:
        raise ValueError(
            f"input_shape is {_shown(value)}, but a list of 1 to {MOST_DIMENSIONS} whole numbers is expected"
        )
    shape = tuple(checked_count(size, "a size in input_shape") for size in value)
    if math.prod(shape) > MOST_NUMBERS:
        raise ValueError(
            f"input_shape is {list(shape)}, but at most {MOST_NUMBERS:,} numbers are expected in one input"
        )
    return shape


def checked_width(value: Any) -> float:
    """Returns what widths are multiplied by: a positive number up to `WIDEST`.

    Raises:
        ValueError: If it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= WIDEST:
        raise ValueError(f"width is {_shown(value)}, but a positive number up to {WIDEST:g} is expected")
    return float(value)


def checked_settings(value: Any, name: str) -> dict[str, Any]:
    """Returns settings: texts, finite numbers, booleans and nulls by name, and lists and mappings of them.

    Args:
        value: What a file has.
        name: What it is called there, for the message.

    Raises:
        ValueError: If it is something else, a number is not finite or beyond 64 bits, or it is nested deeply.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {_shown(value)}, but settings by name are expected")
    _check_plain(value, name, 0)
    return dict(value)


def _check_plain(value: Any, name: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"{name} has lists in lists more than {_DEEPEST} deep: flatten them")
    if isinstance(value, Mapping):
        for key, one in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{name} has the key {_shown(key)}, but texts are expected")
            _check_plain(one, name, depth + 1)
    elif isinstance(value, (list, tuple)):
        for one in value:
            _check_plain(one, name, depth + 1)
    elif isinstance(value, (bool, str)) or value is None:
        pass
    elif isinstance(value, int):
        if not -_LARGEST <= value < _LARGEST:
            raise ValueError(f"{name} has {_shown(value)}, but whole numbers of 64 bits are expected")
    elif not isinstance(value, float) or not math.isfinite(value):
        raise ValueError(f"{name} has {_shown(value)}, but finite numbers, texts, booleans and nulls are expected")


def require_holdable(make: Callable[[], nn.Module], what: str) -> None:
    """Refuses a network of more than `MOST_PARAMETERS` parameters before memory for it is asked for.

    Args:
        make: Makes the network; it is called with PyTorch's device ``meta``, on which tensors have no numbers.
        what: What the network is called.

    Raises:
        ValueError: If it has more; also what `make` raises.
    """
    # A network may draw how it is built, as those of random graphs do: what is made afterwards is of the same numbers.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in make().parameters())
    if parameters > MOST_PARAMETERS:
        raise ValueError(
            f"{what} of these sizes has {parameters:,} parameters, but at most {MOST_PARAMETERS:,} are expected: make "
            "it narrower"
        )


def _shown(value: Any) -> str:
    """A value as a message has it, cut off where it is long; large integers are not written out."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _LARGEST:
        return f"a number of {value.bit_length()} bits"
    text = " ".join(repr(value).split()) if isinstance(value, (str, int, float, bool, type(None))) else ""
    if isinstance(value, (list, tuple)) and len(value) <= MOST_DIMENSIONS + 1:
        text = "[" + ", ".join(_shown(one) for one in value) + "]"
    text = text or f"of type {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}..."
