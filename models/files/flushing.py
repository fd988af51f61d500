"""Flushing to disk: what is renamed into its place has to be there after a power cut, too."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

__all__ = ["flush", "flush_folder"]


_NO_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
"""What file systems that flush nothing answer, some of those in user space among them."""
_NO_FOLDERS = (*_NO_FLUSH, errno.EBADF, errno.EACCES)
"""What file systems that cannot flush the entries of a folder answer, or folders that cannot be read."""


def flush(path: Path) -> None:
    """Flushes a file, or the entries of a folder where the file system can do that, to disk.

    Raises:
        OSError: If the disk is full or broken.
    """
    is_folder = path.is_dir()
    if is_folder and os.name != "posix":
        return  # folders cannot be opened there
    try:
        handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as problem:
        if problem.errno not in (_NO_FOLDERS if is_folder else _NO_FLUSH):
            raise


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
