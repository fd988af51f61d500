"""Staging folders: what is being written stands in a hidden folder beside its place, which says whose it is.

    .RUN-k3x0a1b2/owner.json     the process that writes (`this_process`)
    .RUN-k3x0a1b2/RUN            what is being written, under its own name
    .RUN-k3x0a1b2/previous       what stood in the place before, while it is being replaced

A process that is killed leaves its staging folder behind. The next call that writes or looks for the same place
removes it; where the process was killed between the two renames of a replacement, it does the second one.
Hidden folders without owner.json are nobody's business and stay.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bayesprune.models.files.processes import is_running, this_process

__all__ = ["PREVIOUS", "clear_leftovers", "staging_folder"]

OWNER_FILE, PREVIOUS = "owner.json", "previous"


@contextlib.contextmanager
def staging_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside a place, gone when the block ends; leftovers of dead processes are removed first.

    Args:
        path: The place, absolute; its folder exists.

    Yields:
        The folder; what is written into it under ``path.name`` has the permissions of the user's own files.

    Raises:
        OSError: If it cannot be made.
    """
    clear_leftovers(path)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        (folder / OWNER_FILE).write_text(json.dumps(this_process()), encoding="utf-8")
        yield folder
    finally:
        if os.path.lexists(path) or not (folder / PREVIOUS).exists():  # else what stood there has no other place
            shutil.rmtree(folder, ignore_errors=True)


def clear_leftovers(path: Path) -> None:
    """Removes what dead processes have left beside a place, and ends a replacement that one of them had begun.

    What cannot be removed stays; it is in nobody's way.

    Args:
        path: The place, absolute.
    """
    beside = path.parent.glob(f".{_escaped(path.name)}-*") if path.parent.is_dir() else ()
    for folder in sorted(beside):
        if not _is_dead(folder):
            continue
        if (folder / PREVIOUS).exists() and not os.path.lexists(path):
            complete = folder / path.name  # the old one is put aside only when the new one is complete
            with contextlib.suppress(OSError):
                os.rename(complete if complete.exists() else folder / PREVIOUS, path)
        shutil.rmtree(folder, ignore_errors=True)


def _is_dead(folder: Path) -> bool:
    """Whether it is a staging folder whose process is gone from this machine."""
    try:
        owner = json.loads((folder / OWNER_FILE).read_text(encoding="utf-8"))
        return is_running(owner) is False
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def _escaped(name: str) -> str:
    """A name as a pattern of glob."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)
