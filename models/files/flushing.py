"""Flushing to disk: what is renamed into its place has to be there after a power cut, too."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

__all__ = ["flush", "flush_folder"]


def flush(path: Path) -> None:
    """Flushes a file, or the entries of a folder, to disk.

    Raises:
        OSError: If the disk is full or broken.
    """
    if path.is_dir() and os.name != "posix":
        return  # folders cannot be opened there
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_folder(folder: Path) -> None:
    """Flushes all files below a folder, and the folder.

    Raises:
        OSError: If the disk is full or broken.
    """
    for above, _, names in os.walk(folder, topdown=False):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                flush(Path(above, name))
        flush(Path(above))
