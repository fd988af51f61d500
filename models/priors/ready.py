"""The ready priors by name: for the command line, and for fits that are read back."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from bayesprune.models.checks.setting_types import checked_types
from bayesprune.models.checks.size_bounds import checked_settings
from bayesprune.models.gates.unit_gates import UnitGates
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.ready_registry import READY, ReadyPrior
from bayesprune.models.structure import edge_gates

__all__ = ["PRIORS", "from_config", "make_prior"]

_SHOWN_FIRST = (
    "gaussian", "laplace", "mcp", "sws", "halo", "horseshoe", "reduction", "spike_and_slab",
    "continuous_spike_and_slab", "sparse_variational_dropout", "group_normal_jeffreys", "group_horseshoe",
    "l0_hard_concrete", "structured_bayesian_pruning", "vib",
)  # fmt: skip
"""Files of this folder in the order in which their priors are listed; others come after them, by name."""
ELSEWHERE = (edge_gates.__name__,)
"""Modules of other wings that have some, listed last."""


def _unit_gates(
    kappa: float | None = None,
    log_gamma: float | None = None,
    cost: float | None = None,
    cost_macs: float = 1.0,
    cost_layers: float | None = None,
    probability: float | None = None,
    beta: tuple[float, float] | None = None,
    weight_scale: float = 0.5,
    estimator: str = "trapezoid",
    layers: bool = False,
    start: float = 0.9,
) -> UnitGates:
    """`UnitGates` by plain settings: the strength of a `CostPressure` is `cost`, its shares have names of their own."""
    if cost is None and (cost_macs != 1.0 or cost_layers is not None):
        raise ValueError("cost_macs and cost_layers divide a pressure on the cost: give its strength too, cost=0.1")
    pressure = None if cost is None else {"strength": cost, "macs": cost_macs, "layers": cost_layers}
    return UnitGates(
        log_gamma, kappa=kappa, cost=pressure, probability=probability, beta=beta, weight_scale=weight_scale,
        estimator=estimator, layers=layers, start=start,
    )  # fmt: skip


def _all_priors() -> dict[str, ReadyPrior]:
    """The priors of this folder's files and of `ELSEWHERE`, by name, and the gates of units, which are on no tensor."""
    package, _, itself = __name__.rpartition(".")
    files = [one.name for one in iter_modules([str(Path(__file__).parent)]) if one.name != itself]
    homes = [f"{package}.{file}" for file in dict.fromkeys((*_SHOWN_FIRST, *sorted(files)))]
    homes += ELSEWHERE
    for home in homes:
        import_module(home)  # where `@ready` names what it declares
    found = [entry for entry in READY.values() if entry.make.__module__ in homes]
    found.sort(key=lambda entry: homes.index(entry.make.__module__))  # in a file, as they stand there
    gates = "a gate on every unit of the network, learned and pruned at once; weight ~ Normal(0, weight_scale)"
    return {entry.name: entry for entry in (*found, ReadyPrior("unit-gates", _unit_gates, gates, None))}


PRIORS: dict[str, ReadyPrior] = _all_priors()
_STORED = {entry.stored: entry for entry in PRIORS.values() if entry.stored is not None}


def make_prior(name: str, **settings: Any) -> Hierarchy | UnitGates:
    """Makes a ready prior; ``"unit-gates"`` is no prior on a tensor but the `gates` of a `BayesianNetwork`.

    Args:
        name: A key of `PRIORS`.
        settings: Arguments of the prior.

    Raises:
        ValueError: If the name or a setting is unknown (close ones are suggested), or one is out of range or of another
            type.
    """
    if name not in PRIORS:
        raise ValueError(f"prior {name!r} is unknown{_did_you_mean(name, PRIORS)}: expected one of {', '.join(PRIORS)}")
    entry = PRIORS[name]
    for key in settings:
        if key not in entry.settings:
            raise ValueError(
                f"the prior {name} has no setting {key!r}{_did_you_mean(key, entry.settings)}: "
                f"its settings are {', '.join(entry.settings)}"
            )
    settings = checked_types(f"the prior {name}", entry.make, settings)
    for key, default in entry.settings.items():
        if default is inspect.Parameter.empty and key not in settings:
            raise ValueError(f"the prior {name} needs the setting {key}: its settings are {', '.join(entry.settings)}")
    try:
        made: Hierarchy | UnitGates = entry.make(**settings)
    except (TypeError, ArithmeticError, AttributeError) as problem:
        raise ValueError(f"a setting of the prior {name} is of the wrong type ({problem})") from problem
    return made


def from_config(config: Any) -> Hierarchy:
    """Makes a prior from a ready prior's `config`, as a file has it.

    Raises:
        ValueError: If it names no ready prior, or an argument is unknown, out of range or of the wrong type.
    """
    name = config.get("name") if isinstance(config, Mapping) else None
    if not isinstance(name, str) or name not in _STORED:
        raise ValueError(f"{name!r} is no ready prior: expected one of {', '.join(_STORED)}")
    made = make_prior(_STORED[name].name, **checked_settings(config.get("arguments"), f"the arguments of {name}"))
    assert isinstance(made, Hierarchy)  # gates are stored apart from priors
    return made


def _did_you_mean(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
