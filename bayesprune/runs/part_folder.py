"""RUN.part: all that is known of a run until it is complete, in a folder beside the place of RUN.

    RUN.part/command.json    what the fit was asked for: the same command goes on, another one is refused
    RUN.part/state           the state of training (`fit(checkpoint=)`)
    RUN.part/tuning          the trials of --tune (`tune(folder=)`)
    RUN.part/state-before    the state of the fit at the settings before tuning, where it is made as well
    RUN.part/trace.nc, progress.json    the trace so far, and whose process writes it (`WriteTrace`)
    RUN.part/run             the run folder while it is written: first the fit, then what is scored and drawn
    RUN.part/complete        that it was complete before it was moved to RUN
    RUN.part/lock            held by the process that fits

It is removed when RUN is complete, or when a fit ends before it has left anything to go on with.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.inference.training.checkpoint import STATE_BEFORE, CheckpointError, KeptState, kept_state
from bayesprune.inference.tuning.trials import trials_kept
from bayesprune.inference.watching.trace_file import PROGRESS_FILE, TRACE_FILE, RunningFit, WriteTrace, read_progress
from bayesprune.models.checks.renamed_arguments import by_new_names
from bayesprune.models.files.flushing import flush, flush_folder
from bayesprune.models.files.json_file import read_json, write_json
from bayesprune.models.files.new_folder import check_new_folder, folders_above
from bayesprune.models.files.places import expanded
from bayesprune.models.files.processes import this_process
from bayesprune.models.files.unwritable import naming, permitted

try:
    import fcntl
except ImportError:  # not on Windows, where two fits that begin in the same moment are not told apart
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "Part",
    "RunInUse",
    "abandon",
    "find_part",
    "joining_part",
    "note_what_is_left",
    "part_folder",
    "what_is_kept",
    "writing_part",
]

COMMAND_FILE, STATE_FOLDER, RUN_FOLDER, COMPLETE_FILE, LOCK_FILE = "command.json", "state", "run", "complete", "lock"
TUNING_FOLDER, BEFORE_FOLDER = "tuning", "state-before"
_OURS = (
    BEFORE_FOLDER, STATE_FOLDER, TUNING_FOLDER, RUN_FOLDER, TRACE_FILE, PROGRESS_FILE, "plots", COMPLETE_FILE,
    COMMAND_FILE, LOCK_FILE,
)  # fmt: skip
"""In the order in which they are removed: what tells a folder from others' goes last."""
_MARKS = {COMMAND_FILE, PROGRESS_FILE}
_FIRST = "fit.json"
"""What a run folder has as soon as its fit is written."""
_REMEDY = "begin anew by --fresh, or choose another folder for --out"
_DROPPINGS = (".nfs", ".DS_Store")
"""What network file systems and file managers leave in folders."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
"""What file systems without locks answer."""
_TRIES = 20
_OPTIONS = {"prior_settings": "--set", "network_settings": "--network-set", "network_code": "the code of --network"}
"""Options whose names are not those of what they give."""
_LATER = ("recipe", "recipe_settings", "batch_norm")
"""Options that earlier versions did not know, and fits of which are those of today without them."""


class RunInUse(ValueError):  # noqa: N818  # no error of who waits for it
    """Another process is fitting what is to be fitted."""


@dataclass
class Part:
    """RUN.part of a fit that this process runs.

    Attributes:
        run: The run folder to be, absolute.
        folder: RUN.part, absolute.
        watchers: The callback that writes the trace so far; none in further processes of the same fit.
        is_complete: Whether RUN stands in its place.
    """

    run: Path
    folder: Path
    watchers: tuple[WriteTrace, ...]
    is_complete: bool = False

    @property
    def state(self) -> Path:
        """The folder of the state of training."""
        return self.folder / STATE_FOLDER

    @property
    def state_before(self) -> Path:
        """The folder of the state of a fit at the settings before tuning."""
        return self.folder / BEFORE_FOLDER

    @property
    def tuning(self) -> Path:
        """The folder of the trials of --tune."""
        return self.folder / TUNING_FOLDER

    @contextlib.contextmanager
    def filled(self) -> Iterator[Path]:
        """The run folder to fill: it becomes RUN when the block ends well, and stays in RUN.part when it does not.

        Yields:
            The folder, empty.

        Raises:
            Unwritable: If it cannot be made or moved.
            ValueError: If something else stands in the place of RUN by now.
        """
        inner = self.folder / RUN_FOLDER
        with naming(inner, self.folder):
            inner.mkdir()
        yield inner
        with naming(inner, self.folder):
            flush_folder(inner)
            (self.folder / COMPLETE_FILE).touch()
            check_new_folder(self.run, "run folder")
            os.rename(inner, self.run)
            self.is_complete = True
        with contextlib.suppress(OSError):  # it is there
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


def abandon(run: str | Path) -> None:
    """Lets a fit on another machine, which seems to be running, be taken for one that is not: whoever calls knows.

    Args:
        run: The place of its run folder.
    """
    folder = part_folder(run)
    progress = _progress(folder)
    if progress is not None and progress.host != this_process()["host"]:
        _remove(folder / PROGRESS_FILE)


def what_is_kept(folder: Path) -> KeptState | None:
    """How far the fit had got whose RUN.part this is, if it can be gone on with; None if it cannot.

    Raises:
        CheckpointError: If its state cannot be read.
    """
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
        RunInUse: If a fit is running there.
        ValueError: If an earlier one was asked for something else, something else stands in the place of RUN or
            RUN.part, or they may not be made.
        Unwritable: If the disk is full.
    """
    place = expanded(run)
    if not place.name:
        raise ValueError(f"{run} is no place for a run folder: choose another folder for --out")
    folder = part_folder(place)
    _remove_complete(place, folder)
    check_new_folder(place, "run folder")
    with contextlib.ExitStack() as stack:
        with permitted(), naming(folder):
            stack.enter_context(folders_above(folder.absolute()))
            _check_kind(folder)
            stack.enter_context(_claimed(folder, place))
        _refuse_living(folder, place, fresh)
        try:
            with permitted(), naming(folder):
                _take_up(folder, asked, fresh)
                write_json(folder / COMMAND_FILE, {"asked": asked})
                part = Part(place.absolute(), folder.absolute(), (WriteTrace(folder, asked),))
        except BaseException:
            if not _can_be_gone_on_with(folder):
                _remove_part(folder)
            raise
        try:
            yield part
        except BaseException as problem:
            if STATE_BEFORE in (notes := getattr(problem, "__notes__", [])):
                notes.remove(STATE_BEFORE)  # said below with the number of the epoch
            problem.add_note(f"{part.run} is complete" if part.is_complete else _what_is_left(folder, problem))
            raise
        finally:
            if part.is_complete or not _can_be_gone_on_with(folder):
                _remove_part(folder)
            else:
                for watcher in part.watchers:
                    watcher.end()


@contextlib.contextmanager
def joining_part(run: str | Path) -> Iterator[Part]:
    """RUN.part for a further process of the fit that `writing_part` runs in the first one: it writes nothing there.

    An exception that ends the block gets a note that says what is left, as there.

    Args:
        run: The run folder to be.

    Yields:
        What the fit is to use.
    """
    try:
        yield Part(expanded(run).absolute(), part_folder(run).absolute(), ())
    except BaseException as problem:
        note_what_is_left(run, problem)
        raise


def note_what_is_left(run: str | Path, problem: BaseException) -> None:
    """Adds a note to an exception: what a fit has left that another process ran, and what to do with it.

    Args:
        run: The run folder to be.
        problem: What has ended it.
    """
    problem.add_note(_what_is_left(part_folder(run).absolute(), problem))


def _check_kind(folder: Path) -> None:
    """Refuses what is no RUN.part; files of others beside ours, such as those of file managers, do not matter."""
    if not os.path.lexists(folder):
        return
    names = set(os.listdir(folder)) if folder.is_dir() and not folder.is_symlink() else {""}
    if names - {LOCK_FILE} and not names & _MARKS:
        raise ValueError(f"{folder} is in the way, and is not what a fit has left: remove it, or choose another --out")


@contextlib.contextmanager
def _claimed(folder: Path, run: Path) -> Iterator[None]:
    """RUN.part, made where it is not there, for this process: of two fits that begin at once only one gets it."""
    for _ in range(_TRIES):  # another fit that ends may remove it under our hands
        try:
            folder.mkdir(exist_ok=True)
            handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue
        try:
            _lock(handle, folder, run)
            if _is_there(handle, folder / LOCK_FILE):
                yield
                return
        finally:
            os.close(handle)
    raise _in_use(run, None)


def _lock(handle: int, folder: Path, run: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as problem:
        raise _in_use(run, _progress(folder)) from problem
    except OSError as problem:
        if problem.errno not in _NO_LOCKS:
            raise


def _is_there(handle: int, file: Path) -> bool:
    """Whether an open file is the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False


def _refuse_living(folder: Path, run: Path, fresh: bool) -> None:
    """Refuses the place of a fit that is running; on another machine it only seems so, and `fresh` may end that."""
    progress, mine = _progress(folder), this_process()
    if progress is None or not progress.alive:
        return
    own = (progress.process, progress.host) == (mine["process"], mine["host"])  # of this process the lock tells
    if not own and not (fresh and progress.host != mine["host"]):
        raise _in_use(run, progress)


def _take_up(folder: Path, asked: Mapping[str, Any], fresh: bool) -> None:
    """Leaves what can be gone on with, and nothing else of ours; refuses to go on with another fit's."""
    if not fresh and _can_be_gone_on_with(folder):
        _compare(folder, asked)
        try:
            what_is_kept(folder)
        except CheckpointError as problem:
            raise ValueError(f"{problem}; --fresh begins anew here") from problem
        for name in (RUN_FOLDER, COMPLETE_FILE):
            _remove(folder / name)
        return
    for name in _OURS:
        if name != LOCK_FILE:
            _remove(folder / name)


def _compare(folder: Path, asked: Mapping[str, Any]) -> None:
    """Refuses to go on with a fit that was asked for something else."""
    written = by_new_names(read_json(folder / COMMAND_FILE, _REMEDY, {"asked": dict})["asked"])
    before = dict.fromkeys(_LATER) | written
    for name in {**before, **asked}:
        option = _OPTIONS.get(name, f"--{name.replace('_', '-')}")
        if name not in before:
            raise ValueError(
                f"{folder} keeps a fit that was interrupted under an earlier version, which knew no {option} and had "
                f"other defaults: {_REMEDY}"
            )
        if before.get(name) != asked.get(name):
            raise ValueError(
                f"{folder} keeps a fit that was interrupted, with {option} {_told(before.get(name))}, but now it is "
                f"{_told(asked.get(name))}: give the options of then to go on, or {_REMEDY}"
            )


def _remove_complete(run: Path, folder: Path) -> None:
    """Removes what a process has left that was killed after it had moved the complete run to its place."""
    if (run / _FIRST).is_file() and (folder / COMPLETE_FILE).is_file() and not (folder / RUN_FOLDER).exists():
        _remove_part(folder)


def _can_be_gone_on_with(folder: Path) -> bool:
    is_begun = any((folder / STATE_FOLDER).glob("restart-*.json")) or trials_kept(folder / TUNING_FOLDER) > 0
    return (folder / RUN_FOLDER / _FIRST).is_file() or is_begun


def _what_is_left(folder: Path, problem: BaseException) -> str:
    """What an interrupted fit has left, and what to do with it."""
    if (folder / RUN_FOLDER / _FIRST).is_file():
        return f"the fit itself is in {folder / RUN_FOLDER}; the same command makes the run folder of it"
    try:
        kept = what_is_kept(folder)
    except CheckpointError:
        return "--fresh begins anew here"
    if kept is None:
        trials = trials_kept(folder / TUNING_FOLDER)
        what = f"{folder} keeps {trials} trial{'s' * (trials > 1)} of --tune"
        return f"{what}: the same command goes on there, and --fresh begins anew" if trials else "nothing was written"
    where = f"{folder} keeps the state after epoch {kept.epoch}" + (
        f" of restart {kept.restart + 1}" if kept.restart else ""
    )
    if isinstance(problem, NonFiniteLossError):  # the same command would end there again
        return f"{where}; begin anew by --fresh, with other options"
    return f"{where}: the same command goes on there, and --fresh begins anew"


def _progress(folder: Path) -> RunningFit | None:
    try:
        return read_progress(folder)
    except ValueError:  # there is none, or it is damaged: it holds nobody back
        return None


def _in_use(run: Path, progress: RunningFit | None) -> RunInUse:
    if progress is None:
        return RunInUse(f"another fit is being written to {run}: choose another folder for --out, or stop that fit")
    who = f"process {progress.process} on {progress.host}"
    if progress.host != this_process()["host"]:
        return RunInUse(
            f"another fit is being written to {run} ({who}, last heard of {progress.age:.0f} s ago): choose another "
            "folder for --out, or stop that fit; if it was killed, wait until it has been silent for ten minutes and "
            "ten epochs, or begin anew by --fresh"
        )
    return RunInUse(f"another fit is being written to {run} ({who}): choose another folder for --out, or stop that fit")


def _remove_part(folder: Path) -> None:
    """Removes what is ours of RUN.part, and the folder, unless somebody else has put something there."""
    with contextlib.suppress(OSError):
        for name in _OURS:
            _remove(folder / name)
        for hidden in folder.glob(".*"):
            if hidden.name.startswith((f".{TRACE_FILE}-", f".{PROGRESS_FILE}-", f".{COMMAND_FILE}-", *_DROPPINGS)):
                hidden.unlink()
        folder.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _told(value: Any) -> str:
    return "not given" if value is None else str(value)
