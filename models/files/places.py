"""Paths as a user gives them: `~` is expanded once, at the door, so that every library means the same place."""

from __future__ import annotations

from pathlib import Path

__all__ = ["expanded"]


def expanded(path: str | Path) -> Path:
    """The path with a leading `~` or `~name` expanded; relative paths stay relative.

    A path that is passed on to a library is made absolute as well: some libraries expand `~` where it stands at the
    front of a relative path, and others do not.

    Raises:
        ValueError: If there is no such user, or the text is no path.
    """
    try:
        found = Path(path).expanduser()
    except RuntimeError as problem:  # ~nobody
        raise ValueError(f"{path} names the home of a user who is not here: write the folder out") from problem
    if "\0" in str(found):
        raise ValueError(f"{str(found)!r} is no path, it holds a zero byte: write another one")
    return found
