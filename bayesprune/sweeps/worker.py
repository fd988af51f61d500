"""A worker of a sweep: takes trials from the storage and fits them until none is left."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import time
from collections.abc import Callable
from typing import Any, NoReturn

import torch

from bayesprune.models.files.processes import this_process
from bayesprune.sweeps.plan import SweepPlan, locked
from bayesprune.sweeps.storage import quiet, require_optuna, storage_kept
from bayesprune.sweeps.study import (
    DEATHS,
    EPOCH,
    PROBLEM,
    RUNS,
    SEEDS,
    SETTINGS,
    STRIDE,
    WORKER,
    loaded,
    requeued,
    take_back,
)  # fmt: skip

__all__ = ["work", "work_in_process"]

_LOOK = 2.0
"""Seconds between two looks at trials that others are fitting."""
_TOLD = 1.0
"""Seconds between two words on an epoch that no pruner waits for."""
_PROBLEMS = (ValueError, ArithmeticError, RuntimeError, MemoryError, TypeError, LookupError, AttributeError)
"""What a trial may raise that is its own fault, and not that of the disk."""


class _FailedError(Exception):
    """A trial has failed, and its sentence is kept."""


class _LostError(Exception):
    """A trial was given to somebody else, as this process had not been heard of."""


class _Ended(BaseException):
    """This process is asked to end."""


def work(plan: SweepPlan) -> int:
    """Fits trials until all are complete, pruned or failed; waits for those of others, which may die in them.

    Args:
        plan: A sweep that has `begun`.

    Returns:
        How many trials this worker has ended.

    Raises:
        LostStorageError: If the storage does not answer any more.
        OSError: If the disk is full; the trial waits for another worker.
    """
    done = 0
    with storage_kept(plan.address), quiet():
        worker = _Worker(plan)
        while (found := worker.next()) is not None:
            done += found
            if not found:
                time.sleep(_LOOK)
    return done


def work_in_process(plan: SweepPlan, number: int) -> int:
    """As `work`, in a process of its own: with a GPU of its own where there are several, and an ear for SIGTERM.

    Args:
        plan: A sweep that has `begun`.
        number: Number of the process, from 0.
    """
    gpus = torch.cuda.device_count() if "CUDA_VISIBLE_DEVICES" not in os.environ else 0
    if gpus > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = str(number % gpus)  # nothing has used one yet
    signal.signal(signal.SIGTERM, _end)
    with contextlib.suppress(_Ended):
        return work(plan)
    return 0


class _Worker:
    """What `work` does between two looks."""

    def __init__(self, plan: SweepPlan) -> None:
        self.plan, self.optuna = plan, require_optuna()
        self.study, self.trial = loaded(plan), plan.trial
        self.current: Any = None

    def next(self) -> int | None:
        """Fits a trial that waits: 1; 0 where others are fitting the last ones; None where all have ended."""
        states = self.optuna.trial.TrialState
        with contextlib.ExitStack() as lock:
            lock.enter_context(locked(self.plan.out))
            take_back(self.study)
            left = self.study.get_trials(deepcopy=False, states=(states.WAITING, states.RUNNING))
            if not any(one.state == states.WAITING for one in left):
                return 0 if left else None
            self._fit_one(lock.close)
        return 1

    def _fit_one(self, release: Callable[[], None]) -> None:
        """Lets Optuna take a trial, keep it alive, and write what it came to; `release` gives the lock back."""
        self.current = None
        try:
            self.study.optimize(lambda trial: self._objective(trial, release), n_trials=1, catch=(_FailedError,))
        except BaseException as problem:
            if isinstance(problem, (_LostError, ValueError)) and not self._is_mine():
                return  # Optuna was told what became of a trial that somebody else has taken
            if isinstance(problem, UnboundLocalError) and problem.__context__ is not None:
                problem = problem.__context__  # of Optuna 5.0, where the storage cannot even be read
            with contextlib.suppress(Exception), locked(self.plan.out):  # the first problem is the one to tell
                self._give_back()
            raise problem

    def _objective(self, trial: Any, release: Callable[[], None]) -> float | tuple[float, ...]:
        self.current = trial
        trial.set_user_attr(WORKER, this_process())
        release()
        attempt = self.study.trials[trial.number]
        plan, number = self.plan, attempt.system_attrs.get("failed_trial", trial.number)
        # A sampler of its own for each trial: workers with one seed would all begin with the same settings.
        self.study.sampler = self.optuna.samplers.TPESampler(seed=(plan.seed * 1_000_003 + number) % 2**32)
        runs: list[dict[str, Any]] = []
        try:
            settings = plan.space.suggested(trial)
            trial.set_user_attr(SETTINGS, settings)
            for place, seed in enumerate(trial.user_attrs.get(SEEDS, plan.seeds)):
                scores = self._fitted(trial, {**settings, "seed": seed}, place, set(attempt.intermediate_values))
                runs.append({"seed": seed, **scores})
                trial.set_user_attr(RUNS, runs)
        except self.optuna.exceptions.UpdateFinishedTrialError as problem:
            raise _LostError from problem
        except self.optuna.exceptions.OptunaError:
            raise
        except _PROBLEMS as problem:
            trial.set_user_attr(PROBLEM, " ".join(str(problem).split()) or type(problem).__name__)
            raise _FailedError from problem
        values = tuple(statistics.fmean(run[name] for run in runs) for name in plan.objectives)
        return values if len(values) > 1 else values[0]

    def _fitted(self, trial: Any, settings: dict[str, Any], place: int, known: set[int]) -> dict[str, Any]:
        told_at, done = 0.0, 0

        def report(epoch: int, value: float | None) -> None:
            nonlocal told_at, done
            done, step = epoch, place * STRIDE + epoch
            try:
                if self.plan.is_pruning:
                    if value is not None and step not in known:  # a fit that goes on repeats epochs
                        trial.report(value, step)
                    if trial.should_prune():
                        raise self.optuna.TrialPruned
                elif time.monotonic() - told_at > _TOLD:
                    told_at = time.monotonic()
                    trial.set_user_attr(EPOCH, step)
            except self.optuna.exceptions.UpdateFinishedTrialError as problem:
                raise _LostError from problem

        try:
            return self.trial(settings, report, abandoned=DEATHS in trial.user_attrs)
        except self.optuna.TrialPruned:
            self.trial.end_early(settings, done)
            raise

    def _is_mine(self) -> bool:
        """Whether the trial is still this worker's."""
        if self.current is None:
            return True
        return not self.study.trials[self.current.number].state.is_finished()

    def _give_back(self) -> None:
        """Lets the trial that was broken off wait for another worker."""
        if self.current is None:
            return
        failed = self.optuna.trial.TrialState.FAIL
        self.study.tell(self.current.number, state=failed, skip_if_finished=True)
        attempt = self.study.trials[self.current.number]
        if attempt.state == failed and attempt.user_attrs.get(WORKER) == this_process():
            requeued(self.study, attempt, died=False)


def _end(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Ended
