"""What cannot be written, in a sentence that names the place: the system itself does not say whose disk is full."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Unwritable", "naming", "permitted"]

_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


class Unwritable(OSError):
    """A place that cannot be written to; `str()` is a sentence.

    Args:
        path: The place, as a user knows it.
        problem: What the system said.

    Attributes:
        is_full: Whether the disk, or the user's share of it, is full.
    """

    def __init__(self, path: str | Path, problem: OSError) -> None:
        super().__init__(problem.errno, problem.strerror or str(problem), str(path))
        self.is_full = problem.errno in _FULL

    def __str__(self) -> str:
        advice = "make room there and try again" if self.is_full else "choose a place that you may write to"
        return f"{self.filename} cannot be written ({self.strerror}): {advice}"


@contextlib.contextmanager
def naming(path: Path, staging: Path | None = None) -> Iterator[None]:
    """Errors of what is written inside name a place: those that name no file, or one below the staging folder.

    Args:
        path: The place.
        staging: The staging folder or file; default None: there is none.

    Raises:
        Unwritable: In place of such an error.
    """
    try:
        yield
    except OSError as problem:
        ours = {os.path.realpath(one) for one in (path, staging) if one is not None}
        given = [one for one in (problem.filename, problem.filename2) if isinstance(one, (str, bytes, os.PathLike))]
        named = [Path(os.path.realpath(os.fsdecode(one))) for one in given]  # copying names two of them
        if not named or any(str(one) in ours for file in named for one in (file, *file.parents)):
            raise Unwritable(path, problem) from problem
        raise


@contextlib.contextmanager
def permitted() -> Iterator[None]:
    """A place that the user may not write to is a ValueError inside; a full disk is none of theirs.

    Raises:
        ValueError: In place of an `Unwritable` that is not of a full disk.
    """
    try:
        yield
    except Unwritable as problem:
        if problem.is_full:
            raise
        raise ValueError(str(problem)) from problem
