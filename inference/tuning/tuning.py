"""Tuning: a few short fits over the KL weight and knobs of the prior, chosen between on validation data.

Knobs are searched one after the other, each with the values found so far of the others. The fits of one knob go from
dense to sparse, each warm-started from the one before (`sparsity_path` does the same). A warm start can hide that a
prior would prune everything away from a cold one, so what is chosen has been fitted from a cold start, as long as the
start itself, and scored better. Under a budget every fit is to end at one density: none is denser than another, a warm
one would begin where its ramp is to end, and all start cold.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bayesprune.inference.data.batches import Data
from bayesprune.inference.data.fingerprints import model_fingerprint
from bayesprune.inference.defaults.knob_grid import BY_DATA_SIZE, KL_WEIGHT, around, from_dense_to_sparse, given_knobs
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.inference.rules.budget import Budget
from bayesprune.inference.training.fit import fit
from bayesprune.inference.tuning.trials import FORMS, Trial, Trials, Values, form_scores
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.given_numbers import whole_number
from bayesprune.models.checks.renamed_arguments import takes_old_names
from bayesprune.models.costs.layer_budgets import LayerBudget
from bayesprune.models.files.places import expanded
from bayesprune.models.language.tensor_prior import TensorPrior

__all__ = ["FIRST_STEPS", "RULES", "STEPS", "Tuned", "tune"]

FIRST_STEPS, STEPS = 800, 200
"""Length of a trial that starts cold, and of a warm one."""
RULES = ("best", "one-standard-error")
_CONFIRMED = 2
"""Warm trials of a knob that are fitted again from a cold start: more would cost more than all cold ones."""
_OURS = ("start", "epochs", "restarts", "checkpoint")
ModelAt = Callable[..., BayesianNetwork]


@dataclass(frozen=True)
class Tuned:
    """What `tune` chose, and what it tried. `str()` is a table.

    Attributes:
        values: The values chosen, by knob; None: what the model takes by itself.
        before: The trial at the values one started at.
        chosen: The trial at `values`, from a cold start as well; `before` itself where nothing was better.
        trials: All of them, in order.
        notes: Sentences worth telling the user.
        fit_at: Makes the full fit at values of the knobs, given further arguments of `bayesprune.fit`.
        validation: The validation data.
        form: What was scored on them: ``"averaged"`` or ``"means"``.
    """

    values: dict[str, float | None]
    before: Trial
    chosen: Trial
    trials: tuple[Trial, ...]
    notes: tuple[str, ...]
    fit_at: Callable[..., Fit] = field(repr=False, compare=False)
    validation: tuple[Tensor, Tensor] = field(repr=False, compare=False)
    form: str = "averaged"

    @takes_old_names
    def fit(self, **how: Any) -> Fit:
        """The full fit, from a cold start; `full_fit` also says whether it had to be at the values before.

        Args:
            **how: Arguments of `bayesprune.fit`, such as its length; those of `tune` are taken up.
        """
        return self.full_fit(lambda values: self.fit_at(values, **how))[0]

    def full_fit(self, fit_at: Callable[[Values], Fit]) -> tuple[Fit, Tuned]:
        """Fits in full at the values chosen, and at those before where that scores no better than the start did.

        Args:
            fit_at: Makes the full fit at values of the knobs.

        Returns:
            The fit, and this object with the values that it is at and a note where they are those before.

        Raises:
            NonFiniteLossError: If the loss of the fit that is left becomes NaN or infinite.
        """
        if self.chosen is self.before:
            return fit_at(self.values), self
        fitted, loss = self._scored(fit_at, self.values)
        if fitted is not None and loss < self.before.loss:
            if loss <= self.chosen.loss:
                return fitted, self
            note = (
                f"the full fit has a validation nll of {loss:.4g}, more than the {self.chosen.loss:.4g} of the short "
                "one by which its settings were tuned: compare with a fit of fewer steps"
            )
            return fitted, replace(self, notes=(*self.notes, note))
        earlier, earlier_loss = self._scored(fit_at, self.before.values)
        if earlier is None or (fitted is not None and not earlier_loss < loss):
            if fitted is None:
                raise NonFiniteLossError("neither the tuned settings nor those before give a full fit of finite loss")
            return fitted, self
        note = (
            f"the full fit at {_told(self.values)} has a validation nll of {loss:.4g}, and that at "
            f"{_told(self.before.values)} one of {earlier_loss:.4g}: the settings before tuning are kept"
        )
        kept = replace(self, values=dict(self.before.values), chosen=self.before, notes=(*self.notes, note))
        return earlier, kept

    def rows(self) -> list[dict[str, Any]]:
        """The trials as JSON holds them, each with whether it was ``chosen``."""
        return [{**asdict(trial), "chosen": trial is self.chosen} for trial in self.trials]

    def _scored(self, fit_at: Callable[[Values], Fit], values: Values) -> tuple[Fit | None, float]:
        """A full fit and its nll, of several restarts the mean; None and infinity where it is not finite."""
        try:
            fitted = fit_at(values)
        except NonFiniteLossError:
            return None, math.inf
        x, y = self.validation
        found = [form_scores(fitted, self.form, x, y, number)["nll"] for number in range(len(fitted.restarts))]
        loss = sum(found) / len(found)
        return fitted, loss if math.isfinite(loss) else math.inf

    def __str__(self) -> str:
        head = f"{'knob':<18} {'value':>10} {'start':>6} {'nll':>9} {'score':>9} {'sparsity':>9} {'seconds':>8}"
        is_budgeted = any(trial.density is not None for trial in self.trials)
        lines = [head + (f" {'density':>9} {'by itself':>9}" if is_budgeted else "")]
        for trial in self.trials:
            value = trial.values[trial.knob]
            cells = (
                f"{trial.knob:<18}", f"{'default' if value is None else f'{value:.4g}':>10}",
                f"{'cold' if trial.warm_from is None else 'warm':>6}", f"{_figure(trial.nll):>9}",
                f"{_figure(trial.score):>9}", f"{_figure(trial.sparsity):>9}", f"{trial.seconds:>8.1f}",
                *((f"{_figure(trial.density):>9}", f"{_figure(trial.density_before):>9}") if is_budgeted else ()),
            )  # fmt: skip
            lines.append(" ".join(cells) + ("  chosen" if trial is self.chosen else ""))
        return "\n".join([*lines, *self.notes])


@takes_old_names
def tune(
    model_at: ModelAt | BayesianNetwork,
    data: Data,
    validation: tuple[Tensor, Tensor] | None,
    knobs: Any = KL_WEIGHT,
    *,
    start: Values | None = None,
    rule: str = "best",
    first_steps: int = FIRST_STEPS,
    steps: int = STEPS,
    folder: str | Path | None = None,
    density: float | int | LayerBudget | Mapping[str, float] | None = None,
    form: str = "averaged",
    **how: Any,
) -> Tuned:
    """Chooses values of knobs on validation data, by a few short fits; `Tuned.fit` is the full one.

    Args:
        model_at: Makes the model at values of the prior's knobs, given by name: ``lambda expected_density=0.1: ...``;
            all of one structure. Where only the KL weight is tuned, the model itself will do.
        data: Training data, as `fit` takes them.
        validation: `(x, y)` that choose.
        knobs: What is tuned: a name, ``"kl_weight,expected_density"``, a sequence of names, or values by name, as
            ``{"kl_weight": (1, 0.1)}``. ``"kl_weight"`` is that of `fit`, and comes first; the others are arguments of
            `model_at`. Without values they are a short geometric grid around the start (docs/tuning.md); of those the
            ones that `model_at` refuses are left out. Default the KL weight.
        start: Where the prior's knobs start; default: the defaults of `model_at`'s arguments, or the first value
            given. The KL weight starts at ``kl_weight=``, or at the default of `fit`.
        rule: ``"best"`` (default): the lowest validation nll of the averaged prediction; ``"one-standard-error"``: the
            sparsest value (the last in order) that is within one standard error of the best. Of both only what
            is finite and better than the start is chosen.
        first_steps: Length of a cold start; default 800.
        steps: Length of a warm one; default 200. With gates of units, and under a budget, all starts are cold.
        folder: Where trials are kept: the same call goes on after the last finished one, with the same numbers.
            Default None: nowhere.
        density: What all fits are to end at, the trials and the full one, as `Budget` takes it: a share of the weights
            in (0, 1), their number, or one by layer; the same as ``rules=[Budget(density=...)]``. Default None: what
            the prior leaves.
        form: What is scored on validation data: ``"averaged"`` (default), the prediction averaged over draws, or
            ``"means"``, the network of the median-probability model at its means, for priors with gates.
        **how: Further arguments of `fit`, for the trials and for `Tuned.fit`: ``guide``, ``kl_weight``, ``seed``, ...
            Callbacks and stopping rules do not watch trials.

    Returns:
        What was chosen, and what was tried.

    Raises:
        ValueError: For bad input, before training starts; where there are no validation data; if the folder keeps
            another search.
    """
    if validation is None or not len(validation[0]):
        raise ValueError("tuning chooses on validation data, and there are none: give validation=(x, y)")
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is unknown: expected one of {', '.join(RULES)}")
    if form not in FORMS:
        raise ValueError(f"form {form!r} is unknown: expected one of {', '.join(FORMS)}")
    if wrong := [name for name in _OURS if name in how]:
        raise ValueError(f"{wrong[0]}= is set by the trials themselves: leave it out, and give it to Tuned.fit")
    first_steps, steps = whole_number("first_steps", first_steps), whole_number("steps", steps)
    grids = given_knobs(knobs)
    make = model_at if not isinstance(model_at, BayesianNetwork) else None
    begin = _start(make, grids, dict(start or {}), how.get(KL_WEIGHT))
    made: ModelAt = make if make is not None else lambda: model_at  # type: ignore[assignment, return-value]
    first = made(**_of_prior(begin))
    how = _under_budget(first, density, how)
    if form == "means" and not any(_has_gate(prior) for prior in first.priors.values()):
        raise ValueError(
            "form='means' scores the median-probability model, but no prior of this model has gates: leave it out, or "
            "take SpikeAndSlab()"
        )
    for knob in BY_DATA_SIZE:
        if knob in grids and begin[knob] is None:
            begin[knob] = first.way_defaults.get(knob)
    values = {knob: _checked_values(made, knob, begin, grid) for knob, grid in grids.items()}
    skipped = {"callbacks", "stop", *([KL_WEIGHT] if KL_WEIGHT in grids else [])}
    short = {name: value for name, value in how.items() if name not in skipped}
    asked = {"model": model_fingerprint(first), "start": begin, "values": values, "rule": rule}
    asked |= {} if form == "averaged" else {"form": form}  # folders of earlier versions do not say it
    place = None if folder is None else expanded(folder)
    trials = Trials(made, data, validation, first_steps, steps, rule != "best", short, place, asked, form)
    goes_on = not first.closes_units and not _budgets(how)
    before = incumbent = trials.run(next(iter(grids)), begin)
    for knob, grid in grids.items():
        path, is_ordered = from_dense_to_sparse(knob, values[knob], grid is not None)
        incumbent = _search(trials, knob, path, incumbent, is_ordered and goes_on, rule)

    def full(at: Values, **more: Any) -> Fit:
        weight = {} if at.get(KL_WEIGHT) is None else {KL_WEIGHT: at[KL_WEIGHT]}
        return fit(made(**_of_prior(at)), data, **{**how, **weight, "validation": validation, **more})

    tried = tuple(trials.rows)
    return Tuned(dict(incumbent.values), before, incumbent, tried, _notes(before, incumbent), full, validation, form)


def _budgets(how: Mapping[str, Any]) -> list[Budget]:
    return [rule for rule in how.get("rules") or () if isinstance(rule, Budget)]


def _under_budget(model: BayesianNetwork, density: Any, how: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `fit` with a budget among the rules, refused before anything is fitted where it cannot be met."""
    if density is not None:
        if _budgets(how):
            raise ValueError("density= is a Budget of its own, and rules= has one already: give one of the two")
        how = {**how, "rules": [*(how.get("rules") or ()), Budget(density=density)]}
    for budget in _budgets(how):
        budget.check(model, {})
    return how


def _has_gate(prior: TensorPrior) -> bool:
    event = prior.hierarchy.included
    return event is not None and event.gate is not None


def _search(trials: Trials, knob: str, path: Sequence[float], incumbent: Trial, is_warm: bool, rule: str) -> Trial:
    """The best trial of one knob that started cold; the incumbent where none is better."""
    found: list[Trial] = []
    before: Trial | None = None
    inserted = [incumbent.values[knob] == value for value in path]
    for value, is_there in zip(path, inserted, strict=True):
        if is_there:
            found.append(incumbent)
            if before is None or incumbent.loss <= before.loss:  # a dead one is no place to begin at
                before = incumbent if incumbent.is_finite else before
            continue
        trial = trials.run(knob, {**incumbent.values, knob: value}, before if is_warm else None)
        found.append(trial)
        before = trial if trial.is_finite else before
        trials.forget(incumbent, before)
    for _ in range(_CONFIRMED):
        best = _picked(found, incumbent, rule)
        if best.warm_from is None:
            break
        found[found.index(best)] = trials.run(knob, best.values)
        trials.forget(incumbent)
    return _picked([trial for trial in found if trial.warm_from is None], incumbent, rule)


def _picked(found: Sequence[Trial], incumbent: Trial, rule: str) -> Trial:
    """What a rule chooses among trials from dense to sparse; only what is finite and better than the incumbent."""
    better = [trial for trial in found if trial.is_finite and trial.loss < incumbent.loss]
    if not better:
        return incumbent
    best = min(better, key=lambda trial: trial.loss)
    if rule == "best":
        return best
    return [trial for trial in better if trial.loss <= best.loss + (best.standard_error or 0.0)][-1]


def _start(
    make: ModelAt | None, grids: Mapping[str, list[float] | None], start: dict[str, float | None], kl_weight: Any
) -> dict[str, float | None]:
    """Where each knob starts."""
    known = {} if make is None else inspect.signature(make).parameters
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in known.values())
    for name in {**grids, **start}:
        if name == KL_WEIGHT or name in known or takes_all:
            continue
        close = difflib.get_close_matches(name, [KL_WEIGHT, *known], n=1)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(
            f"there is no knob {name!r}{meant}: expected {KL_WEIGHT}, or an argument of model_at, "
            f"which has {', '.join(known) or 'none'}"
        )
    if outside := [name for name in start if name not in grids or name == KL_WEIGHT]:
        raise ValueError(f"start= says where the prior's knobs start that are tuned, not {outside[0]}: leave it out")
    found: dict[str, float | None] = {}
    for knob, grid in grids.items():
        default: Any = known[knob].default if knob in known else inspect.Parameter.empty
        if knob == KL_WEIGHT:
            found[knob] = kl_weight
        elif knob in start:
            found[knob] = start[knob]
        elif default is not inspect.Parameter.empty:
            found[knob] = default
        elif grid is not None:
            found[knob] = grid[0]
        else:
            raise ValueError(f"the knob {knob} has no place to start: give start={{{knob!r}: ...}}, or its values")
    return found


def _checked_values(make: ModelAt, knob: str, begin: Values, grid: list[float] | None) -> list[float]:
    """The values that are tried, all of which make a model."""
    if knob == KL_WEIGHT:
        wrong = [value for value in grid or () if value < 0.0]
        if wrong:
            raise ValueError(f"kl_weight must not be negative, not {wrong[0]}: 1 is the ELBO, less is tempered")
        return grid or around(knob, begin[knob] if begin[knob] is not None else 1.0)
    kept: list[float] = []
    refusal: ValueError | None = None
    for value in around(knob, begin[knob]) if grid is None else grid:
        try:
            make(**{**_of_prior(begin), knob: value})
        except ValueError as problem:
            if grid is not None:
                raise
            refusal = problem
        else:
            kept.append(value)
    if refusal is not None and not kept:
        raise refusal
    return kept


def _of_prior(values: Values) -> dict[str, float | None]:
    return {name: value for name, value in values.items() if name != KL_WEIGHT}


def _notes(before: Trial, chosen: Trial) -> tuple[str, ...]:
    if chosen is before:
        return (f"tuned on validation data: nothing was better than {_told(before.values)}, which is kept",)
    earlier = "not finite" if before.nll is None else f"{before.nll:.4g}"
    return (
        f"tuned on validation data: {_told(chosen.values)} in place of {_told(before.values)}, nll {chosen.loss:.4g} "
        f"where it was {earlier} after {before.steps} steps",
    )


def _told(values: Values) -> str:
    return ", ".join(f"{name} {'at its default' if at is None else f'{at:.4g}'}" for name, at in values.items())


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
