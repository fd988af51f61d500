"""Fits of a path side by side: each restart in a process of its own, as `fit` would fit it among the others.

Restarts leave their states in one folder (`fit(only_restart=, checkpoint=)`), of which `fit` makes the fit of all.
"""

from __future__ import annotations

import contextlib
import pickle
import shutil
import tempfile
import warnings
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from bayesprune.inference.data.batches import Data
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.sparsity_path.next_fit import fit_from
from bayesprune.inference.sparsity_path.point import Pruning, Splits, default_prunings, joined_points, measure
from bayesprune.inference.sparsity_path.sparsity_path import ModelAt
from bayesprune.inference.workers.job_bar import job_bar
from bayesprune.inference.workers.processes import worker_processes
from bayesprune.models.bayesian_network import BayesianNetwork

__all__ = ["PathFits", "fitting_folder"]

Points = Generator[tuple[Fit, dict[str, Any]], None, None]
"""Fits, and what was measured of each."""


def fitting_folder(folder: Path, number: int) -> Path:
    """Where the state of training of a point is kept, counted from 0, until the point is written."""
    return folder / f"fitting-{number:03d}"


@dataclass(frozen=True)
class PathFits:
    """How the fits of a path are made and measured; the same for all of them.

    Attributes:
        data: Training data.
        splits: The data to score on.
        lengths: Arguments of a fit that begins cold, and of one that does not: ``first``, ``later``, ``kl_warmup``.
        restarts: Of each fit.
        how: Further arguments of `fit`.
        prunings: How fits are pruned; None: as `default_prunings` says of the first.
        latency: Whether compact networks are timed.
        warm: Whether each fit begins at the one before.
    """

    data: Data
    splits: Splits
    lengths: Mapping[str, Any]
    restarts: int
    how: Mapping[str, Any]
    prunings: Sequence[Pruning] | None
    latency: bool
    warm: bool

    def fit(self, before: Fit | None, model: BayesianNetwork, **more: Any) -> Fit:
        """One fit, of all its restarts unless ``only_restart=`` says otherwise."""
        return fit_from(
            before if self.warm else None,
            model,
            self.data,
            restarts=self.restarts,
            validation=self.splits["validation"],
            **self.lengths,
            **self.how,
            **more,
        )

    def measured(self, fit: Fit) -> dict[str, Any]:
        """What `measure` says of a fit."""
        prunings = default_prunings(fit) if self.prunings is None else self.prunings
        return measure(fit, prunings, self.data, self.splits, self.latency)

    def one_by_one(
        self, model_at: ModelAt, values: Sequence[float], begun: int, before: Fit | None, folder: Path | None
    ) -> Points:
        """Fits and measures one value after the other, in this process.

        Args:
            model_at: Makes the model at a value.
            values: The values.
            begun: The number of the first one to be fitted.
            before: The fit before it, or None.
            folder: The folder of the path, or None; where a call with several processes has left the state of a fit
                there, it goes on.

        Yields:
            The fit of each value and what was measured; what is yielded is kept before the next one is asked for.
        """
        for number, value in enumerate(values[begun:], begun):
            state = None if folder is None else fitting_folder(folder, number)
            if state is None or not state.is_dir():
                before = self.fit(before, model_at(value))
            else:
                before = _at_once(self.fit(before, model_at(value), checkpoint=state))
            yield before, self.measured(before)
            if state is not None:
                shutil.rmtree(state, ignore_errors=True)

    def side_by_side(
        self,
        model_at: ModelAt,
        values: Sequence[float],
        begun: int,
        before: Fit | None,
        folder: Path | None,
        workers: int,
    ) -> Points:
        """Fits the restarts of each value in processes of their own; cold fits of all values side by side.

        Args:
            model_at: As in `one_by_one`.
            values: As there.
            begun: As there.
            before: As there.
            folder: As there; the states of unfinished fits are kept in it.
            workers: Processes.

        Yields:
            The same as `one_by_one`.

        Raises:
            ValueError: If something cannot be sent to other processes, or there are callbacks.
            NonFiniteLossError: If a loss becomes NaN or infinite.
        """
        if self.how.get("callbacks"):
            raise ValueError("callbacks= would watch in processes of their own: leave them out, or take workers=1")
        numbers = range(begun, len(values))
        if not numbers:
            return
        rounds = [[number] for number in numbers] if self.warm else [list(numbers)]
        jobs = self.restarts * len(numbers)
        # In workers nothing is timed, as others are at work beside them, and no bar is shown.
        quiet = replace(self, latency=False, how={**self.how, "progress": False})
        sent = model_at if _can_be_sent(model_at) else None
        most = min(workers, self.restarts * len(rounds[0]))
        with contextlib.ExitStack() as stack:
            kept = Path(stack.enter_context(tempfile.TemporaryDirectory())) if folder is None else folder
            step = stack.enter_context(job_bar("fits of restarts", jobs, bool(self.how.get("progress"))))
            work = partial(_fitted_restart, quiet, sent, not self.latency)
            processes = stack.enter_context(worker_processes(work, most, "path"))
            for group in rounds:
                start = before if self.warm else None
                models = {number: model_at(values[number]) for number in group}
                tasks = [
                    _Restart(values[number], _sent(models[number], sent), start, fitting_folder(kept, number), restart)
                    for number in group
                    for restart in range(self.restarts)
                ]
                told: dict[int, _Told] = {}
                waiting = deque(group)
                for task, result in processes.as_they_end(tasks):
                    told[task] = result
                    step()
                    while waiting and all(at in told for at in self._tasks(group, waiting[0])):
                        number = waiting.popleft()
                        results = [told.pop(at) for at in self._tasks(group, number)]
                        state = fitting_folder(kept, number)
                        with warnings.catch_warnings(record=True) as here:
                            warnings.simplefilter("default")
                            before = _at_once(quiet.fit(before, models.pop(number), checkpoint=state))
                        _warn([each for result in results for each in result.warned], here)
                        points = [result.point for result in results if result.point is not None]
                        yield before, joined_points(points, before) if points else self.measured(before)
                        shutil.rmtree(state, ignore_errors=True)

    def _tasks(self, group: Sequence[int], number: int) -> range:
        """The numbers of the tasks of a point, in its round."""
        first = group.index(number) * self.restarts
        return range(first, first + self.restarts)


@dataclass(frozen=True)
class _Restart:
    """A restart of a point that is to be fitted.

    Attributes:
        value: Of the knob.
        model: The model, or where workers make it themselves its tensors, so that it starts at the very same weights.
        before: The fit to start from, or None.
        state: Where its state is kept.
        restart: Its number.
    """

    value: float
    model: BayesianNetwork | dict[str, Tensor]
    before: Fit | None
    state: Path
    restart: int


@dataclass(frozen=True)
class _Told:
    """What a worker tells of a restart: what was measured, or None, and the warnings."""

    point: dict[str, Any] | None
    warned: list[tuple[type[Warning], str]]


def _fitted_restart(fits: PathFits, model_at: ModelAt | None, is_measured: bool, job: _Restart) -> _Told:
    """Fits a restart, in a worker."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        if isinstance(job.model, BayesianNetwork):
            model = job.model
        else:
            assert model_at is not None
            model = model_at(job.value)
            model.load_state_dict(job.model)
        fitted = fits.fit(job.before, model, only_restart=job.restart, checkpoint=job.state)
        point = fits.measured(fitted) if is_measured else None
    return _Told(point, [(one.category, str(one.message)) for one in told])


def _can_be_sent(model_at: ModelAt) -> bool:
    """Whether other processes can make the models themselves: from a file of code of one's own nothing else goes."""
    try:
        pickle.dumps(model_at)
    except Exception:  # of a lambda, say: then the models are sent
        return False
    return True


def _sent(model: BayesianNetwork, model_at: ModelAt | None) -> BayesianNetwork | dict[str, Tensor]:
    return model if model_at is None else model.state_dict()


def _at_once(fit: Fit) -> Fit:
    """A fit that was put together of states, which is no fit that was interrupted."""
    fit.settings["resumed_at_epoch"] = None
    return fit


def _warn(told: Sequence[tuple[type[Warning], str]], here: Sequence[warnings.WarningMessage]) -> None:
    """Warns once of what workers or this process were warned of."""
    for category, text in dict.fromkeys([*told, *((one.category, str(one.message)) for one in here)]):
        warnings.warn(text, category, stacklevel=4)
