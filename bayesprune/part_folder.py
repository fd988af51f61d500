"""RUN.part: all that is known of a run until it is complete, in a folder beside the place of RUN.

    RUN.part/command.json    what the fit was asked for: the same command goes on, another one is refused
    RUN.part/state           the state of training (`fit(checkpoint=)`)
    RUN.part/trace.nc, progress.json    the trace so far, and whose process writes it (`WriteTrace`)
    RUN.part/run             the run folder while it is written: first the fit, then what is scored and drawn
    RUN.part/complete        that it was complete before it was moved to RUN
    RUN.part/lock            held by the process that fits

It is removed when RUN is complete, or when a fit ends before it has left anything to go on with.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayesprune.inference.checkpoint import KeptState, kept_state
from bayesprune.inference.trace_file import PROGRESS_FILE, TRACE_FILE, RunningFit, WriteTrace, read_progress
from bayesprune.models.files.flushing import flush, flush_folder
from bayesprune.models.files.json_file import read_json, write_json
from bayesprune.models.files.new_folder import check_new_folder
from bayesprune.models.files.places import expanded
from bayesprune.models.files.processes import this_process
from bayesprune.models.files.unwritable import Unwritable, naming, permitted

try:
    import fcntl
except ImportError:  # not on Windows, where two fits that begin in the same moment are not told apart
    fcntl = None  # type: ignore[assignment]

__all__ = ["Part", "find_part", "part_folder", "what_is_kept", "writing_part"]

COMMAND_FILE, STATE_FOLDER, RUN_FOLDER, COMPLETE_FILE, LOCK_FILE = "command.json", "state", "run", "complete", "lock"
_OURS = {
    COMMAND_FILE, STATE_FOLDER, RUN_FOLDER, COMPLETE_FILE, LOCK_FILE, PROGRESS_FILE, TRACE_FILE, "plots",
}  # fmt: skip
_FIRST = "fit.json"
"""What a run folder has as soon as its fit is written."""
_REMEDY = "begin anew by --fresh, or choose another folder for --out"
_OPTIONS = {"prior_settings": "--set"}
"""Options whose names are not those of what they give."""


@dataclass(frozen=True)
class Part:
    """RUN.part of a fit that this process runs.

    Attributes:
        run: The run folder to be, absolute.
        folder: RUN.part, absolute.
        watcher: The callback that writes the trace so far.
    """

    run: Path
    folder: Path
    watcher: WriteTrace

    @property
    def state(self) -> Path:
        """The folder of the state of training."""
        return self.folder / STATE_FOLDER

    @contextlib.contextmanager
    def filled(self) -> Iterator[Path]:
        """The run folder to fill: it becomes RUN when the block ends well, and stays in RUN.part when it does not.

        Yields:
            The folder, empty.

        Raises:
            Unwritable: If something cannot be written.
            ValueError: If something else stands in the place of RUN by now.
        """
        inner = self.folder / RUN_FOLDER
        with naming(inner, self.folder):
            inner.mkdir()
            yield inner
            flush_folder(inner)
            (self.folder / COMPLETE_FILE).touch()
            check_new_folder(self.run, "run folder")
            os.rename(inner, self.run)
            flush(self.run.parent)


def part_folder(run: str | Path) -> Path:
    """The folder beside a run's place that is there until the run is complete."""
    run = expanded(run)
    return run.with_name(f"{run.name}.part")


def find_part(run: str | Path) -> Path | None:
    """The folder of a fit in progress that `run` means: itself, or the one beside its place; None if there is none."""
    run = expanded(run)
    folder = run if os.path.lexists(run) else part_folder(run)
    return folder if (folder / PROGRESS_FILE).is_file() else None


def what_is_kept(folder: Path) -> KeptState | None:
    """How far the fit had got whose RUN.part this is, if it can be gone on with; None if it cannot."""
    return kept_state(folder / STATE_FOLDER)


@contextlib.contextmanager
def writing_part(run: str | Path, asked: Mapping[str, Any], fresh: bool = False) -> Iterator[Part]:
    """RUN.part for as long as the block runs; then it is removed, unless something in it can be gone on with.

    The state of training stays that an earlier fit has left there which was asked for the same. An exception that ends
    the block gets a note that says what is left.

    Args:
        run: The run folder to be.
        asked: All that was asked for, by option; JSON must hold it.
        fresh: Whether what an earlier fit has left is removed first; default False.

    Yields:
        What the fit is to use.

    Raises:
        ValueError: If a fit is running there, an earlier one was asked for something else, something else stands in the
            place of RUN or RUN.part, or they may not be made.
        Unwritable: If the disk is full.
    """
    place = expanded(run)
    if not place.name:
        raise ValueError(f"{run} is no place for a run folder: choose another folder for --out")
    folder = part_folder(place)
    _remove_complete(place, folder)
    check_new_folder(place, "run folder")
    made = [above for above in folder.absolute().parents if not above.exists()]
    try:
        with contextlib.ExitStack() as stack:
            try:
                _check_kind(folder)
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(_claimed(folder, place))
                _take_up(folder, place, asked, fresh)
                write_json(folder / COMMAND_FILE, {"asked": asked})
                part = Part(place.absolute(), folder.absolute(), WriteTrace(folder, asked))
            except OSError as problem:
                if not _can_be_gone_on_with(folder):
                    shutil.rmtree(folder, ignore_errors=True)
                with permitted():
                    raise Unwritable(folder, problem) from problem
            try:
                yield part
            except BaseException as problem:
                problem.__notes__ = [_what_is_left(folder)]  # in place of what the checkpoint says of itself
                raise
            finally:
                if (part.run / _FIRST).is_file() or not _can_be_gone_on_with(folder):
                    shutil.rmtree(folder, ignore_errors=True)
    finally:
        with contextlib.suppress(OSError):  # one that is not empty stays, with those above it
            for above in made:
                above.rmdir()


def _check_kind(folder: Path) -> None:
    """Refuses what is no RUN.part."""
    if not os.path.lexists(folder):
        return
    names = set(os.listdir(folder)) if folder.is_dir() and not folder.is_symlink() else {""}
    foreign = {name for name in names - _OURS if not name.startswith((f".{PROGRESS_FILE}-", f".{TRACE_FILE}-", ".c"))}
    if foreign or (names - {LOCK_FILE} and not names & {COMMAND_FILE, PROGRESS_FILE}):
        raise ValueError(f"{folder} is in the way, and is not what a fit has left: remove it, or choose another --out")


@contextlib.contextmanager
def _claimed(folder: Path, run: Path) -> Iterator[None]:
    """Holds RUN.part for this process: of two fits that begin in the same moment only one gets it."""
    handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as problem:
                raise _in_use(run, _progress(folder)) from problem
        yield
    finally:
        os.close(handle)


def _take_up(folder: Path, run: Path, asked: Mapping[str, Any], fresh: bool) -> None:
    """Leaves what can be gone on with, and nothing else; refuses to go on with another fit's."""
    progress = _progress(folder)
    mine = this_process()
    own = progress is not None and (progress.process, progress.host) == (mine["process"], mine["host"])
    if progress is not None and progress.alive and not own:  # of this process the lock tells
        raise _in_use(run, progress)
    for name in (RUN_FOLDER, COMPLETE_FILE):
        _remove(folder / name)
    if fresh or what_is_kept(folder) is None:
        for name in _OURS - {LOCK_FILE}:
            _remove(folder / name)
        return
    before = read_json(folder / COMMAND_FILE, _REMEDY, {"asked": dict})["asked"]
    for name in {**before, **asked}:
        if before.get(name) != asked.get(name):
            option = _OPTIONS.get(name, f"--{name.replace('_', '-')}")
            raise ValueError(
                f"{folder} keeps a fit that was interrupted, with {option} {_told(before.get(name))}, but now it is "
                f"{_told(asked.get(name))}: give the options of then to go on, or {_REMEDY}"
            )


def _remove_complete(run: Path, folder: Path) -> None:
    """Removes what a process has left that was killed after it had moved the complete run to its place."""
    if (run / _FIRST).is_file() and (folder / COMPLETE_FILE).is_file() and not (folder / RUN_FOLDER).exists():
        shutil.rmtree(folder, ignore_errors=True)


def _can_be_gone_on_with(folder: Path) -> bool:
    return (folder / RUN_FOLDER / _FIRST).is_file() or what_is_kept(folder) is not None


def _what_is_left(folder: Path) -> str:
    """What an interrupted fit has left, and what to do with it."""
    if (folder / RUN_FOLDER / _FIRST).is_file():
        return f"the fit itself is in {folder / RUN_FOLDER}; the same command makes the run folder of it"
    kept = what_is_kept(folder)
    if kept is None:
        return "nothing was written"
    of_restart = f" of restart {kept.restart + 1}" if kept.restart else ""
    return (
        f"{folder} keeps the state after epoch {kept.epoch}{of_restart}: the same command goes on there, and --fresh "
        "begins anew"
    )


def _progress(folder: Path) -> RunningFit | None:
    try:
        return read_progress(folder)
    except ValueError:  # there is none, or it is damaged: it holds nobody back
        return None


def _in_use(run: Path, progress: RunningFit | None) -> ValueError:
    who = "" if progress is None else f" (process {progress.process} on {progress.host})"
    return ValueError(f"another fit is being written to {run}{who}: choose another folder for --out, or stop that fit")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _told(value: Any) -> str:
    return "not given" if value is None else str(value)
