"""Reads a sweep back: its fits from their records, and what only the storage knows from there, where it is reached."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bayesprune.inference.watching.trace_file import RunningFit, read_progress
from bayesprune.models.files.json_file import need
from bayesprune.models.files.places import expanded
from bayesprune.models.files.processes import is_running
from bayesprune.runs.part_folder import part_folder
from bayesprune.sweeps.plan import SWEEP_FILE, SweepPlan, read_plan
from bayesprune.sweeps.storage import LostStorageError, open_storage, quiet, require_optuna, storage_kept, told_address
from bayesprune.sweeps.study import PlannedTrial, planned_trials
from bayesprune.sweeps.sweep_result import COMPLETE, FAILED, PRUNED, RUNNING, WAITING, Sweep, SweepFit
from bayesprune.sweeps.trial import OBJECTIVES, REMEDY, Record, read_record

__all__ = ["SweepReader", "is_sweep", "load_sweep"]

_RECORD = re.compile(r"[0-9a-f]{16}\.json")
"""Names of the records of fits; others in the folder are of the sweep itself, or somebody else's."""
_HIDDEN = ":***@"
"""In the place of a password."""


def load_sweep(folder: str | Path, storage: str | None = None) -> Sweep:
    """Reads a sweep, as far as it is, or what a `RunTrial` has left in its folder.

    Scores come from the records beside the run folders. Numbers of trials, and those that have not begun, are known to
    the storage; where it cannot be reached, `Sweep.missing` says so.

    Args:
        folder: Its folder.
        storage: Its address, where it has a password, which is not kept in the folder, or is another one from here;
            default None: the one in sweep.json.

    Returns:
        Its fits and scores; `Sweep.front` and `Sweep.best` choose among them, `plot_sweep` draws them.

    Raises:
        ValueError: If there is no sweep, a file is damaged, or the storage that was given cannot be opened or is that
            of another sweep.
    """
    with SweepReader(folder, storage) as reader:
        return reader.read()


class SweepReader:
    """Reads a sweep again and again, as `load_sweep` does once: its storage stays open, and files are read once.

    Args:
        folder: As of `load_sweep`.
        storage: As of `load_sweep`.
    """

    def __init__(self, folder: str | Path, storage: str | None = None) -> None:
        self.folder, self.storage = expanded(folder), storage
        self._records: dict[Path, tuple[int, Record]] = {}
        self._opened: Any = None

    def __enter__(self) -> SweepReader:
        return self

    def __exit__(self, *problem: object) -> None:
        optuna_rdb = getattr(self._opened, "engine", None)
        if optuna_rdb is not None:  # a journal keeps no connection
            self._opened.remove_session()
            optuna_rdb.dispose()
        self._opened = None

    def read(self) -> Sweep:
        """The sweep as it is by now.

        Raises:
            ValueError: As `load_sweep`.
        """
        place = self.folder
        if not place.is_dir():
            raise ValueError(f"there is no folder {place} of a sweep: make it with bayesprune sweep --out {place}")
        records = self._read_records()
        fits: Sequence[SweepFit] = [_fit(file, record) for file, record in records.items()]
        if not (place / SWEEP_FILE).is_file():
            if not records:
                raise ValueError(f"{place} is no folder of a sweep, it has no {SWEEP_FILE}: look at another one")
            objectives = [name for name in OBJECTIVES if any((one.scores or {}).get(name) for one in records.values())]
            arguments = next(iter(records.values())).arguments
            return Sweep(place, arguments, tuple(objectives[:1]) or ("validation_nll",), tuple(fits))
        plan = read_plan(place)
        missing: tuple[str, ...] = ()
        try:
            fits = _joined(self._trials(plan), fits)
        except (ValueError, LostStorageError) as problem:
            if self.storage is not None:
                raise
            missing = (f"numbers of trials, and those that have not begun, are not known: {problem}",)
        return Sweep(place, plan.arguments, plan.objectives, tuple(fits), missing)

    def _read_records(self) -> dict[Path, Record]:
        """The records of the folder; those that have not changed are not read again."""
        found = {}
        for file in sorted(self.folder.iterdir()):
            if _RECORD.fullmatch(file.name):
                changed, kept = file.stat().st_mtime_ns, self._records.get(file)
                found[file] = kept if kept is not None and kept[0] == changed else (changed, read_record(file))
        self._records = found
        return {file: record for file, (_, record) in found.items()}

    def _trials(self, plan: SweepPlan) -> list[PlannedTrial]:
        """The trials as the storage has them; nothing is written there."""
        optuna = require_optuna()
        if self.storage is not None:
            plan = replace(plan, storage=self.storage)
        elif _HIDDEN in plan.address:
            raise ValueError(
                f"the address {plan.address} of its storage was kept without its password: give it whole by storage="
            )
        if self._opened is None:
            self._opened = open_storage(plan.address, must_exist=True)
        try:
            with storage_kept(plan.address), quiet():
                return planned_trials(optuna.load_study(study_name=plan.study, storage=self._opened))
        except KeyError as problem:
            raise ValueError(
                f"{told_address(plan.address)} has no study {plan.study}, it is the storage of another sweep: give "
                f"that of {plan.out}"
            ) from problem


def is_sweep(folder: str | Path) -> bool:
    """Whether a folder is that of a sweep, or one in which a `RunTrial` has fitted."""
    place = expanded(folder)
    return (place / SWEEP_FILE).is_file() or (
        place.is_dir() and any(_RECORD.fullmatch(file.name) for file in place.iterdir())
    )


def _fit(file: Path, record: Record) -> SweepFit:
    """A fit by its record, and by what stands beside it."""
    run = file.with_suffix("")
    settings = {name: value for name, value in record.settings.items() if name != "seed"}
    seeds = {"seed": record.settings.get("seed", record.arguments.get("seed", 0))}
    need(file, seeds, {"seed": int}, REMEDY)
    seed = seeds["seed"]
    if record.scores is not None:
        need(file, record.scores, dict.fromkeys(record.scores, (float, str, type(None))), REMEDY)
        scores = {name: _score(value) for name, value in record.scores.items() if not isinstance(value, str)}
        return SweepFit(settings, seed, COMPLETE, run, None, scores)
    if record.ended_early is not None:
        told = f"ended early, after epoch {record.ended_early}"
        return SweepFit(settings, seed, PRUNED, run, None, {}, record.ended_early, None, told)
    progress = _progress(part_folder(run))
    epoch = None if progress is None else progress.restart * progress.epochs + progress.epoch
    if progress is not None and progress.alive:
        return SweepFit(settings, seed, RUNNING, run, None, {}, epoch, f"{progress.host}:{progress.process}")
    state = WAITING if record.problem is None else FAILED
    return SweepFit(settings, seed, state, run, None, {}, epoch, None, record.problem)


def _score(value: Any) -> float | None:
    return None if value is None else float(value)


def _progress(folder: Path) -> RunningFit | None:
    with contextlib.suppress(ValueError):  # it is not there, or is being removed
        return read_progress(folder)
    return None


def _joined(trials: Sequence[PlannedTrial], fits: Sequence[SweepFit]) -> list[SweepFit]:
    """All fits of the trials, in their order, and then those of which the storage knows nothing."""
    known = {_key(one.settings, one.seed): one for one in fits}
    found, seen = [], set()
    for trial in trials:
        settings = trial.settings or {}
        for place, seed in enumerate(trial.seeds):
            key = _key(settings, seed)
            seen.add(key)
            found.append(_of_trial(trial, place, known.get(key) or SweepFit(settings, seed, WAITING)))
    return [*found, *(one for key, one in known.items() if key not in seen)]


def _of_trial(trial: PlannedTrial, place: int, fit: SweepFit) -> SweepFit:
    """A fit with what its trial says of it; `place` is that of its seed among the trial's."""
    fit = replace(fit, trial=trial.number, worker=fit.worker or _worker(trial.worker))
    if fit.state in (COMPLETE, PRUNED):
        return fit
    if trial.state == RUNNING:
        if place > trial.seed:
            return replace(fit, state=WAITING, worker=None)
        gone = trial.worker is not None and is_running(trial.worker) is False
        return replace(fit, state=WAITING if gone else RUNNING, epoch=fit.epoch or trial.epoch)
    if trial.state == PRUNED:
        return replace(fit, state=PRUNED, problem="left out, as the trial was ended early")
    if trial.state == FAILED:
        return replace(fit, state=FAILED, problem=fit.problem or trial.problem)
    return replace(fit, state=WAITING, worker=None)


def _worker(worker: Mapping[str, Any] | None) -> str | None:
    return None if worker is None else f"{worker.get('host')}:{worker.get('process')}"


def _key(settings: Mapping[str, Any], seed: int) -> str:
    return json.dumps([settings, seed], sort_keys=True)
