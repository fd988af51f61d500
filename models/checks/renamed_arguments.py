"""Arguments that have a new name: the old one is taken for one release, with a warning, and understood in old files."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

__all__ = ["RENAMED", "by_new_names", "old_name", "takes_old_names", "warn_of_old_name"]

RENAMED = {"path": "execution"}
"""Old name -> new name. "path" also means a regularisation path and a place on the disk."""

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")


def by_new_names(given: Mapping[str, Any]) -> dict[str, Any]:
    """What an earlier version has written, in its order, with the old names of arguments replaced by the new ones."""
    return {name if (new := RENAMED.get(name)) is None or new in given else new: v for name, v in given.items()}


def takes_old_names(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """Decorates a function so that it takes its renamed arguments by their old names too, with a `FutureWarning`.

    Raises:
        ValueError: In a call, if an argument is given by both names.
    """
    owner = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def called(*args: _Given.args, **kwargs: _Given.kwargs) -> _Result:
        for old in RENAMED.keys() & kwargs.keys():
            new = RENAMED[old]
            if new in kwargs:
                raise ValueError(f"{owner} takes {new}=, which was called {old}=, once: leave {old}= out")
            warn_of_old_name(f"{old}= of {owner}", f"{new}={kwargs[old]!r}", stacklevel=3)
            kwargs[new] = kwargs.pop(old)
        return function(*args, **kwargs)

    return called


def old_name(old: str, instead: str) -> str:
    """The sentence on a name that goes with the next release.

    Args:
        old: What was given.
        instead: What to type.
    """
    return f"{old} has a new name, and the old one goes with the next release: write {instead}"


def warn_of_old_name(old: str, instead: str, stacklevel: int = 2) -> None:
    """Warns of a name that goes with the next release.

    Args:
        old: What was given.
        instead: What to type.
        stacklevel: Of `warnings.warn`, seen from the caller of this function; default 2: who called that one.
    """
    warnings.warn(old_name(old, instead), FutureWarning, stacklevel=stacklevel)
