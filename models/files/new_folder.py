"""Folders that are written whole or not at all, and that never replace what is not of their kind."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bayesprune.models.files.flushing import flush, flush_folder
from bayesprune.models.files.places import expanded, refuse_here
from bayesprune.models.files.staging import PREVIOUS, clear_leftovers, staging_folder
from bayesprune.models.files.unwritable import Unwritable

__all__ = ["check_new_folder", "folders_above", "new_folder", "replaced_folder"]


def check_new_folder(path: str | Path, what: str = "folder", option: str = "--out") -> None:
    """Refuses, before any work is done, a folder that exists or cannot be made.

    Args:
        path: The folder that is to be written; it may lie in folders that do not exist yet.
        what: What to call it in the message.
        option: The option that names it, for the message.

    Raises:
        ValueError: If it exists, or a folder cannot be made there.
    """
    path = expanded(path)
    try:
        clear_leftovers(path.absolute())
        if os.path.lexists(path):
            raise ValueError(f"{path} {_standing(path)}: choose another folder for {option}, or remove it")
        above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
        os.rmdir(tempfile.mkdtemp(prefix=f".{path.name}-", dir=above))
    except OSError as problem:
        raise ValueError(
            f"the {what} {path} cannot be written ({problem.strerror}): choose a folder you may write to"
        ) from problem


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill: it gets its name when the block ends well, and is gone when it does not.

    Args:
        path: The folder to be; those above it are made.

    Yields:
        A folder beside it, absolute, that bears another name while it is being filled.

    Raises:
        ValueError: If `path` exists already.
        Unwritable: If something cannot be written; it names the folder.
    """
    path = expanded(path).absolute()
    with folders_above(path):
        clear_leftovers(path)
        _refuse_standing(path)
        with staging_folder(path) as staging:
            inner = staging / path.name
            inner.mkdir()
            yield inner
            flush_folder(inner)
            _refuse_standing(path)  # somebody else's may have come in the meantime
            os.rename(inner, path)
            flush(path.parent)


@contextlib.contextmanager
def replaced_folder(path: str | Path, is_ours: Callable[[Path], bool], what: str) -> Iterator[Path]:
    """A folder to fill that takes the place of an earlier one of its kind; if the block fails, the earlier one stays.

    The old folder is put aside, the new one put in its place, and then the old one is removed: one of the two is
    there at any time, or is put back by the next call (see staging.py).

    Args:
        path: The folder; it may not exist yet.
        is_ours: Whether a folder is of the kind that may be replaced; one that is empty always is.
        what: What the kind is called, for the message: ``"a saved fit"``.

    Yields:
        As `new_folder`.

    Raises:
        ValueError: If something else stands in the place, or it is the current folder or one above it.
        Unwritable: If something cannot be written; it names the folder.
    """
    refuse_here(path)
    path = expanded(path).absolute()
    with folders_above(path):
        clear_leftovers(path)
        _refuse_other(path, is_ours, what)
        with staging_folder(path) as staging:
            inner = staging / path.name
            inner.mkdir()
            yield inner
            flush_folder(inner)
            _refuse_other(path, is_ours, what)
            previous = staging / PREVIOUS
            try:
                if os.path.lexists(path):
                    os.rename(path, previous)
                os.rename(inner, path)
            except BaseException:
                if previous.exists() and not os.path.lexists(path):
                    os.rename(previous, path)
                raise
            flush(path.parent)


@contextlib.contextmanager
def folders_above(path: Path) -> Iterator[None]:
    """Makes the folders above a place; those that were made and are empty in the end are removed again.

    Args:
        path: The place, absolute.

    Raises:
        Unwritable: If they cannot be made.
    """
    made = [folder for folder in path.parents if not os.path.lexists(folder)]
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise Unwritable(path, problem) from problem
        yield
    finally:
        with contextlib.suppress(OSError):  # one that is not empty stays, with those above it
            for folder in made:
                folder.rmdir()


def _refuse_standing(path: Path) -> None:
    if os.path.lexists(path):
        raise ValueError(f"{path} {_standing(path)}: choose another folder, or remove it")


def _refuse_other(path: Path, is_ours: Callable[[Path], bool], what: str) -> None:
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir() or (any(path.iterdir()) and not is_ours(path)):
        raise ValueError(f"{path} {_standing(path)} and is not {what}, so it is not replaced: choose another folder")


def _standing(path: Path) -> str:
    if path.is_symlink():
        leads = f"to {os.readlink(path)}" if path.exists() else "that leads nowhere"
        return f"exists already, a link {leads}"
    return "exists already"
