"""Staging folders: what is being written stands in a hidden folder beside its place, which says whose it is.

    .RUN-k3x0a1b2/owner.json     the process that writes (`this_process`), and the place
    .RUN-k3x0a1b2/RUN            what is being written, under its own name
    .RUN-k3x0a1b2/previous       what stood in the place before, while it is being replaced

A process that is killed leaves its staging folder behind. The next call that writes or looks for the same place
removes it; where the process was killed between the two renames of a replacement, it does the second one.
Hidden folders of other content are nobody's business and stay.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bayesprune.models.files.processes import is_running, this_process
from bayesprune.models.files.unwritable import Unwritable, naming

__all__ = ["OWNER_FILE", "PREVIOUS", "clear_leftovers", "put_in_place", "staging_folder"]

OWNER_FILE, PREVIOUS = "owner.json", "previous"
_UNOWNED_SECONDS = 60.0
"""An empty staging folder that is older was left by a process that was killed before it could write its name."""


@contextlib.contextmanager
def staging_folder(path: Path, finish: Callable[[Path, Path], None] | None = None) -> Iterator[Path]:
    """A hidden folder beside a place, gone when the block ends; leftovers of dead processes are removed first.

    Args:
        path: The place, absolute; its folder exists.
        finish: What ends a replacement that a dead process has begun; default `put_in_place`.

    Yields:
        The folder; what is written into it under ``path.name`` has the permissions of the user's own files.

    Raises:
        Unwritable: If it cannot be made, or something cannot be written inside; it names the place.
    """
    clear_leftovers(path, finish)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as problem:
        raise Unwritable(path, problem) from problem
    try:
        with naming(path, folder):
            owner = {**this_process(), "place": path.name}
            (folder / OWNER_FILE).write_text(json.dumps(owner), encoding="utf-8")
            yield folder
    finally:
        if not _is_between(folder, path):  # else what stood there has no other place
            _remove(folder)


def clear_leftovers(path: Path, finish: Callable[[Path, Path], None] | None = None) -> None:
    """Removes what dead processes have left beside a place, and ends a replacement that one of them had begun.

    What cannot be removed stays; it is in nobody's way.

    Args:
        path: The place, absolute.
        finish: What ends a replacement, given the staging folder and the place; default `put_in_place`.
    """
    with contextlib.suppress(OSError):
        for folder in sorted(path.parent.glob(f".{_escaped(path.name)}-*")):
            if _is_dead(folder, path):
                with contextlib.suppress(OSError):
                    (finish or put_in_place)(folder, path)
                    _remove(folder)


def put_in_place(folder: Path, path: Path) -> None:
    """Does the second rename of a replacement where the first one was done.

    The old one is put aside only when the new one is complete. Where the new one is not in the staging folder any
    more, both renames were done; if its place is empty, somebody has removed it since.

    Raises:
        OSError: If it cannot be renamed.
    """
    if _is_between(folder, path):
        os.rename(folder / path.name, path)


def _is_between(folder: Path, path: Path) -> bool:
    return (folder / PREVIOUS).exists() and (folder / path.name).exists() and not os.path.lexists(path)


def _remove(folder: Path) -> None:
    """Removes a staging folder; last its owner, so that what another kill leaves of it is known as well."""
    with contextlib.suppress(OSError):
        for inner in folder.iterdir():
            if inner.is_dir() and not inner.is_symlink():
                shutil.rmtree(inner, ignore_errors=True)
            elif inner.name != OWNER_FILE:
                inner.unlink()
        if [inner.name for inner in folder.iterdir()] == [OWNER_FILE]:
            (folder / OWNER_FILE).unlink()
        folder.rmdir()


def _is_dead(folder: Path, path: Path) -> bool:
    """Whether it is a staging folder of this place whose process is gone from this machine."""
    try:
        text = (folder / OWNER_FILE).read_text(encoding="utf-8") if (folder / OWNER_FILE).exists() else ""
        if not text:
            suffix = folder.name.removeprefix(f".{path.name}-")  # .a-b-k3x0a1b2 is of a-b, not of a
            made_so = len(suffix) == 8 and "-" not in suffix
            others = [inner.name for inner in folder.iterdir() if inner.name != OWNER_FILE]
            return made_so and not others and time.time() - folder.stat().st_mtime > _UNOWNED_SECONDS
        owner = json.loads(text)
        return owner["place"] == path.name and is_running(owner) is False
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def _escaped(name: str) -> str:
    """A name as a pattern of glob."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)
