"""One trial of a sweep: a fit by its settings, in a folder of its own, and its scores."""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bayesprune.commands.asked_budget import budget_of_fit
from bayesprune.commands.fitting import content_of, fit_run
from bayesprune.data.named_sets import DATASETS
from bayesprune.data.sets import load_data
from bayesprune.inference.sparsity_path.point import default_prunings, measure
from bayesprune.inference.watching.callbacks import Callback, FitState
from bayesprune.models.files.json_file import need, read_json, write_json
from bayesprune.models.files.new_folder import folders_above
from bayesprune.models.files.places import expanded
from bayesprune.runs.code_trust import absolute, is_code
from bayesprune.runs.part_folder import RunInUse, abandon, part_folder
from bayesprune.runs.run_folder import load_run, read_summary
from bayesprune.sweeps.fit_settings import OUTPUTS_DRAWN, PAIRS, REPEATED, checked_settings, digest_of

__all__ = ["OBJECTIVES", "REMEDY", "Record", "Report", "RunTrial", "checked_objectives", "fit_keywords", "read_record"]

OBJECTIVES: dict[str, str] = {
    "validation_nll": "minimise", "validation_accuracy": "maximise", "validation_rmse": "minimise",
    "validation_ece": "minimise", "density": "minimise", "nonzero": "minimise", "macs": "minimise",
    "latency": "minimise", "seconds": "minimise",
}  # fmt: skip
"""What a sweep may look for, and which way is better. Test data never choose."""
Report = Callable[[int, float | None], None]
"""Is told the epochs done and the score that is looked for on validation data; an exception of its ends the fit."""
FORMAT = 1
REMEDY = "remove it, and the trial is fitted again"
_SUMMED = (
    "validation_nll", "validation_accuracy", "validation_rmse", "validation_ece", "test_accuracy", "test_rmse",
    "seconds", "nonzero", "weights", "sparsity", "resumed_at_epoch",
)  # fmt: skip
_WAIT = 1.0
"""Seconds between two looks at a run that another process is fitting."""


@dataclass(frozen=True)
class Record:
    """What FOLDER/DIGEST.json says of a trial, beside its run folder FOLDER/DIGEST.

    Attributes:
        settings: Its settings, the seed among them.
        arguments: What all trials have in common.
        scores: Its scores by name, as `RunTrial` returns them; None until it is complete.
        problem: Why it failed, in a sentence; None where it did not.
        ended_early: Epochs that were done when it was ended as hopeless; None where it was not.
    """

    settings: dict[str, Any]
    arguments: dict[str, Any]
    scores: dict[str, Any] | None = None
    problem: str | None = None
    ended_early: int | None = None


class RunTrial:
    """A trial of a sweep as a function of its settings, which Ray Tune and Optuna can call, in any process.

    It fits by `bayesprune fit` into ``FOLDER/DIGEST``, a run folder that is named by the settings: a call with the same
    settings goes on from the state that an earlier one has left in ``DIGEST.part``, and of a run that is complete the
    scores are read. ``FOLDER/DIGEST.json`` holds the settings and, in the end, the scores. Where another process is
    fitting the same settings it waits for that one.

    Settings have the names of `bayesprune fit`: options by their long names (``"learning-rate"``, also written
    ``"learning_rate"``), and KEY=VALUE settings with their option in front, ``"set.kappa"``, ``"budget.density"``.

    Args:
        folder: Where run folders go; it is made if it is not there. A relative one, and paths among `arguments`, are
            those of the folder in which this is made.
        arguments: Settings that all trials have in common, ``{"data": "digits", "prior": "halo", "epochs": 20}``.
        objectives: Names of the scores that are looked for, in `OBJECTIVES`; default: the nll on validation data.
            The first is what `report` is told of each epoch, where it is one of validation data.
        timed: Whether the network is timed too, which takes a second or two and depends on what else the machine does;
            default False: only where ``"latency"`` is an objective.

    Raises:
        ValueError: If a name or an objective is unknown, or an option refuses its value.
    """

    def __init__(
        self,
        folder: str | Path,
        arguments: Mapping[str, Any],
        objectives: Sequence[str] = ("validation_nll",),
        timed: bool = False,
    ) -> None:
        self.folder = expanded(folder).absolute()
        self.arguments = _at_this_place(checked_settings(arguments))
        self.objectives = checked_objectives(objectives)
        self.timed = timed or "latency" in self.objectives

    def place(self, config: Mapping[str, Any]) -> Path:
        """The run folder of settings, whether it is there or not.

        Args:
            config: The settings of a trial; they stand in place of `arguments` of the same names.
        """
        return self.folder / digest_of(self._all_of(checked_settings(config)))

    def __call__(
        self, config: Mapping[str, Any], report: Report | None = None, abandoned: bool = False
    ) -> dict[str, Any]:
        """Fits, and returns the scores.

        Args:
            config: The settings of the trial, the seed among them.
            report: Is told after each epoch, and may raise an exception to end the fit, which then passes; default
                None.
            abandoned: Whether somebody knows that no other process is fitting these settings any more, though one on
                another machine seems to; default False.

        Returns:
            Scores by name; what there is none of is None. ``validation_nll`` (nats per example),
            ``validation_accuracy`` or ``validation_rmse``, ``validation_ece``, ``test_accuracy``, ``test_nll`` and so
            on; ``density`` and ``sparsity`` (fractions of the weights with a prior) and ``nonzero`` and ``weights``
            (counts of them); ``macs`` of an example, of the weights that are left, and ``dense_macs``; ``latency`` of
            the compact network (seconds an example), where asked for; ``seconds`` of the fit; ``resumed_at_epoch``,
            None for a fit in one go; ``run``, its folder.

        Raises:
            ValueError: For bad settings, or if an objective has no value there.
            NonFiniteLossError: If the loss becomes NaN or infinite.
            OSError: If the folder cannot be written.
            Exception: What `report` raises.
        """
        settings = checked_settings(config)
        asked = self._all_of(settings)
        run = self.folder / digest_of(asked)
        file = run.with_name(f"{run.name}.json")
        self._begin(file, settings)
        if run.exists() and (kept := self._kept(file)) is not None:
            return {**kept, "run": str(run)}
        keywords = fit_keywords({name: value for name, value in asked.items() if not name.startswith("content of ")})
        callbacks: list[Callback] = [] if report is None else [_Reporting(report, self.objectives[0])]
        try:
            summary = self._fitted(run, keywords, callbacks, abandoned)
            scores = self._scores(run, summary, keywords)
        except (ValueError, ArithmeticError, RuntimeError) as problem:
            self._write(file, Record(settings, self.arguments, None, " ".join(str(problem).split())))
            raise
        self._write(file, Record(settings, self.arguments, scores))
        return scores

    def check(self, config: Mapping[str, Any]) -> None:
        """Finds what is wrong with settings as far as that can be known before training; leaves nothing behind.

        Args:
            config: The settings of the trial.

        Raises:
            ValueError: In one sentence.
        """
        asked = {**self.arguments, **checked_settings(config)}
        keywords = fit_keywords(asked)
        if asked.get("tune") or asked.get("epochs") == 0 or asked.get("weights"):
            return  # something is fitted before there is anything to call back
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_CheckedError):
            fit_run(Path(folder) / "run", callbacks=[_Checking()], **keywords)

    def end_early(self, config: Mapping[str, Any], epoch: int) -> None:
        """Writes down that a fit was ended by `report` for good, and removes its state: it is not gone on with.

        Args:
            config: The settings of the trial.
            epoch: Epochs that were done.
        """
        settings, run = checked_settings(config), self.place(config)
        self._write(run.with_name(f"{run.name}.json"), Record(settings, self.arguments, ended_early=epoch))
        shutil.rmtree(part_folder(run), ignore_errors=True)

    def _all_of(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All settings of a trial, with the contents of files that they name: others are another trial."""
        asked = {**self.arguments, **settings}
        for name in ("weights", "prior", "network", "budget"):
            given = asked.get(name)
            for one in given if isinstance(given, list) else [given]:
                place = str(one).rpartition(":")[0] if isinstance(one, str) and is_code(one) else one
                if isinstance(place, str) and (file := expanded(place)).is_file():
                    asked[f"content of {name}"] = content_of(file)
        return asked

    def _kept(self, file: Path) -> dict[str, Any] | None:
        """The scores that an earlier call has found, if they are all that is looked for."""
        scores, needed = read_record(file).scores, {*self.objectives, *(["latency"] if self.timed else [])}
        return None if scores is None or any(scores.get(name) is None for name in needed) else scores

    def _begin(self, file: Path, settings: Mapping[str, Any]) -> None:
        with folders_above(file):
            if not file.exists():
                self._write(file, Record(dict(settings), self.arguments))

    def _write(self, file: Path, record: Record) -> None:
        write_json(file, {"format": FORMAT, **vars(record)})

    def _fitted(
        self, run: Path, keywords: dict[str, Any], callbacks: list[Callback], abandoned: bool
    ) -> Mapping[str, Any]:
        """The summary of the run, fitted if it is not there."""
        if abandoned:
            abandon(run)
        while not run.exists():
            try:
                return fit_run(run, callbacks=callbacks, **keywords)
            except RunInUse:
                time.sleep(_WAIT)
        return read_summary(run)

    def _scores(self, run: Path, summary: Mapping[str, Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
        found = {name: summary.get(name) for name in _SUMMED}
        found |= {"test_nll": summary.get("nll"), "test_ece": summary.get("ece")}
        found["density"] = None if summary.get("sparsity") is None else 1.0 - summary["sparsity"]
        found |= self._costs(run, summary, keywords)
        found["run"] = str(run)
        for name in self.objectives:
            value = found.get(name)
            if value is None or not math.isfinite(value):
                has = [one for one in OBJECTIVES if found.get(one) is not None]
                raise ValueError(f"the fit in {run} has no {name} to look for: its scores are {', '.join(has)}")
        return found

    def _costs(self, run: Path, summary: Mapping[str, Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
        """MACs, and latency where asked for, of the first restart as it is pruned by itself."""
        code = {kind: keywords[kind] for kind in ("network", "prior") if is_code(str(keywords.get(kind)))}
        fit = load_run(run, **code)
        splits = load_data(keywords["data"], seed=summary["data_seed"], root=keywords.get("data_root"))
        first = default_prunings(fit)[0]
        pruning = {} if "sparsity" in first else first  # what is left by itself, and not how it could be pruned
        network = measure(fit, [pruning], splits.train, {"validation": splits.validation}, self.timed)["networks"][0][0]
        names = {"macs": "sparse_macs", "dense_macs": "dense_macs", "latency": "latency"}
        return {name: None if network is None else network[key] for name, key in names.items()}


class _CheckedError(Exception):
    """All is as it should be."""


class _Checking(Callback):
    """Ends a fit before its first step."""

    is_resumable = True

    def on_fit_start(self, state: FitState) -> None:
        raise _CheckedError


class _Reporting(Callback):
    """Tells of each epoch."""

    is_resumable = True  # it remembers nothing

    def __init__(self, report: Report, name: str) -> None:
        self.report, self.name = report, name

    def on_epoch(self, state: FitState) -> None:
        value = state.history[-1].get(self.name)
        done = state.restart * state.epochs + state.epoch
        self.report(done, float(value) if value is not None and math.isfinite(value) else None)


def checked_objectives(given: Sequence[str]) -> tuple[str, ...]:
    """Names of objectives, each known and once.

    Raises:
        ValueError: If there is none, one is unknown or comes twice.
    """
    names = (given,) if isinstance(given, str) else tuple(given)
    for number, name in enumerate(names):
        if name not in OBJECTIVES:
            raise ValueError(f"objective {name!r} is unknown: expected one of {', '.join(OBJECTIVES)}")
        if name in names[:number]:
            raise ValueError(f"objective {name} is given twice: give it once")
    if not names:
        raise ValueError(f"a sweep looks for one objective at least: give one of {', '.join(OBJECTIVES)}")
    return names


def fit_keywords(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `fit_run` that settings are.

    Args:
        settings: By name, as `checked_settings` returns them.

    Raises:
        ValueError: If the budget is none.
    """
    arguments: dict[str, Any] = {}
    pairs: dict[str, dict[str, Any]] = {option: {} for option in PAIRS}
    for name, value in settings.items():
        option, point, key = name.partition(".")
        if point:
            pairs[option][key] = value
        elif option == "budget":
            pairs[option] |= budget_of_fit([] if value is None else [value] if isinstance(value, str) else value)
        elif option == "local-reparameterisation":
            if value is not None:  # left out where it is not given, as the command does
                arguments["local_reparameterisation"] = OUTPUTS_DRAWN.get(value, value)
        else:
            several = option in REPEATED and isinstance(value, str)
            arguments[option.replace("-", "_")] = [value] if several else value
    recipe = arguments.pop("recipe", None), pairs.pop("recipe-set")
    arguments["on"] = tuple(arguments["on"]) if arguments.get("on") else None
    return {"network": "lenet-300-100", **arguments, "recipe": recipe, **{PAIRS[one]: of for one, of in pairs.items()}}


def read_record(file: str | Path) -> Record:
    """Reads FOLDER/DIGEST.json of a trial.

    Raises:
        ValueError: If it is missing or damaged.
    """
    place = expanded(file)
    kinds = {
        "settings": dict, "arguments": dict, "scores": (dict, type(None)), "problem": (str, type(None)),
        "ended_early": (int, type(None)),
    }  # fmt: skip
    found = read_json(place, REMEDY, {"format": int})
    need(place, found, kinds, REMEDY)
    return Record(**{name: found[name] for name in kinds})


def _at_this_place(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments whose paths are absolute, so that they are the same in processes that run elsewhere."""
    found = dict(arguments)
    if isinstance(data := found.get("data"), str) and data not in DATASETS:
        found["data"] = str(expanded(data).absolute())
    for name in ("weights", "data-root"):
        if isinstance(found.get(name), str):
            found[name] = str(expanded(found[name]).absolute())
    for name in ("prior", "network"):
        if isinstance(found.get(name), str):
            found[name] = absolute(found[name])
    return found
