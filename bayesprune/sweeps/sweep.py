"""Many fits of one sweep, by as many processes as there are."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bayesprune.data.sets import load_data
from bayesprune.inference.workers.processes import worker_processes
from bayesprune.models.checks.given_numbers import whole_number
from bayesprune.sweeps.plan import SWEEP_FILE, SweepPlan, asked_plan
from bayesprune.sweeps.space import SweepSpace
from bayesprune.sweeps.storage import require_optuna
from bayesprune.sweeps.study import begun
from bayesprune.sweeps.worker import work, work_in_process

__all__ = ["NoFitError", "sweep"]

_AGAIN = 1_000_000
"""How often a worker is begun again that was killed: its trials are counted, and this is not."""
_LOOK = 1.0
"""Seconds between two looks at how far it is."""


class NoFitError(RuntimeError):
    """A sweep has ended, and none of its fits is complete."""


def sweep(
    out: str | Path,
    arguments: Mapping[str, Any],
    space: SweepSpace | Mapping[str, Any],
    objectives: Sequence[str] = ("validation_nll",),
    seeds: Sequence[int] = (0,),
    trials: int | None = None,
    storage: str | None = None,
    workers: int = 1,
    prune: bool = True,
    timed: bool = False,
    sampler_seed: int = 0,
    watch: Callable[[SweepPlan], None] | None = None,
) -> SweepPlan:
    """Fits many settings, and goes on with those that an earlier call has left; needs ``bayesprune[sweep]``.

    Trials stand in the storage, from which any number of processes takes them; each is fitted by one, by `RunTrial`
    into ``OUT/DIGEST``. The same call on other machines works on the same trials, where `storage` is one that they
    reach and `out` is a folder that they share. A trial whose process was killed is taken up again from its state: at
    once on the same machine, on others after two minutes without a sign of life.

    Where all dimensions are listed and `trials` is not given, each setting is fitted with each seed, one a trial. Else
    Optuna's tree-structured Parzen estimator (Bergstra et al. 2011) samples `trials` settings, each fitted with all
    seeds; what counts is the mean.

    Args:
        out: Folder of the sweep: made, or gone on with.
        arguments: What all fits have in common, by the names of `bayesprune fit`: ``{"data": "digits", "prior":
            "halo", "epochs": 20}``.
        space: A `SweepSpace`, or what it is made of: ``{"learning-rate": [1e-3, 1e-2], "set.kappa": bp.Range(1.0,
            10.0, log=True)}``.
        objectives: Scores that are looked for, names in `bayesprune.sweeps.trial.OBJECTIVES`; default: the nll on
            validation data. Of several there is no best, but a front.
        seeds: Seeds of the fits; default 0.
        trials: Settings that are sampled; default None: all of a grid.
        storage: ``sqlite:///FILE``, ``journal:///FILE`` or ``postgresql://USER@HOST/DATABASE``; default None: SQLite in
            `out`, for processes of one machine, or the one of the sweep that is gone on with.
        workers: Processes that fit here; default 1, which is this one. Several have one thread each, and start the
            script that calls this again, which is to be guarded by ``if __name__ == "__main__":``.
        prune: Whether a fit ends early whose best score on validation data so far is worse than the median of the
            others at that epoch (not before epoch 3 and five complete trials); with several objectives none does.
            Default True.
        timed: Whether the network of each fit is timed, for a front against latency; default False.
        sampler_seed: Seed of the sampler; default 0.
        watch: Is called about once a second from a thread of its own, and at the end; default None.

    Returns:
        What was asked for; `load_sweep` reads what came of it.

    Raises:
        ValueError: For bad input, before anything is fitted, or if the folder or the storage are those of another
            sweep. What goes wrong in a trial is written down, and the sweep goes on.
        LostStorageError: If the storage does not answer any more.
        OSError: If the disk is full.
    """
    require_optuna()
    workers = whole_number("workers", workers)
    searched = space if isinstance(space, SweepSpace) else SweepSpace(space)
    plan = asked_plan(out, arguments, searched, objectives, seeds, trials, storage, prune, timed, sampler_seed)
    if not (plan.out / SWEEP_FILE).exists():
        _check_data(plan)
        _check_common(plan)
    plan = begun(plan)
    workers = min(workers, plan.fits)
    with _watched(plan, watch):
        try:
            if workers == 1:
                work(plan)
            else:
                one = functools.partial(work_in_process, plan)
                with worker_processes(one, workers, "sweep", _AGAIN) as processes:
                    for _ in processes.as_they_end(range(workers)):
                        pass
        except BaseException as stop:
            stop.add_note(f"the same command goes on with what is left in {plan.out}")
            raise
    return plan


def _check_data(plan: SweepPlan) -> None:
    """Refuses data that no trial could be scored on, where all have the same."""
    data = plan.arguments.get("data")
    if data is None:
        return
    splits = load_data(data, root=plan.arguments.get("data-root"))
    if any(name.startswith("validation_") for name in plan.objectives) and not len(splits.validation[0]):
        raise ValueError(f"{data} has no validation data, on which trials are compared: give more examples")


def _check_common(plan: SweepPlan) -> None:
    """Refuses what is wrong with all trials; what is wrong with one of them is its own failure."""
    problems = []
    for settings in plan.space.corners():
        try:
            plan.trial.check({**settings, "seed": plan.seeds[0]})
        except ValueError as problem:
            problems.append(problem)
        else:
            return
    if str(problems[0]) == str(problems[-1]):
        raise problems[0]


@contextlib.contextmanager
def _watched(plan: SweepPlan, watch: Callable[[SweepPlan], None] | None) -> Iterator[None]:
    """Calls `watch` now and then while the block runs, and once when it has ended."""
    if watch is None:
        yield
        return
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(_LOOK):
            watch(plan)

    watch(plan)
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        watch(plan)
