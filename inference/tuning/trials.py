"""Trials: short fits of a model at values of its knobs, scored on validation data, and kept in a folder.

FOLDER/trials.json     what was asked for, and what each finished trial came to
FOLDER/trial-000       the state of training of the first one (`fit(checkpoint=)`), and so on
"""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from bayesprune.inference.data.batches import Data
from bayesprune.inference.data.fingerprints import data_fingerprint, described, names_of_today
from bayesprune.inference.defaults.knob_grid import KL_WEIGHT
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.inference.predictions.plain_scores import plain_scores
from bayesprune.inference.pruning.prune import prune
from bayesprune.inference.sparsity_path.next_fit import fit_from
from bayesprune.inference.training.checkpoint import CheckpointError
from bayesprune.inference.training.fit_options import filled_in
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.renamed_arguments import by_new_names
from bayesprune.models.files.json_file import damaged, need, read_json, write_json

__all__ = ["FORMS", "Trial", "Trials", "Values", "form_scores", "trials_kept"]

TRIALS_FILE = "trials.json"
_REMEDY = "begin anew in another folder"
_FOLDS = 10
FORMS = ("averaged", "means")
"""What can be scored of a fit, by the words of `score_forms`, which makes all of them at once."""
_ROW: dict[str, Any] = {
    "number": int, "knob": str, "values": dict, "warm_from": (int, type(None)), "steps": int,
    "nll": (float, type(None)), "standard_error": (float, type(None)), "score_name": str, "score": (float, type(None)),
    "sparsity": (float, type(None)), "seconds": float, "problem": (str, type(None)),
}  # fmt: skip
_LATER: dict[str, Any] = {"density": (float, type(None)), "density_before": (float, type(None))}
"""Keys that trials of earlier versions do not have."""

Values = Mapping[str, float | None]
"""Values of knobs by name; None: what the model takes by itself."""


@dataclass(frozen=True)
class Trial:
    """What one short fit came to.

    Attributes:
        number: Which trial, from 0.
        knob: The knob that it was a trial of.
        values: Values of all the knobs.
        warm_from: Number of the trial that it was warm-started from; None: a cold start.
        steps: Its length.
        nll: Of what is scored (the averaged prediction, or the median-probability model) on validation data, nats per
            example; None where it is not finite, or the fit ended with a loss that was not.
        standard_error: Of `nll`, from ten folds of the validation data; None where it was not asked for.
        score_name: Name of the likelihood's first score, ``"accuracy"`` or ``"rmse"``; empty where the fit failed.
        score: That score, on validation data.
        sparsity: What the fit left out itself, a fraction of zeros.
        seconds: That it took.
        problem: Why there is no fit: its loss was not finite, or its model cannot be had; None where there is one.
        density: Under a budget of weights, the share that is left, a fraction of 1; else None.
        density_before: The share that the budget's controller had come to by itself, before the last correction; of a
            budget by layer the total. None without one.
    """

    number: int
    knob: str
    values: dict[str, float | None]
    warm_from: int | None
    steps: int
    nll: float | None
    standard_error: float | None
    score_name: str
    score: float | None
    sparsity: float | None
    seconds: float
    problem: str | None = None
    density: float | None = None
    density_before: float | None = None

    @property
    def is_finite(self) -> bool:
        """Whether it came to an end with a finite score: anything else is never chosen."""
        return self.nll is not None

    @property
    def loss(self) -> float:
        """`nll`, infinity where there is none."""
        return math.inf if self.nll is None else self.nll


class Trials:
    """Runs trials one after the other; those that a folder keeps are not run again.

    Args:
        model_at: Makes the model at values of the prior's knobs.
        data: Training data.
        validation: `(x, y)`.
        first_steps: Length of a cold start.
        steps: Length of a warm one.
        with_errors: Whether standard errors are wanted.
        how: Further arguments of `fit`, the KL weight aside.
        folder: Where trials are kept; None: nowhere.
        asked: What tells this search from another one, which is refused; JSON must hold it.
        form: What is scored: ``"averaged"`` (default), the prediction averaged over draws, or ``"means"``, the network
            of the median-probability model at its means.

    Attributes:
        rows: The trials so far.

    Raises:
        ValueError: If the folder keeps trials of another search, or is damaged.
    """

    def __init__(
        self,
        model_at: Callable[..., BayesianNetwork],
        data: Data,
        validation: tuple[Tensor, Tensor],
        first_steps: int,
        steps: int,
        with_errors: bool,
        how: Mapping[str, Any],
        folder: Path | None,
        asked: Mapping[str, Any],
        form: str = "averaged",
    ) -> None:
        self.model_at, self.data, self.validation, self.how = model_at, data, validation, dict(how)
        self.lengths, self.with_errors, self.folder = (first_steps, steps), with_errors, folder
        self.form = form
        self.rows: list[Trial] = []
        self._fits: dict[int, Fit] = {}
        self._asked = {
            **asked,
            "lengths": list(self.lengths),
            "data": data_fingerprint(data),
            "validation": data_fingerprint(tuple(validation)),
            "how": described({name: value for name, value in filled_in(self.how).items() if name != "progress"}),
        }
        self._kept = [] if folder is None else self._read(folder)

    def run(self, knob: str, values: Values, before: Trial | None = None) -> Trial:
        """Fits and scores at these values, unless it is kept already.

        Args:
            knob: The knob that it is a trial of.
            values: Values of all knobs.
            before: A trial to be warm-started from; default None: a cold start.
        """
        number = len(self.rows)
        if number < len(self._kept):
            trial = self._kept[number]
        else:
            trial = self._scored(knob, values, before)
            self._keep(trial)
        self.rows.append(trial)
        return trial

    def forget(self, *but: Trial | None) -> None:
        """Lets go of the fits in memory of all trials but these."""
        kept = {trial.number for trial in but if trial is not None}
        self._fits = {number: fit for number, fit in self._fits.items() if number in kept}

    def _fit(self, number: int, values: Values, before: Trial | None) -> Fit:
        """The fit of a trial; one that a folder keeps is restored."""
        if number not in self._fits:
            given = {name: value for name, value in values.items() if name != KL_WEIGHT}
            weight = {} if values.get(KL_WEIGHT) is None else {KL_WEIGHT: values[KL_WEIGHT]}
            start = None
            if before is not None:
                earlier = None if before.warm_from is None else self.rows[before.warm_from]
                start = self._fit(before.number, before.values, earlier)
            first, later = self.lengths
            self._fits[number] = fit_from(
                start,
                self.model_at(**given),
                self.data,
                first={"steps": first},
                later={"steps": later},
                checkpoint=None if self.folder is None else self.folder / f"trial-{number:03d}",
                **{**self.how, **weight},
            )
        return self._fits[number]

    def _scored(self, knob: str, values: Values, before: Trial | None) -> Trial:
        number, began = len(self.rows), time.perf_counter()
        loss, name, score, error, sparsity, problem = math.nan, "", math.nan, None, None, None
        found = dict(values)
        density: tuple[float | None, float | None] = (None, None)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of values that are only tried
                fit = self._fit(number, values, before)
            scores = self._scores(fit)
            loss, name = scores["nll"], next(iter(scores))
            score, sparsity = scores[name], fit.summary()["sparsity"]
            if KL_WEIGHT in found:  # the default of `fit`, where it was left to it
                found[KL_WEIGHT] = float(fit.settings[KL_WEIGHT])
            density = _densities(fit)
            if self.with_errors:
                error = _finite(self._standard_error(fit))
        except NonFiniteLossError as reason:
            problem = str(reason)
        except ValueError as reason:
            if number == 0 or isinstance(reason, CheckpointError):  # not of this value
                raise
            problem = str(reason)
        return Trial(
            number, knob, found, None if before is None else before.number, self.lengths[before is not None],
            _finite(loss), error, name, _finite(score), sparsity, time.perf_counter() - began, problem, *density,
        )  # fmt: skip

    def _scores(self, fit: Fit, rows: slice = slice(None)) -> dict[str, float]:
        """Scores on validation data, or on some rows of them."""
        x, y = (part[rows] for part in self.validation)
        return form_scores(fit, self.form, x, y)

    def _standard_error(self, fit: Fit) -> float:
        """Of the mean of the nll over examples, from the means of folds: the prediction is the same for all of them."""
        folds = min(_FOLDS, len(self.validation[0]))
        if folds < 2:
            return 0.0
        means = [self._nll(fit, slice(fold, None, folds)) for fold in range(folds)]
        middle = sum(means) / folds
        return math.sqrt(sum((mean - middle) ** 2 for mean in means) / (folds - 1) / folds)

    def _nll(self, fit: Fit, rows: slice) -> float:
        x, y = (part[rows] for part in self.validation)
        return fit.negative_log_likelihood(x, y) if self.form == "averaged" else self._scores(fit, rows)["nll"]

    def _keep(self, trial: Trial) -> None:
        if self.folder is None:
            return
        rows = [asdict(one) for one in (*self.rows, trial)]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / TRIALS_FILE, {"asked": self._asked, "trials": rows})

    def _read(self, folder: Path) -> list[Trial]:
        file = folder / TRIALS_FILE
        if not file.is_file():
            return []
        found = read_json(file, _REMEDY, {"asked": dict, "trials": list})
        asked = json.loads(json.dumps(self._asked))  # as it is read back: tuples are lists there
        before = found["asked"]
        if isinstance(before.get("how"), dict):
            how = names_of_today(by_new_names(before["how"]))
            if how.pop("gating", None) is not None:  # of an earlier version, which kept its name alone
                how |= {name: asked["how"][name] for name in ("rules", "gating") if name in asked["how"]}
            before = {**before, "how": how}
        for name in {**asked, **before}:
            if asked.get(name) != before.get(name):
                raise ValueError(
                    f"{folder} keeps trials with {name} {before.get(name)}, but now it is {asked.get(name)}: "
                    f"call it with the arguments of then to go on, or {_REMEDY}"
                )
        rows, kept = [], list[dict[str, Any]](found["trials"])
        for number, row in enumerate(kept):
            if not isinstance(row, dict) or set(row) - set(_LATER) != set(_ROW):
                raise damaged(file, "its trials have other keys", _REMEDY)
            row = {**dict.fromkeys(_LATER), **row}
            need(file, row, {**_ROW, **_LATER}, _REMEDY)
            is_before = row["warm_from"] is None or 0 <= row["warm_from"] < number
            if row["number"] != number or not is_before:
                raise damaged(file, "its trials are in another order", _REMEDY)
            rows.append(Trial(**row))
        return rows


def form_scores(fit: Fit, form: str, x: Tensor, y: Tensor, restart: int | None = None) -> dict[str, float]:
    """Scores of one form of a fit: those of the likelihood first, and nll in nats per example.

    Args:
        fit: The fit.
        form: ``"averaged"`` or ``"means"``, as for `Trials`.
        x: Inputs, `(n, ...)`.
        y: Targets.
        restart: Which restart; default None: all of them averaged, of the median-probability model the first.
    """
    if form == "averaged":
        return fit.score(x, y) if restart is None else fit.score(x, y, restart=restart)
    pruned = prune(fit, min_inclusion=0.5, restart=restart or 0)
    return plain_scores(pruned.network, pruned.likelihood, x, y)


def _densities(fit: Fit) -> tuple[float | None, float | None]:
    """What a budget of weights has left, and had before its last correction; None without one."""
    for said in fit.settings.get("budget") or ():
        if said["kind"] == "density":
            before = said["landing"].get("before", said["reached_count"])
            before = sum(before.values()) if isinstance(before, Mapping) else before
            return float(said["reached"]), float(before / said["whole"])
    return None, None


def trials_kept(folder: Path) -> int:
    """How many trials a folder keeps, finished or begun; 0 where it is no folder of trials."""
    return len({file.parent for file in folder.glob("trial-*/restart-*.json")})


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
