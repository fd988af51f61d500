"""`bayesprune fit --tune`: which knobs, the trials, the full fit at what was chosen, and the table."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bayesprune.commands.console import figure, percent, stdout, table
from bayesprune.data.sets import DataSplits
from bayesprune.inference.defaults.knob_grid import BY_DATA_SIZE, KL_WEIGHT, MOST_VALUES, around, given_knobs
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.training.fit import fit
from bayesprune.inference.tuning.trials import Values
from bayesprune.inference.tuning.tuning import FIRST_STEPS, STEPS, Tuned, tune
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.priors.ready import PRIORS
from bayesprune.runs.code_trust import is_code
from bayesprune.runs.declaration import Declaration, resolve_prior
from bayesprune.runs.part_folder import Part
from bayesprune.runs.prior_files import import_object
from bayesprune.runs.starting_weights import StartingWeights

__all__ = ["Tuning", "asked_tuning", "fit_tuned", "print_tuned"]

_NO_KNOBS = ("data_size",)
"""What ready priors call a setting, and is a fact."""


@dataclass(frozen=True)
class Tuning:
    """What `--tune` asks for.

    Attributes:
        knobs: Values by name; None where they are found around the start.
        start: Where the prior's knobs start; None: left to the prior.
    """

    knobs: dict[str, list[float] | None]
    start: dict[str, float | None]


def asked_tuning(tune: Any, prior: str, settings: Mapping[str, Any], epochs: int | None) -> Tuning:
    """Reads `--tune`, and refuses what cannot be tuned before data are fetched.

    Args:
        tune: Texts ``KNOB[=A,B,...],...``, or what `bayesprune.tune` takes for its knobs.
        prior: The prior, by name.
        settings: Its settings: a knob among them starts there.
        epochs: Passes over the data; with 0 nothing is trained.

    Raises:
        ValueError: If there is no such knob, a value is out of range, or a knob has no place to start.
    """
    if epochs == 0:
        raise ValueError("--epochs 0 trains nothing, so there is nothing to tune: leave out --tune")
    knobs = given_knobs(tune if isinstance(tune, Mapping) else _parsed([tune] if isinstance(tune, str) else tune))
    known = _settings_of(prior)
    start: dict[str, float | None] = {}
    for knob, grid in knobs.items():
        if knob == KL_WEIGHT:
            continue
        if knob not in known:
            close = difflib.get_close_matches(knob, [KL_WEIGHT, *known], n=1)
            meant = f" (did you mean {close[0]!r}?)" if close else ""
            listed = f"the settings of {prior}, {', '.join(known)}" if known else f"{prior} has no settings"
            raise ValueError(f"--tune knows no {_shown(knob)}{meant}: its knobs are {KL_WEIGHT}, and {listed}")
        default = known[knob]
        start[knob] = settings.get(knob, None if default is inspect.Parameter.empty else default)
        if grid is None and not (start[knob] is None and knob in BY_DATA_SIZE):
            around(knob, start[knob])
        for value in grid or ():
            resolve_prior(prior, {**settings, knob: value}, data_size=1)
    return Tuning(knobs, start)


def fit_tuned(
    tuning: Tuning,
    declaration: Declaration,
    splits: DataSplits,
    weights: StartingWeights | None,
    part: Part,
    how: Mapping[str, Any],
) -> tuple[Fit, Declaration, Tuned]:
    """Tunes, then fits in full at what was chosen, or as before where that turns out no better.

    Args:
        tuning: What `--tune` asks for.
        declaration: The model at the settings before.
        splits: The data.
        weights: The weights to start from; default random ones.
        part: Where trials and states of training are kept.
        how: Arguments of `bayesprune.fit`.

    Returns:
        The fit, the model at the values that it is at, and what was tried.

    Raises:
        ValueError: If there are no validation data, or something kept is of another search.
        NonFiniteLossError: If the loss of the full fit becomes NaN or infinite.
    """
    if not len(splits.validation[0]):
        raise ValueError(f"{splits.name} has no validation data, on which --tune chooses: give more examples")
    seed = how["seed"]

    def declared(values: Values) -> Declaration:
        given = {name: value for name, value in values.items() if name != KL_WEIGHT and value is not None}
        return replace(declaration, prior_settings={**declaration.prior_settings, **given})

    def model_at(**values: float | None) -> BayesianNetwork:
        return declared(values).model(seed, weights)

    # A trial is no longer than the fit that it is for.
    longest = _length(how, len(splits.train[0]))
    whole = ("epochs", "steps", "restarts", "validation", "callbacks")
    tuned = tune(
        model_at,
        splits.train,
        splits.validation,
        tuning.knobs,
        start=tuning.start,
        first_steps=min(FIRST_STEPS, longest),
        steps=min(STEPS, longest),
        folder=part.tuning,
        **{name: value for name, value in how.items() if name not in whole and (name, value) != (KL_WEIGHT, None)},
    )

    def fit_at(values: Values) -> Fit:
        weight = {} if values.get(KL_WEIGHT) is None else {KL_WEIGHT: values[KL_WEIGHT]}
        state = part.state if values == tuned.values else part.state_before
        return fit(model_at(**_of_prior(values)), splits.train, checkpoint=state, **{**how, **weight})

    fitted, tuned = tuned.full_fit(fit_at)
    return fitted, declared(tuned.values), tuned


def print_tuned(summary: Mapping[str, Any]) -> None:
    """Prints the trials of a run that was tuned; nothing of another one."""
    rows = summary.get("tuned")
    if not rows:
        return
    score = next((row["score_name"] for row in rows if row["score_name"]), "score")
    more = ("density", "by itself") if any(row.get("density") is not None for row in rows) else ()
    numbers = ("value", "steps", "validation nll", score, "sparsity", *more, "seconds")
    shown = table(
        "knob", "value", "start", "steps", "validation nll", score, "sparsity", *more, "seconds", "", numbers=numbers
    )
    for row in rows:
        value = row["values"][row["knob"]]
        missing = "not finite" if row["problem"] is None else "failed"
        shown.add_row(
            row["knob"], "default" if value is None else figure(value), "cold" if row["warm_from"] is None else "warm",
            str(row["steps"]), missing if row["nll"] is None else figure(row["nll"]),
            percent(row["score"]) if score == "accuracy" else figure(row["score"]), percent(row["sparsity"], 2),
            *(percent(row[key], 2) for key in ("density", "density_before")[: len(more)]),
            f"{row['seconds']:.1f}", "chosen" if row["chosen"] else "",
        )  # fmt: skip
    stdout().print(shown)


def _parsed(texts: Any) -> dict[str, list[float] | None]:
    """Reads ``kl_weight=1,0.1,expected_density``: a number belongs to the knob before it."""
    found: dict[str, list[float] | None] = {}
    for text in texts:
        knob: str | None = None
        for part in (part.strip() for part in str(text).split(",")):
            name, equals, value = part.partition("=")
            if number := _number(part):
                if knob is None or found[knob] is None:
                    raise _unreadable(text)
                found[knob] = [*(found[knob] or []), number[0]]
            elif not name or (equals and not _number(value)):
                raise _unreadable(text)
            else:
                knob = name.replace("-", "_")
                if knob in found:
                    raise ValueError(f"--tune gives {_shown(knob)} twice: give it once")
                found[knob] = [_number(value)[0]] if equals else None
            if knob is not None and len(found[knob] or []) > MOST_VALUES:
                raise ValueError(f"--tune gives {knob} more than {MOST_VALUES} values: leave some out")
    return found


def _number(text: str) -> tuple[float, ...]:
    """A finite number that a text is, alone; nothing where it is none."""
    try:
        value = float(text)
    except ValueError:
        return ()
    return (value,) if math.isfinite(value) else ()


def _unreadable(text: Any) -> ValueError:
    return ValueError(
        f"--tune takes names of knobs, each with finite numbers or without, such as kl_weight=1,0.1,expected_density, "
        f"not {_shown(text)}"
    )


def _shown(text: Any) -> str:
    shown = repr(str(text))
    return shown if len(shown) <= 80 else f"{shown[:80]}..."


def _settings_of(prior: str) -> dict[str, Any]:
    """Settings of a prior with their defaults."""
    if prior in PRIORS:
        found = PRIORS[prior].settings
    else:
        made = import_object(prior, "prior") if is_code(prior) else None
        callables = inspect.signature(made).parameters if callable(made) and not isinstance(made, type) else {}
        found = {name: one.default for name, one in callables.items()}
    return {name: value for name, value in found.items() if name not in _NO_KNOBS}


def _length(how: Mapping[str, Any], examples: int) -> int:
    """Steps of the full fit; where its length is left to `fit`, as many as a trial may have."""
    if how.get("steps") is not None:
        return int(how["steps"])
    if how.get("epochs") is None:
        return FIRST_STEPS
    return int(how["epochs"]) * math.ceil(examples / how.get("batch_size", 128))


def _of_prior(values: Values) -> dict[str, float | None]:
    return {name: value for name, value in values.items() if name != KL_WEIGHT}
