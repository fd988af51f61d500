"""Several files of a folder that take the place of earlier ones together, whatever else the folder holds.

    FOLDER/.NETWORK-k3x0a1b2/new           the files, while they are being written
    FOLDER/.NETWORK-k3x0a1b2/together      the same, complete: from now on they come, also after a kill
    FOLDER/.NETWORK-k3x0a1b2/removed       empty files, named as those that go without a new one
    FOLDER/.NETWORK-k3x0a1b2/old           the earlier ones

One file is the key, without which the others say nothing. It goes first and comes last, so that a process that is
killed in between leaves no mixture that could be used; the next call for the same folder puts the rest in its place.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from bayesprune.models.files.flushing import flush, flush_folder
from bayesprune.models.files.staging import staging_folder

__all__ = ["replaced_files"]

_NEW, _TOGETHER, _REMOVED, _OLD = "new", "together", "removed", "old"


@contextlib.contextmanager
def replaced_files(folder: Path, key: str) -> Iterator[tuple[Path, list[str]]]:
    """Files to write into an existing folder; those of the same names go, all of them or none.

    Whether these may go is the caller's to see, inside the block.

    Args:
        folder: The folder.
        key: Name of the file that goes first and comes last.

    Yields:
        A folder to write the files into, and a list for the names of files that go without a new one.

    Raises:
        Unwritable: If something cannot be written or replaced; the earlier files are as they were then.
    """
    path = Path(os.path.realpath(folder)) / key
    with staging_folder(path, _put_rest) as staging:
        new, removed = staging / _NEW, staging / _REMOVED
        new.mkdir()
        names: list[str] = []
        yield new, names
        removed.mkdir()
        for name in names:
            (removed / name).touch()
        flush_folder(staging)
        os.rename(new, staging / _TOGETHER)
        flush(staging)
        try:
            _put_together(staging, path)
        except BaseException:
            os.rename(staging / _TOGETHER, new)  # they do not come after all
            raise
        flush(path.parent)


def _put_rest(staging: Path, path: Path) -> None:
    """Ends the replacement of a dead process, unless somebody has made a file of one of the names since."""
    new = staging / _TOGETHER
    if not new.is_dir():
        return
    staged = max((file.stat().st_mtime_ns for file in new.iterdir()), default=0)
    for name in {file.name for part in (_TOGETHER, _REMOVED) for file in (staging / part).iterdir()}:
        standing = path.parent / name
        if standing.exists() and standing.stat().st_mtime_ns > staged:
            raise FileExistsError(17, "it was made after a replacement was broken off", str(standing))
    _put_together(staging, path)


def _put_together(staging: Path, path: Path) -> None:
    """Puts the files in their places, or the rest of them; if that fails, all are as they were before the call."""
    new, old, folder = staging / _TOGETHER, staging / _OLD, path.parent
    if not new.is_dir():
        return
    coming = sorted((file.name for file in new.iterdir()), key=lambda name: name == path.name)
    going = {*coming, *(file.name for file in (staging / _REMOVED).iterdir())}
    done: list[tuple[Path, Path]] = []
    try:
        old.mkdir(exist_ok=True)
        for name in sorted(going, key=lambda name: name != path.name):
            if os.path.lexists(folder / name):
                if os.path.lexists(old / name):
                    raise FileExistsError(17, "it was made while a replacement was broken off", str(folder / name))
                done.append((folder / name, old / name))
                os.rename(*done[-1])
        for name in coming:
            done.append((new / name, folder / name))
            os.rename(*done[-1])
    except BaseException:
        for source, target in reversed(done):
            if not os.path.lexists(source):  # the last one may not have been done
                os.rename(target, source)
        raise
