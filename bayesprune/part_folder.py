"""RUN.part: the trace of a run while it is being fitted, in a folder beside the place of RUN."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bayesprune.inference.trace_file import PROGRESS_FILE, WriteTrace, read_progress

__all__ = ["find_part", "part_folder", "writing_part"]


def part_folder(run: str | Path) -> Path:
    """The folder beside a run's place that is there while the run is being fitted."""
    run = Path(run)
    return run.with_name(f"{run.name}.part")


def find_part(run: str | Path) -> Path | None:
    """The folder of a fit in progress that `run` means: itself, or the one beside its place; None if there is none."""
    folder = Path(run) if os.path.lexists(run) else part_folder(run)
    return folder if (folder / PROGRESS_FILE).is_file() else None


@contextlib.contextmanager
def writing_part(run: str | Path, asked: Mapping[str, Any]) -> Iterator[WriteTrace]:
    """RUN.part and the callback that writes to it, for as long as the block runs; then it is removed.

    What a killed fit has left there is replaced.

    Args:
        run: The run folder to be.
        asked: What the fit was asked for.

    Yields:
        The callback.

    Raises:
        ValueError: If another fit is writing there, the folder is something else, or it cannot be made.
    """
    folder = part_folder(run)
    made = [above for above in folder.absolute().parents if not above.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(folder):
            _remove_stale(folder, Path(run))
        folder.mkdir()
    except OSError as problem:
        raise ValueError(
            f"the folder {folder} cannot be made ({problem.strerror}): choose another folder for --out"
        ) from problem
    try:
        yield WriteTrace(folder, asked)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # one that is not empty stays, with those above it
            for above in made:
                above.rmdir()


def _remove_stale(folder: Path, run: Path) -> None:
    """Removes what a killed fit has left; by a rename first, so that of two fits only one can do it."""
    try:
        progress = read_progress(folder)
    except ValueError as problem:
        raise ValueError(
            f"{folder} is in the way, and is not the trace of a fit: remove it, or choose another --out"
        ) from problem
    if progress.alive:
        raise ValueError(
            f"another fit is being written to {run} (process {progress.process} on {progress.host}): choose another "
            "folder for --out, or stop that fit"
        )
    outer = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        os.rename(folder, outer / folder.name)
    finally:
        shutil.rmtree(outer, ignore_errors=True)
