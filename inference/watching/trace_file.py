"""A fit's pruning trace on disk while it runs, so that another process can look at it."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from bayesprune.inference.rules.rule import ActiveRule
from bayesprune.inference.rules.rule_traces import with_rules
from bayesprune.inference.watching.callbacks import Callback, FitState
from bayesprune.inference.watching.pruning_trace import trace_dataset, trace_of_today
from bayesprune.models.files.json_file import need, read_json, write_json
from bayesprune.models.files.new_file import replaced_file
from bayesprune.models.files.places import expanded
from bayesprune.models.files.processes import is_running, this_process
from bayesprune.models.files.unwritable import Unwritable

TRACE_FILE, PROGRESS_FILE = "trace.nc", "progress.json"
SHARE = 0.05
"""Largest share of the time that is spent on writing."""
SILENT_SECONDS, SILENT_EPOCHS = 600.0, 10.0
"""A fit on another machine that has written nothing for longer than both, the second in epochs, seems to have died."""

UNREADABLE = (
    OSError, ValueError, TypeError, LookupError, RuntimeError, AttributeError, ArithmeticError, AssertionError,
    MemoryError,
)  # fmt: skip
"""What xarray, h5netcdf, h5py and SciPy raise for a damaged file."""


@dataclass
class RunningFit:
    """How far a fit was when it last wrote, as progress.json holds it.

    Attributes:
        process: Number of the process.
        host: Name of the machine.
        ended: Whether the process said itself that it ended, finished or not.
        steps_before: Steps of all restarts that an earlier call had done, from which this one goes on.
        started: When the process was started (`this_process`); None where an earlier version wrote it.
        asked: What the fit was asked for, as it was given to `WriteTrace`.
        updated: When this was written, seconds since 1970.
        seconds: Time from the first step to `updated`.
        epoch: Epochs done of the restart under way; 0 before anything was recorded.
        epochs: Epochs that were asked for, of one restart; 0 in a loop of one's own, which does not tell.
        step: Steps done of the restart under way.
        steps: Steps that were asked for, of one restart; 0 likewise.
        restart: Number of the restart under way, from 0.
        restarts: How many there are.
        epoch_seconds: Time that the last epoch took.
        finished: Whether the last restart has ended.
    """

    process: int
    host: str
    asked: dict[str, Any]
    updated: float
    seconds: float = 0.0
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    steps: int = 0
    restart: int = 0
    restarts: int = 1
    epoch_seconds: float = 0.0
    finished: bool = False
    started: float | None = None
    ended: bool = False
    steps_before: int = 0

    @property
    def seconds_left(self) -> float:
        """Time that the steps to come take if they take as long as those so far; NaN where that is not known."""
        if not self.steps and not self.finished:
            return float("nan")  # a loop of one's own does not tell
        done = self.restart * self.steps + self.step
        left = 0 if self.finished else self.restarts * self.steps - done
        here = done - self.steps_before
        return self.seconds / here * left if here > 0 else float("nan")

    @property
    def age(self) -> float:
        """Seconds since the last writing."""
        return max(0.0, time.time() - self.updated)

    @property
    def alive(self) -> bool:
        """Whether the fit seems to be running: by its process on this machine, by its silence on another one."""
        if self.ended:
            return False
        running = is_running({"process": self.process, "started": self.started, "host": self.host})
        if running is not None:
            return running
        return self.age <= max(SILENT_SECONDS, SILENT_EPOCHS * self.epoch_seconds)


_REMEDY = "is a fit writing its trace there?"
_NEEDED = {"process": int, "host": str, "asked": dict, "updated": float}
_MORE = {
    "seconds": float, "epoch": int, "epochs": int, "step": int, "steps": int, "restart": int, "restarts": int,
    "epoch_seconds": float, "finished": bool, "ended": bool, "steps_before": int, "started": (float, type(None)),
}  # fmt: skip


class WriteTrace(Callback):
    """Writes the pruning trace so far to a folder after each epoch.

    ``trace.nc`` is what `Fit.trace` will be; ``progress.json`` is a `RunningFit`. Each is replaced in one go, so that
    a reader never sees half a file. ``bayesprune show FOLDER`` prints them; `plot_pruning_trace` and
    `plot_trajectories` draw what `read_trace` reads. An epoch is passed over where writing it too
    would take more than a twentieth of the time; the last one of a restart never is. The trace comes with the first
    recorded iterate, progress.json at once. A file that cannot be written does not stop the fit: it warns once.

    Args:
        folder: Folder to write to; it is made if it is not there.
        asked: What to store beside the trace, such as the names of data and prior; JSON must hold it. Default None.

    Raises:
        ValueError: If the folder may not be written to, or JSON cannot hold `asked`.
        OSError: If the disk is full.
    """

    is_resumable = True  # the state has the records of before an interruption

    def __init__(self, folder: str | Path, asked: Mapping[str, Any] | None = None) -> None:
        self.folder = expanded(folder).absolute()
        self.asked = dict(asked or {})
        self._histories: list[list[dict[str, Any]]] = []
        self._iterates: list[list[dict[str, float]]] = []
        self._rules: list[dict[str, ActiveRule]] = []
        self._began = self._due = 0.0
        self._before = 0
        self._warned = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in (TRACE_FILE, PROGRESS_FILE):  # what a fit that was killed was writing
                for stale in self.folder.glob(f".{name}-*"):
                    stale.unlink(missing_ok=True)
            write_json(self.folder / PROGRESS_FILE, asdict(self._progress()))
        except OSError as problem:
            if Unwritable(self.folder, problem).is_full:
                raise Unwritable(self.folder, problem) from problem
            raise ValueError(
                f"the trace cannot be written to {folder} ({problem.strerror}): choose a folder that you may write to"
            ) from problem
        except TypeError as problem:
            raise ValueError(f"asked= cannot be written as JSON ({problem}): give numbers, texts, lists") from problem

    def on_fit_start(self, state: FitState) -> None:
        """Starts the clock with the first restart."""
        if state.restart == 0:
            self._histories, self._iterates, self._rules = [], [], []
            self._began, self._due, self._before = time.perf_counter(), 0.0, 0
        self._before += state.step  # what an earlier call had done
        self._histories.append(state.history)  # the fit goes on filling them
        self._iterates.append(state.iterates)
        self._rules.append(state.rules)

    def on_epoch(self, state: FitState) -> None:
        """Writes, unless that would take too large a share of the time."""
        if time.perf_counter() >= self._due:
            self._write(state, finished=False)

    def on_fit_end(self, state: FitState) -> None:
        """Writes the last epoch of a restart; one that broke off leaves what was written."""
        if state.stop or state.step >= state.steps:
            self._write(state, finished=state.restart + 1 == state.restarts)

    def _write(self, state: FitState, finished: bool) -> None:
        if not state.iterates or not state.history:
            return
        began = time.perf_counter()
        counts = {name: getattr(state, name) for name in ("epoch", "epochs", "step", "steps", "restart", "restarts")}
        progress = self._progress(
            **counts, seconds=began - self._began, epoch_seconds=state.history[-1]["seconds"], finished=finished
        )
        attrs = {"data_size": state.objective.model.data_size, "is_map": int(state.objective.guide.is_map)}
        trace = with_rules(trace_dataset(self._histories, self._iterates, attrs), self._rules)
        try:
            # NetCDF 3, by SciPy: about 10 ms, where NetCDF 4 takes 200.
            with replaced_file(self.folder / TRACE_FILE) as staged:
                trace.to_netcdf(staged, engine="scipy")
            write_json(self.folder / PROGRESS_FILE, asdict(progress))
        except OSError as problem:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"the trace of the fit cannot be written to {self.folder} ({problem}): the fit goes on without it",
                    stacklevel=2,
                )
        now = time.perf_counter()
        self._due = now + (now - began) * (1.0 / SHARE - 1.0)

    def _progress(self, **known: Any) -> RunningFit:
        return RunningFit(
            asked=self.asked, updated=time.time(), **this_process(), **{"steps_before": self._before, **known}
        )

    def end(self) -> None:
        """Says in progress.json that this process has ended, where it can be said; the rest stays as it is."""
        with contextlib.suppress(OSError, ValueError):
            write_json(self.folder / PROGRESS_FILE, {**asdict(read_progress(self.folder)), "ended": True})


def read_progress(folder: str | Path) -> RunningFit:
    """Reads progress.json of a folder that `WriteTrace` writes.

    Raises:
        ValueError: If there is no such file, or it is damaged.
    """
    file = expanded(folder) / PROGRESS_FILE
    found = read_json(file, _REMEDY, _NEEDED)
    need(file, found, {name: kind for name, kind in _MORE.items() if name in found}, _REMEDY)
    return RunningFit(**{name: found[name] for name in RunningFit.__dataclass_fields__ if name in found})


def read_trace(folder: str | Path) -> xr.Dataset:
    """Reads trace.nc of a folder that `WriteTrace` writes.

    Returns:
        As `bayesprune.inference.watching.pruning_trace.trace_dataset`, with the attributes ``data_size`` and ``is_map``
        (0 or 1).

    Raises:
        ValueError: If there is no such file, or it is damaged.
    """
    file = expanded(folder).absolute() / TRACE_FILE
    if not file.is_file():  # a pipe would be waited for
        raise ValueError(f"{file} is missing or damaged (it is no file): {_REMEDY}")
    try:
        with warnings.catch_warnings(), xr.open_dataset(file, engine="scipy") as found:
            warnings.simplefilter("ignore", RuntimeWarning)  # of numbers that cannot be sizes
            return trace_of_today(found.load())
    except UNREADABLE as problem:
        raise ValueError(
            f"{file} is missing or damaged ({' '.join(str(problem).split())[:200]}): {_REMEDY}"
        ) from problem
