"""The ready priors by name: for the command line, and for fits that are read back."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bayesprune.models.checks.setting_types import checked_types
from bayesprune.models.checks.size_bounds import checked_settings
from bayesprune.models.gates.cost_pressure import CostPressure
from bayesprune.models.gates.unit_gates import UnitGates
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.priors.continuous_spike_and_slab import ContinuousSpikeAndSlab
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.priors.group_horseshoe import GroupHorseshoe
from bayesprune.models.priors.group_normal_jeffreys import GroupNormalJeffreys
from bayesprune.models.priors.halo import HALO
from bayesprune.models.priors.horseshoe import Horseshoe, RegularisedHorseshoe
from bayesprune.models.priors.l0_hard_concrete import L0HardConcrete
from bayesprune.models.priors.laplace import Laplace
from bayesprune.models.priors.mcp import MCP
from bayesprune.models.priors.reduction import Reduction
from bayesprune.models.priors.sparse_variational_dropout import SparseVariationalDropout
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab
from bayesprune.models.priors.structured_bayesian_pruning import StructuredBayesianPruning
from bayesprune.models.priors.sws import SWS
from bayesprune.models.priors.vib import VIB


@dataclass(frozen=True)
class PriorEntry:
    """A ready prior.

    Attributes:
        make: Its class, or what makes it.
        summary: One line on what it is.
    """

    make: Callable[..., Hierarchy | UnitGates]
    summary: str

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings with their defaults; `inspect.Parameter.empty` for one that must be given."""
        return {name: p.default for name, p in inspect.signature(self.make).parameters.items()}


def _unit_gates(
    kappa: float | None = None,
    log_gamma: float | None = None,
    cost: float | None = None,
    cost_macs: float = 1.0,
    cost_layers: float | None = None,
    probability: float | None = None,
    beta: tuple[float, float] | None = None,
    weight_scale: float = 0.3,
    estimator: str = "trapezoid",
    layers: bool = False,
    start: float = 0.9,
) -> UnitGates:
    """`UnitGates` by plain settings: the strength of a `CostPressure` is `cost`, its shares have names of their own."""
    if cost is None and (cost_macs != 1.0 or cost_layers is not None):
        raise ValueError("cost_macs and cost_layers divide a pressure on the cost: give its strength too, cost=0.1")
    pressure = None if cost is None else CostPressure(cost, cost_macs, cost_layers)
    return UnitGates(
        log_gamma, kappa=kappa, cost=pressure, probability=probability, beta=beta, weight_scale=weight_scale,
        estimator=estimator, layers=layers, start=start,
    )  # fmt: skip


PRIORS: dict[str, PriorEntry] = {
    "gaussian": PriorEntry(Gaussian, "weight ~ Normal(0, sd): weight decay"),
    "weight-decay": PriorEntry(Gaussian.from_weight_decay, "the same by MAP, by an optimizer's per-datum weight_decay"),
    "laplace": PriorEntry(Laplace, "weight ~ Laplace(0, scale): the lasso"),
    "mcp": PriorEntry(MCP, "minimax concave penalty: the lasso near zero, flat for large weights (improper)"),
    "mcp-paper": PriorEntry(MCP.from_paper, "the same by per-datum constants lam and gamma"),
    "sws": PriorEntry(SWS, "adaptive lasso with one learned scale a tensor, by its one constant kappa"),
    "sws-paper": PriorEntry(SWS.from_paper, "the same by per-datum constants xi and psi"),
    "halo": PriorEntry(HALO, "hierarchical adaptive lasso, by its one constant kappa"),
    "halo-paper": PriorEntry(HALO.from_paper, "the same by the authors' per-datum constants xi, psi, weight_decay"),
    "horseshoe": PriorEntry(Horseshoe, "half-Cauchy scales a weight and a layer, non-centred"),
    "regularised-horseshoe": PriorEntry(RegularisedHorseshoe, "horseshoe with its largest scales bounded"),
    "reduction": PriorEntry(Reduction, "Normal(0, sd), with PIPs by Bayesian model reduction; --weights needs no fit"),
    "spike-and-slab": PriorEntry(SpikeAndSlab, "exact zeros by Bernoulli gates a weight, kernel, output or block"),
    "continuous-spike-and-slab": PriorEntry(
        ContinuousSpikeAndSlab, "mixture of a wide and a narrow Normal, which narrows during the fit"
    ),
    "sparse-variational-dropout": PriorEntry(SparseVariationalDropout, "log-uniform weights: a dropout rate a weight"),
    "group-normal-jeffreys": PriorEntry(GroupNormalJeffreys, "log-uniform noise a row, column or kernel (improper)"),
    "group-horseshoe": PriorEntry(GroupHorseshoe, "half-Cauchy scales a group and a layer, all KLs in closed form"),
    "l0-hard-concrete": PriorEntry(L0HardConcrete, "a price on nonzero weights or groups, by hard concrete gates"),
    "structured-bayesian-pruning": PriorEntry(
        StructuredBayesianPruning, "log-uniform noise a row, column or kernel, cut off so that it is proper"
    ),
    "vib": PriorEntry(VIB, "variational information bottleneck: noise a group, its prior's scale fitted"),
    "unit-gates": PriorEntry(
        _unit_gates, "a gate on every unit of the network, learned and pruned at once; weight ~ Normal(0, weight_scale)"
    ),
}
_CLASSES = {
    "Gaussian": "gaussian",
    "Gaussian.from_weight_decay": "weight-decay",
    "Laplace": "laplace",
    "MCP": "mcp",
    "MCP.from_paper": "mcp-paper",
    "SWS": "sws",
    "SWS.from_paper": "sws-paper",
    "HALO": "halo",
    "HALO.from_paper": "halo-paper",
    "Horseshoe": "horseshoe",
    "RegularisedHorseshoe": "regularised-horseshoe",
    "Reduction": "reduction",
    "SpikeAndSlab": "spike-and-slab",
    "ContinuousSpikeAndSlab": "continuous-spike-and-slab",
    "SparseVariationalDropout": "sparse-variational-dropout",
    "GroupNormalJeffreys": "group-normal-jeffreys",
    "GroupHorseshoe": "group-horseshoe",
    "L0HardConcrete": "l0-hard-concrete",
    "StructuredBayesianPruning": "structured-bayesian-pruning",
    "VIB": "vib",
}


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
        return entry.make(**settings)
    except (TypeError, ArithmeticError, AttributeError) as problem:
        raise ValueError(f"a setting of the prior {name} is of the wrong type ({problem})") from problem


def from_config(config: Any) -> Hierarchy:
    """Makes a prior from a ready prior's `config`, as a file has it.

    Raises:
        ValueError: If it names no ready prior, or an argument is unknown, out of range or of the wrong type.
    """
    name = config.get("name") if isinstance(config, Mapping) else None
    if not isinstance(name, str) or name not in _CLASSES:
        raise ValueError(f"{name!r} is no ready prior: expected one of {', '.join(_CLASSES)}")
    made = make_prior(_CLASSES[name], **checked_settings(config.get("arguments"), f"the arguments of {name}"))
    assert isinstance(made, Hierarchy)  # gates are stored apart from priors
    return made


def _did_you_mean(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
