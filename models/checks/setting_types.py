"""Types of settings, typed in Python or come from a command line or a file, checked against a signature before use."""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from bayesprune.models.checks.plain_numbers import is_finite, plain_value

__all__ = ["Extent", "checked_types", "typed_settings"]

Owner = TypeVar("Owner")
Given = ParamSpec("Given")
Made = TypeVar("Made")
Extent = float | Literal["inf"] | None
"""A number that may be infinite, or None: infinity is kept as a text, since files hold finite numbers only."""

_WORDS = {float: "a number", int: "a whole number", str: "a name", bool: "true or false"}
_EXACT = 2**53
"""Up to here a float holds every whole number."""
_LARGEST = 2**63 - 1
"""The largest whole number that a tensor holds."""
SIZES = (1e-18, 1e18)
"""Sizes of numbers other than zero that a prior can be given: float32 holds the reciprocals of their squares too."""
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
    return {
        key: _checked(f"the setting {key} of {what}", value, arguments[key].annotation) for key, value in given.items()
    }


def typed_settings(
    make: Callable[Concatenate[Owner, Given], Made],
) -> Callable[Concatenate[Owner, Given], Made]:
    """Decorator of an `__init__`, or of a function below a `classmethod`: checks the types of its settings.

    It is then given Python's own numbers, which a `config` can store, and ranges are all that it has to check. An
    argument that is missing or not there is a `TypeError`, as in Python, that says which arguments there are. Ready
    priors have it by `@ready`.
    """
    signature = inspect.signature(make)

    @functools.cache
    def kinds() -> dict[str, Any]:  # at the first call, when all that annotations name is there
        return {name: one.annotation for name, one in inspect.signature(make, eval_str=True).parameters.items()}

    @functools.wraps(make)
    def checked(owner: Owner, *args: Given.args, **kwargs: Given.kwargs) -> Made:
        what = f"{owner.__name__}.{make.__name__}" if isinstance(owner, type) else type(owner).__name__
        try:
            _, *given = signature.bind(owner, *args, **kwargs).arguments.items()
        except TypeError as problem:  # which does not say of what
            _, *known = signature.parameters
            raise TypeError(f"{what}(...) takes {', '.join(known) or 'no settings'}: {problem}") from None
        settings = {key: _checked(f"{what}({key}=...)", value, kinds()[key], "None") for key, value in given}
        for key, value in settings.items():
            if isinstance(value, float) and value and not SIZES[0] <= abs(value) <= SIZES[1]:
                raise ValueError(
                    f"{what}({key}=...) is too far from 1 for single precision, {value:g}: give a size from "
                    f"{SIZES[0]:g} to {SIZES[1]:g}"
                )
        return make(owner, **settings)  # type: ignore[call-arg]

    return checked


def _checked(subject: str, value: Any, kind: Any, none: str = "null") -> Any:
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    value = plain_value(value)
    if int in kinds and float not in kinds:
        value = _whole(value)
    if isinstance(value, float) and value == math.inf and Literal["inf"] in kinds:
        return "inf"
    if not any(_is_of(value, one) for one in kinds):
        expected = " or ".join(none if one is type(None) else _word(one) for one in kinds)
        raise ValueError(f"{subject} takes {expected}, not {_shown(value)}")
    is_large = isinstance(value, int) and not isinstance(value, bool) and abs(value) > _EXACT
    return float(value) if is_large and float in kinds else value


def _is_of(value: Any, kind: Any) -> bool:
    parts = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return isinstance(value, str) and value in parts
    if typing.get_origin(kind) not in (tuple, None):
        return isinstance(value, typing.get_origin(kind))
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
    if typing.get_origin(kind) is Literal:
        return " or ".join(repr(part) for part in parts)
    if typing.get_origin(kind) is tuple:
        return f"a list of {len(parts)} {_WORDS[parts[0]].removeprefix('a ')}s"
    return _WORDS.get(kind, f"a {(typing.get_origin(kind) or kind).__name__}")


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _EXACT:
        return f"one of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
