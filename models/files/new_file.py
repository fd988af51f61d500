"""Files that are there when they are complete, or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bayesprune.models.files.flushing import flush
from bayesprune.models.files.places import expanded
from bayesprune.models.files.staging import clear_leftovers, staging_folder
from bayesprune.models.files.unwritable import naming

__all__ = ["check_new_file", "new_file", "replaced_file", "written_over"]


def check_new_file(path: str | Path, option: str) -> None:
    """Refuses, before any work is done, a file that exists or cannot be made.

    Args:
        path: The file that is to be written; its folder must be there.
        option: The option that names it, for the message.

    Raises:
        ValueError: If it exists, or a file cannot be made there.
    """
    path = expanded(path)
    try:
        clear_leftovers(path.absolute())
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
        A file of the same name, not there yet, in a folder of its own beside `path`; absolute.

    Raises:
        ValueError: If `path` exists already.
        Unwritable: If something cannot be written; it names the file.
    """
    path = expanded(path).absolute()
    with staging_folder(path) as staging:
        staged = staging / path.name
        yield staged
        flush(staged)
        if os.path.lexists(path):
            raise ValueError(f"{path} exists already: choose another file, or remove it")
        os.rename(staged, path)
        flush(path.parent)


@contextlib.contextmanager
def written_over(path: str | Path, is_ours: Callable[[Path], bool], what: str) -> Iterator[Path]:
    """A file to write that takes the place of an earlier one of its kind in one go.

    Args:
        path: The file; its folder exists.
        is_ours: Whether a file is of the kind that may be replaced; one that is empty always is.
        what: What the kind is called, for the message: ``"an ONNX file"``.

    Yields:
        As `new_file`.

    Raises:
        ValueError: If something else stands in the place.
        Unwritable: If something cannot be written; it names the file.
    """
    path = expanded(path).absolute()
    _refuse_other(path, is_ours, what)
    with staging_folder(path) as staging:
        staged = staging / path.name
        yield staged
        flush(staged)
        _refuse_other(path, is_ours, what)
        os.replace(staged, path)
        flush(path.parent)


def _refuse_other(path: Path, is_ours: Callable[[Path], bool], what: str) -> None:
    if not os.path.lexists(path):
        return
    if path.is_symlink():
        leads = f"to {os.readlink(path)}" if path.exists() else "that leads nowhere"
        raise ValueError(f"{path} is a link {leads}, so it is not replaced: name the file itself, or choose another")
    if not path.is_file() or (path.stat().st_size and not is_ours(path)):
        raise ValueError(f"{path} exists already and is not {what}, so it is not replaced: choose another file")


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A file of a folder of ours to write: it takes the place of the earlier one in one go.

    Cheaper than `new_file`, for files that are written again and again. A process that is killed leaves a file
    ``.NAME-...`` in the folder, which whoever owns the folder removes.

    Args:
        path: The file; its folder exists.

    Yields:
        The file to write, beside it.

    Raises:
        Unwritable: If it cannot be written; nothing is left of it then.
    """
    staged = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with naming(path, staged):
            yield staged
            flush(staged)
            os.replace(staged, path)
    except BaseException:
        with contextlib.suppress(OSError):
            staged.unlink()
        raise
