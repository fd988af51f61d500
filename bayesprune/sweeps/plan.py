"""What a sweep is asked for, as OUT/sweep.json holds it: whoever comes to the folder works on the same."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bayesprune.models.checks.given_numbers import checked_seed, whole_number
from bayesprune.models.files.json_file import damaged, need, read_json, write_json
from bayesprune.models.files.places import expanded
from bayesprune.models.files.unwritable import permitted
from bayesprune.sweeps.space import SweepSpace
from bayesprune.sweeps.storage import told_address
from bayesprune.sweeps.trial import OBJECTIVES, RunTrial

__all__ = ["SWEEP_FILE", "SweepPlan", "asked_plan", "locked", "new_or_kept", "read_plan", "taken_up"]

FORMAT = 1
SWEEP_FILE, STUDY_FILE, LOCK_FILE = "sweep.json", "trials.db", "lock"
_REMEDY = "begin the sweep anew in another folder"
_KINDS: dict[str, Any] = {
    "study": str, "storage": (str, type(None)), "arguments": dict, "space": dict, "objectives": list, "seeds": list,
    "trials": (int, type(None)), "prune": bool, "timed": bool, "seed": int,
}  # fmt: skip
_ASKED = {
    "arguments": "options of the fits", "space": "the space", "objectives": "--objective", "seeds": "--seeds",
    "prune": "--prune", "timed": "--latency", "seed": "--sampler-seed",
}  # fmt: skip
"""What another call has to ask for too, as sentences name it; `trials` may be more by then."""
_PATIENCE = 30
"""Seconds after which a lock is held for that of a process that has died in it; it is taken for milliseconds."""


@dataclass(frozen=True)
class SweepPlan:
    """A sweep as it is asked for; it is sent to worker processes.

    Attributes:
        out: Its folder, absolute: run folders, their records, sweep.json, and the storage where none was given.
        storage: Address of the storage, with its password; None for SQLite in the folder.
        study: Its name in the storage; empty until it is `taken_up`.
        arguments: What all trials have in common, by the names of `bayesprune fit`.
        space: What is searched.
        objectives: What is looked for, names in `OBJECTIVES`.
        seeds: Seeds that each setting is fitted with.
        trials: Settings that are sampled; None for all of a grid.
        prune: Whether trials that are worse than most at the same epoch are ended early; for one objective only.
        timed: Whether the network of each fit is timed.
        seed: Of the sampler.
    """

    out: Path
    storage: str | None
    study: str
    arguments: dict[str, Any]
    space: SweepSpace
    objectives: tuple[str, ...]
    seeds: tuple[int, ...]
    trials: int | None
    prune: bool
    timed: bool
    seed: int

    @property
    def address(self) -> str:
        """Address of the storage, with its password."""
        return f"sqlite:///{self.out / STUDY_FILE}" if self.storage is None else self.storage

    @property
    def trial(self) -> RunTrial:
        """What fits a setting with a seed."""
        return RunTrial(self.out, self.arguments, self.objectives, self.timed)

    @property
    def fits(self) -> int:
        """How many fits there are in all, of all seeds."""
        return int(self.space.size if self.trials is None else self.trials) * len(self.seeds)

    @property
    def is_pruning(self) -> bool:
        """Whether trials are ended early: where one score of validation data is looked for."""
        return self.prune and len(self.objectives) == 1 and self.objectives[0].startswith("validation_")

    @property
    def directions(self) -> list[str]:
        """Which way each objective is better, in Optuna's spelling."""
        return [f"{OBJECTIVES[name].removesuffix('se')}ze" for name in self.objectives]

    def planned(self) -> list[dict[str, Any]]:
        """All trials: ``settings`` (None where they are sampled) and ``seeds`` of each.

        Of a grid a trial is a setting with one seed, all settings with the first seed coming first. A sampled setting
        is fitted with all seeds in one trial, whose value is their mean.

        Raises:
            ValueError: If the grid is too large, or a dimension has bounds.
        """
        if self.trials is None:
            return [{"settings": row, "seeds": [seed]} for seed in self.seeds for row in self.space.grid()]
        return [{"settings": None, "seeds": list(self.seeds)} for _ in range(self.trials)]

    def as_json(self) -> dict[str, Any]:
        """As sweep.json holds it: without the password of the storage."""
        found = {name: getattr(self, name) for name in _KINDS}
        found |= {"storage": None if self.storage is None else told_address(self.storage)}
        found |= {"space": self.space.as_json(), "objectives": list(self.objectives), "seeds": list(self.seeds)}
        return dict(json.loads(json.dumps({"format": FORMAT, **found})))


def asked_plan(
    out: str | Path,
    arguments: Mapping[str, Any],
    space: SweepSpace,
    objectives: Sequence[str],
    seeds: Sequence[int],
    trials: int | None,
    storage: str | None,
    prune: bool,
    timed: bool,
    seed: int,
) -> SweepPlan:
    """Checks what is asked for, before anything is written; the arguments are those of `SweepPlan`.

    Raises:
        ValueError: In one sentence.
    """
    place = expanded(out).absolute()
    several = tuple(checked_seed(one) for one in ([seeds] if isinstance(seeds, int) else seeds))
    if not several or len(set(several)) < len(several):
        raise ValueError(f"seeds are {list(several)}: give one at least, and each once")
    if trials is None:
        space.grid()  # says which dimension has bounds
    else:
        trials = whole_number("trials", trials)
        fits = space.size * len(several)
        if fits > trials >= space.size:
            raise ValueError(
                f"the space has {space.size} settings and there are {len(several)} seeds, which makes {fits} fits: "
                f"leave out --trials to fit each once, or give fewer than {space.size} settings to be sampled"
            )
        trials = None if trials >= fits else trials  # of a grid all, each once
    made = RunTrial(place, arguments, objectives)
    if "seed" in made.arguments:
        raise ValueError(
            "a sweep has its own seeds, and no seed among the options of its fits: give seeds, --seeds 0-4"
        )
    both = next((name for name in space.dimensions if name in made.arguments), None)
    if both is not None:
        raise ValueError(f"{both} is given, and searched too: leave one of them out")
    if "data" not in {**made.arguments, **space.dimensions}:
        raise ValueError("a sweep needs data: give --data")
    return SweepPlan(
        place, storage, "", made.arguments, space, made.objectives, several, trials, bool(prune), bool(timed),
        checked_seed(seed),
    )  # fmt: skip


def taken_up(plan: SweepPlan, has_study: Callable[[SweepPlan], bool]) -> SweepPlan:
    """The plan with the name of its study, of the folder's sweep where there is one; the folder is made otherwise.

    Args:
        plan: What is asked for; the caller holds the lock (`locked`).
        has_study: Whether the storage of a plan has its study.

    Raises:
        ValueError: If the folder's sweep was asked for something else, or keeps its trials in another storage.
        Unwritable: If the folder cannot be written.
    """
    file = plan.out / SWEEP_FILE
    if not file.exists():
        plan = replace(plan, study=f"{plan.out.name}-{secrets.token_hex(4)}")
    else:
        kept, before = read_plan(plan.out), plan.storage
        _compare(plan, kept)
        if before is None and ":***@" in (kept.storage or ""):
            raise ValueError(
                f"{plan.out} keeps its trials in {kept.storage}, whose password is not kept there: give --storage"
            )
        plan = replace(plan, study=kept.study, storage=kept.storage if before is None else before)
        other = None if plan.storage is None else told_address(plan.storage)
        if other != kept.storage and not has_study(plan):
            raise ValueError(
                f"{plan.out} keeps its trials in {kept.storage or plan.out / STUDY_FILE}, and {other} has no study "
                f"{kept.study}: give the --storage of then, or choose another folder for --out"
            )
        if plan.as_json() == kept.as_json():
            return plan
    with permitted():
        write_json(file, plan.as_json())
    return plan


def read_plan(out: str | Path) -> SweepPlan:
    """Reads what the sweep of a folder was asked for; the address of its storage has no password.

    Raises:
        ValueError: In one sentence, if there is no sweep, or its file is damaged.
    """
    place = expanded(out).absolute()
    file = place / SWEEP_FILE
    if not file.is_file():
        raise ValueError(f"{out} is no sweep: it has no {SWEEP_FILE}")
    found = read_json(file, _REMEDY, {"format": int})
    if found["format"] != FORMAT:
        raise damaged(file, f"it was written in format {found['format']}, but this version reads {FORMAT}", _REMEDY)
    need(file, found, _KINDS, _REMEDY)
    try:
        made = RunTrial(place, found["arguments"], found["objectives"])
        seeds = tuple(checked_seed(one) for one in found["seeds"])
        space = SweepSpace.of(found["space"])
    except (ValueError, TypeError) as problem:
        raise damaged(file, problem, _REMEDY) from problem
    rest = {name: found[name] for name in ("storage", "study", "trials", "prune", "timed", "seed")}
    return SweepPlan(
        out=place, arguments=found["arguments"], space=space, objectives=made.objectives, seeds=seeds, **rest
    )


@contextlib.contextmanager
def new_or_kept(out: Path) -> Iterator[Callable[[], None]]:
    """A block under the lock (`locked`) which, where it ends by an exception, leaves nothing that it has begun.

    Args:
        out: Folder of the sweep.

    Yields:
        As `locked`.

    Raises:
        ValueError: As `locked`.
    """
    above = [one for one in (out, *out.parents) if not one.exists()]
    try:
        with locked(out) as alive:
            is_new = not (out / SWEEP_FILE).exists()  # asked under the lock: another process may have just begun it
            try:
                yield alive
            except BaseException:
                for name in (SWEEP_FILE, STUDY_FILE) if is_new else ():
                    (out / name).unlink(missing_ok=True)
                raise
    except BaseException:
        with contextlib.suppress(OSError):
            if set(os.listdir(out)) <= {LOCK_FILE}:  # nobody else is in it, or waits for the lock's link to go
                (out / LOCK_FILE).unlink(missing_ok=True)
                for made in above:
                    made.rmdir()
        raise


@contextlib.contextmanager
def locked(out: Path) -> Iterator[Callable[[], None]]:
    """Only one process at a time is in such a block, on whatever machine; the folder is made where it is not there.

    The lock is Optuna's for journals, a link, which file systems of networks know too. That of a process that has died
    is taken for gone after half a minute.

    Args:
        out: Folder of the sweep.

    Yields:
        What says that the block is still alive, to be called in long ones.

    Raises:
        ValueError: If the folder cannot be made or written, or is something else.
    """
    target = out / LOCK_FILE
    try:
        if out.is_dir() and not target.exists() and any(out.iterdir()):
            raise ValueError(f"{out} exists and is no sweep: choose another folder for --out")
        out.mkdir(parents=True, exist_ok=True)
        target.touch()
    except OSError as problem:
        raise ValueError(
            f"{out} cannot be written ({problem.strerror}): choose a folder that you may write to"
        ) from problem
    journal = importlib.import_module("optuna.storages.journal")
    kind = journal.JournalFileSymlinkLock if os.name == "posix" else journal.JournalFileOpenLock
    lock = kind(str(target), grace_period=_PATIENCE)
    lock.acquire()
    try:
        os.utime(target)  # who waits counts the seconds from here
        yield lambda: os.utime(target)
    finally:
        with contextlib.suppress(RuntimeError):  # it was taken from a process that was suspended
            lock.release()


def _compare(plan: SweepPlan, kept: SweepPlan) -> None:
    """Refuses another sweep than the folder's."""
    now, then = plan.as_json(), kept.as_json()
    for name, told in _ASKED.items():
        if now[name] == then[name]:
            continue
        before, after = then[name], now[name]
        if isinstance(before, dict):
            key = next(one for one in {**before, **after} if before.get(one) != after.get(one))
            told, before, after = f"{told}: {key}", before.get(key), after.get(key)
        raise ValueError(
            f"{plan.out} keeps a sweep with {told} {json.dumps(before)}, but now it is {json.dumps(after)}: give the "
            "options of then to go on, or choose another folder for --out"
        )
    if (plan.trials is None) != (kept.trials is None) or (plan.trials or 0) < (kept.trials or 0):
        raise ValueError(
            f"{plan.out} keeps a sweep of {kept.trials or 'all settings, without'} --trials: give as many or more, or "
            "choose another folder for --out"
        )
