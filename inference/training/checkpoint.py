"""Checkpoints: a fit that was interrupted goes on after its last finished epoch, with the numbers it would have had.

A state is written after an epoch, unless that would take more than a hundredth of the time (`SHARE`), and after the
last one. What is killed meanwhile goes on after the last state.

    FOLDER/checkpoint.json                  what was asked for; another model, data or argument is refused
    FOLDER/restart-0.json                   numbers of a restart after an epoch; replaced in one go, and with that valid
    FOLDER/restart-0-step-400.safetensors   its tensors, to which restart-0.json refers

Keys of restart-N.json:

    format      number of this format
    tensors     name of the file of tensors
    digest      of that file and of what was kept; anything else is damaged
    kept        finished, seconds, counts (of `FitState`), execution (an `ExecutionReport`; "path" in earlier versions),
                plan (of removed units), tensors (of the objective), optimizer (numbers of its groups; state by
                position), random (states of torch's generators), order (`order_state` of the data), notes (of the
                guide), rules (`ActiveRule.state_dict` by name), passed (`KeptInputs.state`); earlier versions had
                "gates" in place of rules, and neither order, notes nor, at first, passed; in it tensors are
                {"$tensor": number in the file}, arrays {"$array": number}, numbers that are not finite {"$float": name}
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.utils.data import DataLoader

from bayesprune.inference.data.batches import Batches
from bayesprune.inference.data.fingerprints import (
    as_then,
    data_fingerprint,
    described,
    model_fingerprint,
    names_of_today,
)
from bayesprune.inference.data.kept_inputs import KeptInputs
from bayesprune.inference.execution.execution_report import ExecutionReport
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.rules.rule import Rule
from bayesprune.inference.runtime.random_state import random_state, set_random_state
from bayesprune.inference.runtime.runtime import Runtime
from bayesprune.inference.training.earlier_checkpoints import asked_of_today, state_of_today, with_default_draws
from bayesprune.inference.training.kept_order import order_state, restore_order
from bayesprune.inference.training.optimizer_state import optimizer_state, restore_optimizer
from bayesprune.inference.training.packed_state import packed, state_digest, unpacked
from bayesprune.inference.training.restart_run import RestartRun
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.renamed_arguments import by_new_names
from bayesprune.models.files.flushing import flush
from bayesprune.models.files.json_file import damaged, need, read_json, read_regular, write_json
from bayesprune.models.files.places import expanded
from bayesprune.models.files.unwritable import Unwritable
from bayesprune.models.language.knobs import Knobs
from bayesprune.models.units.cutting import cut
from bayesprune.models.ways.way import Way

__all__ = ["STATE_BEFORE", "Checkpoint", "CheckpointError", "KeptState", "kept_state", "open_checkpoint"]

FORMAT = 1
ASKED_FILE = "checkpoint.json"
SHARE, LEAST = 0.01, 5.0
"""Largest share of the time that is spent on writing states; seconds that a restart takes before its first one."""
STATE_BEFORE = "the state before it is kept, and the same call goes on from there"
"""Note of an error of a state that could not be written."""
_REMEDY = "begin the fit anew in another folder"
_COUNTS = ("epoch", "step", "kl_weight", "stop", "stop_reason", "history", "iterates")
"""What is kept of a `FitState` as it is."""

_KEPT = {
    "finished": bool, "seconds": float, "counts": dict, "execution": dict, "plan": (dict, type(None)), "tensors": list,
    "optimizer": (dict, type(None)), "random": (list, type(None)), "rules": dict,
    "order": (Tensor, str),
}  # fmt: skip
"""What a state is made of, and of which kind each part is."""


class CheckpointError(ValueError):
    """What stands in a checkpoint's folder cannot be gone on with: it is of another fit, or damaged."""


@dataclass(frozen=True)
class KeptState:
    """How far the fit had got whose states a folder holds.

    Attributes:
        restart: The last restart that has a state, from 0.
        epoch: The last epoch of it that was kept.
        finished: Whether that restart had ended.
    """

    restart: int
    epoch: int
    finished: bool


def kept_state(folder: Path) -> KeptState | None:
    """How far a fit had got; None where there is no state.

    Args:
        folder: The folder of `fit(checkpoint=)`.

    Raises:
        CheckpointError: If the file of the last state cannot be read.
    """
    restarts = len(list(folder.glob("restart-*.json")))
    if not restarts:
        return None
    file = folder / f"restart-{restarts - 1}.json"
    try:
        kept = _read_json(file, {"kept": dict})["kept"]
        return KeptState(restarts - 1, int(kept["counts"]["epoch"]), bool(kept["finished"]))
    except (KeyError, TypeError) as problem:
        raise CheckpointError(str(damaged(file, problem, _REMEDY))) from problem


def open_checkpoint(
    folder: str | Path,
    model: BayesianNetwork,
    batches: Batches,
    validation: Sequence[Tensor] | None,
    start: Fit | None,
    watchers: Sequence[Any],
    rules: Sequence[Rule],
    arguments: Mapping[str, Any],
    restart: int | None = None,
) -> Path:
    """Makes the folder of a fit's checkpoints, or takes up one whose arguments are the same.

    Args:
        folder: The folder; it must not exist, be empty, or be that of checkpoints.
        model: The model; its starting weights do not count.
        batches: The training data; of a `Dataset` or a loader, whose content is not read, type and size count.
        validation: The validation data.
        start: The earlier fit of a warm start.
        watchers: Callbacks and stopping rules.
        rules: The rules that were asked for.
        arguments: All else that the numbers depend on, by name; callables and other objects count by their names,
            data classes with their fields.
        restart: The restart that is fitted alone, while other processes may be at work on others of the same folder;
            default None: all.

    Returns:
        The folder.

    Raises:
        ValueError: If something else stands in the folder, other arguments were asked for then, it cannot be written,
            or a callback, a rule or a loader remembers what cannot be kept.
    """
    for one in watchers:
        if not getattr(one, "is_resumable", False):
            raise ValueError(
                f"checkpoint= cannot keep what {getattr(one, '__name__', type(one).__name__)} remembers from step to "
                "step: leave one of them out, or say is_resumable = True on it if it goes on from FitState alone"
            )
    loader = batches.loader
    own = [loader.generator, getattr(loader.sampler, "generator", None)] if isinstance(loader, DataLoader) else []
    if any(one is not None and one is not batches.order for one in own):
        raise ValueError(
            "checkpoint= cannot keep the random state of a loader's own generator: make the loader without generator="
        )
    folder = expanded(folder)
    earlier = None if start is None else [t for one in start.restarts for t in _tensors(one.guide, one.model)]
    asked = {
        "model": model_fingerprint(model),
        **{"gates": None, **model.way_configs},
        "data": data_fingerprint(batches.tensors if batches.tensors is not None else batches.loader),
        "validation": None if validation is None else data_fingerprint(tuple(validation)),
        "start": None if earlier is None else data_fingerprint([value.reshape(-1) for value in earlier]),
        **{name: repr(value) if is_dataclass(value) else described(value) for name, value in arguments.items()},
        "training": {rule.name: described(rule) for rule in rules},
    }
    asked = json.loads(json.dumps(asked))  # as it is read back: tuples are lists there
    file = folder / ASKED_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # What a run that was killed was writing.
        for pattern in _staged("*") if restart is None else _staged(f"{restart}")[1:]:
            for stale in folder.glob(pattern):
                stale.unlink()
        if any(folder.glob("restart-*.json")):
            before = asked_of_today(names_of_today(by_new_names(_read_json(file, {"asked": dict})["asked"])))
            before = with_default_draws(before, asked, model)
            _compare(folder, before, asked | {"model": as_then(asked["model"], before.get("model"))})
        elif all(fnmatch(one.name, _staged("*")[0]) for one in folder.iterdir()) or _is_ours(file):
            write_json(file, {"format": FORMAT, "asked": asked})  # no epoch of an earlier call was finished
        else:
            raise ValueError(f"{folder} exists and holds no checkpoint: choose another folder")
    except OSError as problem:
        raise ValueError(
            f"{folder} cannot be written ({problem.strerror}): choose a folder that you may write to"
        ) from problem
    return folder


def _staged(restart: str) -> tuple[str, str]:
    """Patterns of what is being written: the file of what was asked for, and those of a restart."""
    return f".{ASKED_FILE}-*", f".restart-{restart}.json-*"


class Checkpoint:
    """The checkpoint of one restart.

    Args:
        folder: The folder, from `open_checkpoint`.
        restart: Number of the restart.
        runtime: Where it runs; of several processes the first one reads and writes.
        passed: What is kept of the data that pass by.

    Attributes:
        finished: Whether the restart had been finished before.
        resumed_at_epoch: The first epoch that was not kept before; None where the restart begins here.
        seconds: Seconds that it had taken before.

    Raises:
        ValueError: If a file is damaged.
    """

    def __init__(self, folder: Path, restart: int, runtime: Runtime, passed: KeptInputs) -> None:
        self.runtime, self.device, self.passed = runtime, runtime.device, passed
        self.file = folder / f"restart-{restart}.json"
        # The others may not see the folder, and have to go on from the same state.
        self._kept = runtime.agreed(_read(self.file) if runtime.rank == 0 and self.file.exists() else None)
        self.finished: bool = self._kept is not None and self._kept["finished"]
        self.resumed_at_epoch: int | None = None if self._kept is None else self._kept["counts"]["epoch"] + 1
        self.seconds: float = 0.0 if self._kept is None else self._kept["seconds"]
        self._reason, self._writes = "", 0
        self._began = time.perf_counter()
        self._due = self._began + LEAST

    def restore(self, run: RestartRun) -> bool:
        """Puts a restart that has just been set up where it was after its last kept epoch, IN PLACE.

        Args:
            run: The restart; where units had been removed, it gets the objective and optimizer of what was left.

        Returns:
            Whether an epoch had been kept; a restart that had not finished one is left as it is.

        Raises:
            ValueError: If what was kept is not that of this model.
        """
        kept = self._kept
        if kept is None:
            return False
        model = run.objective.model
        try:
            if kept["plan"] != model.plan:
                whole = model.network if model.declared is None else model.declared
                network = cut(whole, model.example_input, kept["plan"], keep_mode=True)
                run.replace(model.with_network(network, kept["plan"]))
            with torch.no_grad():
                for own, value in zip(_tensors(run.objective), kept["tensors"], strict=True):
                    if own.shape != value.shape:
                        raise ValueError(f"{tuple(value.shape)} where {tuple(own.shape)} was expected")
                    own.copy_(value)
            if not self.finished:
                restore_optimizer(run.optimizer, kept["optimizer"])
            for name in _COUNTS:
                setattr(run, name, kept["counts"][name])
            run.objective.model.knobs.go_on_from(kept.get("knobs") or {})  # earlier versions kept none
            for name, rule in run.rules.items():
                rule.load_state_dict(kept["rules"][name])
            if "notes" in kept:  # earlier versions kept none
                run.objective.guide.notes[:] = kept["notes"]
            if kept.get("passed") is not None:  # earlier versions kept none
                self.passed.go_on_from(kept["passed"])
            run.go_on_as(ExecutionReport(**kept["execution"]))
            run.has_ended = self.finished
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as problem:
            reason = " ".join(str(problem).split())[:200]
            raise CheckpointError(f"{self.file} is not of this model ({reason}): choose another folder") from problem
        self._reason = run.stepper.report.reason
        return True

    def restore_random_state(self) -> None:
        """Sets the random states to those of the last kept epoch, that of the data's order in any case."""
        if self._kept is None:
            return
        restore_order(self.passed.batches, self._kept["order"])
        if self.finished:
            return
        set_random_state(self._kept["random"], self.device)

    def report(self, run: RestartRun) -> ExecutionReport:
        """How the steps were executed so far, with the reason for which it was chosen before an interruption."""
        report = run.stepper.finish()
        if self._reason and report.name == "fused":
            report.reason = self._reason
        return report

    def write(self, run: RestartRun, finished: bool = False) -> None:
        """Keeps the restart as it stands; an epoch is passed over where that would take too large a share of the time.

        Args:
            run: The restart.
            finished: Whether it is finished, so that optimizer and random state are not needed again; default False.

        Raises:
            ValueError: If the optimizer keeps what JSON and tensors cannot hold.
            OSError: If it cannot be written; the state before stays, and nothing else.
        """
        began = time.perf_counter()
        if self.runtime.rank > 0 or (began < self._due and not finished):
            return
        execution = self.report(run)  # tells the optimizer the number of its steps
        kept = {
            "finished": finished,
            "seconds": self.seconds + time.perf_counter() - self._began,
            "counts": {name: getattr(run, name) for name in _COUNTS},
            "execution": asdict(execution),
            "plan": run.objective.model.plan,
            "tensors": _tensors(run.objective),
            "knobs": run.objective.model.knobs.moved(),
            "optimizer": None if finished else optimizer_state(run.optimizer),
            "random": None if finished else random_state(self.device),
            "order": order_state(self.passed.batches),
            "notes": list(run.objective.guide.notes),
            "rules": {name: rule.state_dict() for name, rule in run.rules.items()},
            "passed": self.passed.state(),
        }
        tensors: dict[str, Tensor] = {}
        as_json = packed(kept, tensors)
        stored = safetensors.torch.save(tensors)
        written = self.file.with_name(f"{self.file.stem}-step-{run.step}.safetensors")
        try:
            written.write_bytes(stored)
            flush(written)
            flush(written.parent)
            digest = state_digest(stored, as_json)
            write_json(self.file, {"format": FORMAT, "tensors": written.name, "digest": digest, "kept": as_json}, None)
        except OSError as problem:
            with contextlib.suppress(OSError):
                written.unlink()
            unwritable = problem if isinstance(problem, Unwritable) else Unwritable(written, problem)
            if self._kept is not None or self._writes:
                unwritable.add_note(STATE_BEFORE)
            raise unwritable from problem
        with contextlib.suppress(OSError):
            flush(written.parent)  # before what the state before needs is gone
        for stale in self.file.parent.glob(f"{self.file.stem}-step-*.safetensors"):
            if stale.name != written.name:
                stale.unlink(missing_ok=True)
        self._writes += 1
        now = time.perf_counter()
        self._due = now + (now - began) * (1.0 / SHARE - 1.0)


def _tensors(*modules: torch.nn.Module) -> list[Tensor]:
    """All parameters and buffers, in order, but for tables of ways, which are made again of what was declared.

    Knobs are not among them: they are kept by their names.
    """
    parts = [part for module in modules for part in module.modules()]
    ways, knobs = ([one for one in parts if isinstance(one, kind)] for kind in (Way, Knobs))
    kept = {id(tensor) for way in ways for tensor in way.state_dict(keep_vars=True).values()}
    tables = {id(buffer) for one in (*ways, *knobs) for buffer in one.buffers()} - kept
    every = (tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
    return [tensor for tensor in every if id(tensor) not in tables]


def _read(file: Path) -> dict[str, Any]:
    """What was kept of a restart."""
    found = _read_json(file, {"tensors": str, "digest": str, "kept": dict})
    beside = file.with_name(Path(found["tensors"]).name)
    try:
        stored = read_regular(beside, _REMEDY)
        if state_digest(stored, found["kept"]) != found["digest"]:
            raise damaged(file, "its content is not what was written", _REMEDY)
        kept = state_of_today(by_new_names(unpacked(found["kept"], safetensors.torch.load(stored))))
        need(file, kept, _KEPT, _REMEDY)
        need(file, kept["counts"], dict.fromkeys(_COUNTS, object), _REMEDY)
    except (SafetensorError, TypeError, KeyError) as problem:
        raise CheckpointError(str(damaged(file, problem, _REMEDY))) from problem
    except ValueError as problem:
        raise CheckpointError(str(problem)) from problem
    return kept


def _read_json(file: Path, needed: Mapping[str, Any]) -> dict[str, Any]:
    try:
        found = read_json(file, _REMEDY, {"format": int})
        if found["format"] != FORMAT:
            reason = f"it was written in format {found['format']}, but this version reads {FORMAT}"
            raise damaged(file, reason, _REMEDY)
        need(file, found, needed, _REMEDY)
    except ValueError as problem:
        raise CheckpointError(str(problem)) from problem
    return found


def _is_ours(file: Path) -> bool:
    """Whether it is what `open_checkpoint` writes, and not another program's checkpoint.json."""
    try:
        return bool(_read_json(file, {"asked": dict}))
    except CheckpointError:
        return False


def _compare(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if "rules" not in before and not now["rules"]:  # of an earlier version, and all was given as it was then
        before = {**before, "rules": {}}
        if before.get("kl_warmup") is None and now["kl_warmup"] in (0.2, 0.0):
            before["kl_warmup"] = now["kl_warmup"]
    before, now = ({**asked, **_one_by_one(asked.get("training"))} for asked in (before, now))
    for name in {**before, **now}:
        if name == "training":
            continue
        if name == "rules" and name not in before and now[name]:
            raise CheckpointError(
                f"{folder} holds a fit of an earlier version, which had other defaults of {' and '.join(now[name])}: "
                "give these as they were then (a fade-in of 0.2, or 0 for points), or choose another folder"
            )
        if before.get(name) != now.get(name):
            raise CheckpointError(
                f"{folder} holds a fit with {name} {before.get(name)}, but now it is {now.get(name)}: call it with the "
                "arguments of then to go on, or choose another folder"
            )


def _one_by_one(training: Any) -> dict[str, Any]:
    """Rules under names of their own, so that a sentence shows the one that differs."""
    return {f"rule {name}": rule for name, rule in training.items()} if isinstance(training, Mapping) else {}
