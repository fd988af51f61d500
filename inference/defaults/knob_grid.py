"""Which values of a knob `tune` tries, and in which order: from dense to sparse where the knob is known.

A fit can be warm-started from one of a denser prior, hardly from one of a sparser: what was pruned away does not come
back. Of a knob that is not known here the order is that of the values given; where none are given each is tried from a
cold start.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bayesprune.models.checks.given_numbers import real_number

__all__ = [
    "BY_DATA_SIZE",
    "KL_WEIGHT",
    "MOST_VALUES",
    "around",
    "from_dense_to_sparse",
    "given_knobs",
    "stronger_or_weaker",
]

KL_WEIGHT = "kl_weight"
"""The knob that is an argument of `fit` and no setting of a prior."""
MOST_VALUES = 50
"""Values of a knob: each is a fit."""
_FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
_KL_WEIGHTS = (1.0, 0.3, 0.1, 0.03)
_SHARES = ("expected_density", "initial_inclusion", "probability", "annealing", "start")
"""Knobs in (0, 1): what is multiplied are their odds."""
_USUAL = {"expected_density": 0.1}
"""What priors take for a knob that is left to them by None."""
BY_DATA_SIZE = ("log_gamma",)
"""Knobs that gates of units leave to a rule in the number of data: where they start is known when there is a model."""
_MORE_IS_DENSER = ("expected_density", "initial_inclusion", "probability", "prior_sd", "sd", "scale", "tau0")
_MORE_IS_SPARSER = (KL_WEIGHT, "kappa", "lam", "strength", "log_gamma", "cost", "xi", "weight_decay", "pressure")
_STRENGTHS = (
    "kappa", "log_gamma", "cost", "lam", "expected_density", "probability", "prior_sd", "scale", "sd", "strength",
    "tau0", "pressure",
)  # fmt: skip
"""Those of them by which a prior's strength is stated, the first that is given."""
_HALF = 0.5
"""The largest share that is proposed."""


def given_knobs(knobs: Any) -> dict[str, list[float] | None]:
    """Reads what is to be tuned: the KL weight first, then in the order given.

    Args:
        knobs: A name, names with commas between them, a sequence of names, or values by name (None: those of `around`).

    Returns:
        Values by name, None where they are to be found.

    Raises:
        ValueError: If there is none, a name comes twice, or values are no finite numbers, each once.
    """
    if isinstance(knobs, str):
        knobs = [name.strip() for name in knobs.split(",")]
    names = list(knobs) if isinstance(knobs, Iterable) else []
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"knobs are names of settings, such as 'kl_weight,expected_density', not {knobs!r}")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the knob {twice} is given twice: give it once")
    found = {name: _numbers(name, knobs[name]) if isinstance(knobs, Mapping) else None for name in names}
    return dict(sorted(found.items(), key=lambda pair: pair[0] != KL_WEIGHT))


def _numbers(knob: str, values: Any) -> list[float] | None:
    if values is None:
        return None
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ValueError(f"values of the knob {knob} are a sequence of numbers, such as (1, 0.3), not {values!r}")
    numbers = [real_number(f"a value of the knob {knob}", value) for value in values]
    if not 0 < len(numbers) <= MOST_VALUES or len(set(numbers)) < len(numbers):
        raise ValueError(f"the knob {knob} takes 1 to {MOST_VALUES} values, each once, not {len(numbers)}: change them")
    return numbers


def around(knob: str, start: Any) -> list[float]:
    """A short geometric grid around where a knob starts: times .1, .3, 1, 3 and 10, of odds for shares.

    Args:
        knob: Its name; of ``"kl_weight"`` the values are 1, .3, .1 and .03, and the start.
        start: Where it starts.

    Raises:
        ValueError: If the start is no number that a grid can be around: None, zero, a text, or no share.
    """
    if knob == KL_WEIGHT:
        return list(dict.fromkeys((start, *_KL_WEIGHTS)))
    start = _USUAL.get(knob) if start is None else start
    remedy = f"give its values, as --tune {knob}=A,B,C or knobs={{{knob!r}: (A, B, C)}}"
    if isinstance(start, (bool, str)) or (start is not None and not isinstance(start, (int, float))):
        raise ValueError(f"the knob {knob} is {start!r}, but only numbers are tuned: fit once for each value")
    if start is None or not math.isfinite(start) or start == 0:
        what = "leaves it to the prior" if start is None else f"is {start!r}"
        raise ValueError(f"the knob {knob} {what}, which no grid of numbers is around: {remedy}")
    if knob not in _SHARES:
        return [start if factor == 1.0 else _rounded(start * factor) for factor in _FACTORS]
    if not 0.0 < start < 1.0:
        raise ValueError(f"the knob {knob} is {start:g}, which is not strictly between 0 and 1: {remedy}")
    odds = [start / (1.0 - start) * factor for factor in _FACTORS]
    return [start if factor == 1.0 else _rounded(o / (1.0 + o)) for o, factor in zip(odds, _FACTORS, strict=True)]


def from_dense_to_sparse(knob: str, values: Sequence[float], given: bool) -> tuple[list[float], bool]:
    """Values in the order in which they are fitted, and whether that is from dense to sparse.

    Args:
        knob: Its name.
        values: The values.
        given: Whether the user gave them, in which case an unknown knob's order is taken as it is.
    """
    if knob in _MORE_IS_DENSER or knob in _MORE_IS_SPARSER:
        return sorted(values, reverse=knob in _MORE_IS_DENSER), True
    return (list(values), True) if given else (sorted(values), False)


def stronger_or_weaker(arguments: Mapping[str, Any], weaker: bool) -> tuple[str, float] | None:
    """The setting that says how strong a prior is, and its value for one ten times as strong, or as weak.

    Args:
        arguments: Settings of the prior by name, as its `config` has them.
        weaker: Whether the prior is to be weaker.

    Returns:
        Name and value of the first that is a number and is known here; None where there is none, or it cannot go on.
    """
    for name in _STRENGTHS:
        value = arguments.get(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value > 0:
            continue
        up = weaker == (name in _MORE_IS_DENSER)
        turned = _rounded(value * 10.0 if up else value / 10.0)
        if name in _SHARES:
            turned = min(turned, max(_HALF, value))
        return None if turned == value else (name, turned)
    return None


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
