"""A file that a command writes: it is there when it is complete, or not at all, and never in another one's place."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["check_new_file", "new_file"]


def check_new_file(path: str | Path, option: str) -> None:
    """Refuses, before any work is done, a file that exists or cannot be made.

    Args:
        path: The file that is to be written; its folder must be there.
        option: The option that names it, for the message.

    Raises:
        ValueError: If it exists, or a file cannot be made there.
    """
    path = Path(path)
    try:
        if os.path.lexists(path):
            raise ValueError(f"{path} exists already: choose another file for {option}, or remove it")
        if not path.parent.is_dir():
            raise ValueError(f"there is no folder {path.parent} for {path.name}: make it, or choose another {option}")
        os.rmdir(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as problem:
        raise ValueError(
            f"{path} cannot be written ({problem.strerror}): choose a file for {option} where you may write"
        ) from problem


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """A file to write: it comes to its place when the block ends well, and is gone when it does not.

    Args:
        path: The file to be.

    Yields:
        A file of the same name, not there yet, in a folder of its own beside `path`.

    Raises:
        ValueError: If `path` exists already.
        OSError: If something cannot be written.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        staged = Path(folder) / path.name
        yield staged
        if os.path.lexists(path):
            raise ValueError(f"{path} exists already: choose another file, or remove it")
        os.rename(staged, path)
