"""The trials of a sweep in its storage: Optuna's study, who works on what, and trials that are taken up again."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bayesprune.models.files.processes import is_running
from bayesprune.sweeps.plan import SweepPlan, new_or_kept, taken_up
from bayesprune.sweeps.storage import NoStorageError, open_storage, quiet, require_optuna, storage_kept

__all__ = [
    "DEATHS", "EPOCH", "PROBLEM", "RUNS", "SEEDS", "SETTINGS", "STRIDE", "WORKER", "PlannedTrial", "begun", "loaded",
    "planned_trials", "requeued", "take_back",
]  # fmt: skip

SETTINGS, SEEDS, WORKER, EPOCH, RUNS, PROBLEM, DEATHS = (
    "settings", "seeds", "worker", "epoch", "runs", "problem", "deaths",
)  # fmt: skip
"""What trials keep besides Optuna's own: user attributes."""
STRIDE = 1_000_000
"""Steps of Optuna that the epochs of one seed have: of the n-th seed epoch e is step n x STRIDE + e."""
HEARTBEAT, GRACE = 20, 120
"""Seconds between two signs of life, and without one until a trial is taken from its worker."""
MOST_DEATHS = 3
"""How often a trial is taken up again whose worker has died in it: one that kills its workers is not begun for ever."""
_UNTESTED, _YOUNG = 5, 3
"""Trials that no other is compared with at first, and epochs at which none is ended."""


@dataclass(frozen=True)
class PlannedTrial:
    """A trial as it stands by now: its last attempt.

    Attributes:
        number: Its number, from 0; of all attempts the same.
        state: ``"waiting"``, ``"running"``, ``"complete"``, ``"pruned"`` or ``"failed"``.
        settings: Its settings without the seed; None where a sampled one has not begun.
        seeds: Seeds that it is fitted with.
        worker: Who fits it or has fitted it last: ``process``, ``started`` and ``host``; None where nobody has.
        seed: Number of the seed in `seeds` that is being fitted.
        epoch: Epochs of that fit that are done; None where none was told.
        value: The last score that was told of an epoch; None likewise.
        values: What it came to, by objective; None until it is complete.
        runs: Scores of its fits, as `RunTrial` returns them, with the seed; none before one is complete.
        problem: Why it failed, in a sentence; None where it did not.
    """

    number: int
    state: str
    settings: dict[str, Any] | None
    seeds: tuple[int, ...]
    worker: dict[str, Any] | None = None
    seed: int = 0
    epoch: int | None = None
    value: float | None = None
    values: tuple[float, ...] | None = None
    runs: tuple[Mapping[str, Any], ...] = ()
    problem: str | None = None


def begun(plan: SweepPlan) -> SweepPlan:
    """Makes the study of a sweep with all of its trials waiting, or takes up the one that is there.

    Args:
        plan: What is asked for.

    Returns:
        The plan with the name of its study.

    Raises:
        ValueError: If the folder or the storage cannot be used or are those of another sweep.
        LostStorageError: If the storage does not answer any more.
    """
    optuna = require_optuna()
    with new_or_kept(plan.out) as alive:
        plan = taken_up(plan, _has_study)
        with storage_kept(plan.address), quiet():
            study = optuna.create_study(
                storage=_storage(plan), study_name=plan.study, directions=plan.directions, load_if_exists=True
            )
            there = len(_attempts(study))
            for one in plan.planned()[there:]:
                settings = one[SETTINGS]
                attributes = {SEEDS: one[SEEDS], **({} if settings is None else {SETTINGS: settings})}
                study.enqueue_trial({} if settings is None else plan.space.parameters(settings), attributes)
                alive()
    return plan


def loaded(plan: SweepPlan) -> Any:
    """The study of a sweep that has `begun`, with its pruner.

    Raises:
        ValueError: If the storage cannot be opened, or has no such study.
    """
    optuna = require_optuna()
    with quiet():
        pruner = optuna.pruners.MedianPruner(_UNTESTED, _YOUNG) if plan.is_pruning else optuna.pruners.NopPruner()
        try:
            return optuna.load_study(study_name=plan.study, storage=_storage(plan), pruner=pruner)
        except KeyError as problem:
            raise ValueError(
                f"the storage of {plan.out} has no study {plan.study}: give the --storage of then"
            ) from problem


def planned_trials(study: Any) -> list[PlannedTrial]:
    """All trials of a sweep as they stand, by number.

    Args:
        study: As `loaded` returns it.
    """
    return [_as_planned(number, trial) for number, trial in sorted(_attempts(study).items())]


def take_back(study: Any) -> None:
    """Puts trials back whose workers have died: those on this machine at once, others when they have been silent.

    Args:
        study: As `loaded` returns it; the caller holds the lock.
    """
    optuna = require_optuna()
    with quiet():
        optuna.storages.fail_stale_trials(study)
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            worker = trial.user_attrs.get(WORKER)
            # A worker writes its name before it gives the lock back, so that one without a name has died.
            if worker is None or is_running(worker) is False:
                with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                    study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                    requeued(study, study.trials[trial.number], died=True)


def requeued(study: Any, trial: Any, died: bool = True) -> None:
    """Lets a trial that was broken off wait again, with the same parameters, so that it goes on in the same folder.

    Nothing is done where another worker has let it wait already.

    Args:
        study: The study.
        trial: The attempt, which has failed.
        died: Whether its worker has died, which happens to a trial three times at most; default True.
    """
    optuna = require_optuna()
    deaths = int(trial.user_attrs.get(DEATHS, 0)) + died
    origin = trial.system_attrs.get("failed_trial", trial.number)
    if deaths > MOST_DEATHS or _attempts(study)[origin].number != trial.number:
        return
    trial.user_attrs = {**{k: v for k, v in trial.user_attrs.items() if k != WORKER}, DEATHS: deaths}
    with quiet():
        optuna.storages.RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, trial)


def _storage(plan: SweepPlan) -> Any:
    return open_storage(plan.address, heartbeat=HEARTBEAT, grace=GRACE, silent=requeued)


def _has_study(plan: SweepPlan) -> bool:
    try:
        storage = open_storage(plan.address, must_exist=True)
    except NoStorageError:
        return False
    with storage_kept(plan.address), quiet():
        return plan.study in require_optuna().get_all_study_names(storage)


def _attempts(study: Any) -> dict[int, Any]:
    """The last attempt at each trial, by the number of the first."""
    found: dict[int, Any] = {}
    for trial in study.get_trials(deepcopy=False):
        found[trial.system_attrs.get("failed_trial", trial.number)] = trial
    return found


def _as_planned(number: int, trial: Any) -> PlannedTrial:
    kept = trial.user_attrs
    state = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}.get(trial.state.name)
    problem = kept.get(PROBLEM)
    if state == "failed" and problem is None:
        problem = f"{int(kept.get(DEATHS, 0)) + 1} workers have died in it, by hand or for want of memory"
    values = trial.intermediate_values
    step = trial.last_step if values else kept.get(EPOCH)
    value = values.get(step) if step is not None else None
    return PlannedTrial(
        number=number,
        state=state or "waiting",
        settings=kept.get(SETTINGS),
        seeds=tuple(kept.get(SEEDS, ())),
        worker=kept.get(WORKER),
        seed=0 if step is None else step // STRIDE,
        epoch=None if step is None else step % STRIDE,
        value=value if value is None or math.isfinite(value) else None,
        values=tuple(trial.values) if state == "complete" else None,
        runs=tuple(kept.get(RUNS, ())),
        problem=problem if state == "failed" else None,
    )
