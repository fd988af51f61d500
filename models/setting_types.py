"""Types of settings that came as text, from a command line or a file, checked against a signature before use."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from bayesprune.models.plain_numbers import is_finite, plain_value

__all__ = ["checked_types"]

_WORDS = {float: "a number", int: "a whole number", str: "a name", bool: "true or false", type(None): "null"}
_EXACT = 2**53
"""Up to here a float holds every whole number."""
_LARGEST = 2**63 - 1
"""The largest whole number that a tensor holds."""
_LONGEST = 40
"""Characters of a value that a message repeats."""


def checked_types(what: str, make: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Refuses settings of another type than the arguments that they are for.

    Args:
        what: What has the settings, for the message: ``"the prior halo"``.
        make: What is called with them: a class or a function whose arguments are annotated with numbers, texts,
            booleans, None, pairs of numbers, or unions of these.
        given: The settings, arguments of `make`. Where a number is expected, a whole one will do, and where a whole
            one is, 3.0 will. Numbers may be those of NumPy and torch, and lists their arrays.

    Returns:
        The settings in Python's own numbers and lists, whole numbers beyond 2^53 as floats where a number is expected.

    Raises:
        ValueError: If one is of another type, NaN or infinite; the sentence names it.
    """
    arguments = inspect.signature(make, eval_str=True).parameters
    return {key: _checked(what, key, value, arguments[key].annotation) for key, value in given.items()}


def _checked(what: str, key: str, value: Any, kind: Any) -> Any:
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    value = plain_value(value)
    if int in kinds and float not in kinds:
        value = _whole(value)
    if not any(_is_of(value, one) for one in kinds):
        expected = " or ".join(_word(one) for one in kinds)
        raise ValueError(f"the setting {key} of {what} takes {expected}, not {_shown(value)}")
    is_large = isinstance(value, int) and not isinstance(value, bool) and abs(value) > _EXACT
    return float(value) if is_large and float in kinds else value


def _is_of(value: Any, kind: Any) -> bool:
    parts = typing.get_args(kind)
    if parts:  # a pair, which JSON has as a list
        return (
            isinstance(value, (list, tuple))
            and len(value) == len(parts)
            and all(_is_of(one, part) for one, part in zip(value, parts, strict=True))
        )
    if isinstance(value, bool):  # which is an integer in Python
        return kind is bool
    if kind is float:
        return isinstance(value, (int, float)) and is_finite(value)
    if kind is int:
        return isinstance(value, int) and abs(value) <= _LARGEST
    return isinstance(value, kind)


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT else value


def _word(kind: Any) -> str:
    parts = typing.get_args(kind)
    return f"a list of {len(parts)} {_WORDS[parts[0]].removeprefix('a ')}s" if parts else _WORDS[kind]


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _EXACT:
        return f"one of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
