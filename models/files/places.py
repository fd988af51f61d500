"""Paths as a user gives them: `~` is expanded once, at the door, so that every library means the same place."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["expanded", "refuse_here"]


def expanded(path: str | Path) -> Path:
    """The path with a leading `~` or `~name` expanded; relative paths stay relative.

    As in shells, `./~x` is a file of that name, and so is `~x` where there is no user x (a `Path` does not keep the
    `./` that it was made of); it comes back as an absolute path, so that nothing expands it again. A path that is
    passed on to a library has to be made absolute as well: some expand `~` at the front of it, and others do not.

    Raises:
        ValueError: If the text is no path.
    """
    found = Path(os.path.expanduser(path))
    if "\0" in str(found):
        raise ValueError(f"{str(found)!r} is no path, it holds a zero byte: write another one")
    return found.absolute() if str(found).startswith("~") else found


def refuse_here(path: str | Path) -> None:
    """Refuses to replace the current folder or one above it.

    Raises:
        ValueError: If the path leads there, or has no name of its own (`..`, `/`, nothing).
    """
    resolved, here = Path(os.path.realpath(expanded(path))), Path(os.path.realpath("."))
    if not str(path) or Path(path).name in ("", "..") or resolved == here or resolved in here.parents:
        raise ValueError(
            f"{str(path)!r} is the current folder, one above it, or no name, so it is not replaced: choose a folder of "
            "another name"
        )
