"""Unit gates: a Bernoulli gate on every unit of a network, to learn and prune at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pyro.distributions as dist

from bayesprune.models.checks.setting_types import typed_settings
from bayesprune.models.gates.cost_pressure import CostPressure
from bayesprune.models.gates.gate_pressures import BetaHyperPrior, FixedProbability, Flattening, GatePressure
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import exact_zero
from bayesprune.models.language.knobs import Knob

__all__ = ["PRICE", "UnitGates"]

PRICE = Knob(pace=2.0)
"""What `Budget` moves: a factor on the price of open units, or on that of what they cost."""


class UnitGates:
    """gate ~ Bernoulli(pi) on every unit, pi ~ FlatteningPrior(log_gamma); weight ~ Normal(0, weight_scale).

    Guenter & Sideris, "Robust Learning of Parsimonious Deep Neural Networks", arXiv 2205.04650, and for layers
    "Concurrent Training and Layer Pruning", arXiv 2406.04549 (abstracts; formulas, estimators and defaults are ours).
    A gate multiplies what all readers of its unit read, after batch normalisation, activation and pooling. Under the
    guide it is Bernoulli(theta), with theta in [0, 1] found by projected gradient steps, and pi is a point at its
    best, so that the objective has the linear price log_gamma * sum(theta): a unit stays if without it the log-
    likelihood of all the data falls by more than log_gamma nats. Weights are points, whose decay is not multiplied by
    theta, so that those of a closed unit go to zero.

    Give one of `log_gamma`, `kappa`, `cost`, `probability` and `beta`, or none: the price is then log N nats for N
    data, kappa log(N) / N. A unit has weights by the dozen, of which the Bayesian information criterion would charge
    log(N) / 2 each; log N, what it charges for two, is a price that units which do anything can pay
    (docs/unit_gates.md).

    How many units are found depends little on the width of the start, at this price and the defaults of `Gating`:
    within 15 % from one to four times LeNet-300-100 (docs/results.md). The objective has many optima of nearly equal
    value, and wide starts find slightly better ones on small data; as closed units leave during the fit, a start of
    twice the width costs little.

    Args:
        log_gamma: Price of a unit in nats of all the data, positive; default log N.
        kappa: The same in nats per datum, log_gamma / data_size.
        cost: A `CostPressure`: the expected cost of the network is itself the price.
        probability: A fixed pi in (0, 1) in place of the hyper-prior, for comparison: theta then stays off 0 and 1.
        beta: `(a, b)` of a Beta hyper-prior in its place, both at least 1, for comparison.
        weight_scale: Standard deviation of the weights of gated layers that have no other prior; default 0.5. Weight
            decay in nats per datum is 1 / (weight_scale^2 data_size). Earlier versions had 0.3, a decay that small
            networks on small data pay most, and that small noisy data are better off with (docs/results.md).
        estimator: How theta's gradient is estimated, a name in
            `bayesprune.inference.objective.unit_gate_estimators.ESTIMATORS`; default ``"trapezoid"``.
        layers: Whether residual branches have a gate as well, with which the whole branch goes; default False.
        start: theta at the start, in (0, 1]; default 0.9.

    Raises:
        ValueError: If an argument is out of range, or more than one of the five prices is given.
    """

    @typed_settings
    def __init__(
        self,
        log_gamma: float | None = None,
        *,
        kappa: float | None = None,
        cost: CostPressure | Mapping[str, Any] | None = None,
        probability: float | None = None,
        beta: tuple[float, float] | None = None,
        weight_scale: float = 0.5,
        estimator: str = "trapezoid",
        layers: bool = False,
        start: float = 0.9,
    ) -> None:
        prices = {"log_gamma": log_gamma, "kappa": kappa, "cost": cost, "probability": probability, "beta": beta}
        given = [name for name, value in prices.items() if value is not None]
        if len(given) > 1:
            raise ValueError(
                f"UnitGates takes one of {', '.join(prices)}, not {' and '.join(given)}: write e.g. "
                "UnitGates(kappa=2e-4)"
            )
        for name, value in (("log_gamma", log_gamma), ("kappa", kappa), ("weight_scale", weight_scale)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                why = ": a price of zero or less presses no unit out" if name != "weight_scale" else ""
                raise ValueError(f"UnitGates({name}=...) must be positive, not {value}{why}")
        if probability is not None and not 0.0 < probability < 1.0:
            raise ValueError(f"UnitGates(probability=...) must lie in (0, 1), not {probability}")
        if beta is not None and not (len(beta) == 2 and min(beta) >= 1.0):
            raise ValueError(f"UnitGates(beta=...) takes a pair (a, b), both at least 1, not {beta}")
        if not 0.0 < start <= 1.0:
            raise ValueError(f"UnitGates(start=...) must lie in (0, 1], not {start}: 0 is where units are gone")
        self.log_gamma, self.kappa, self.probability = log_gamma, kappa, probability
        self.beta = None if beta is None else (float(beta[0]), float(beta[1]))
        try:
            self.cost = CostPressure(**cost) if isinstance(cost, Mapping) else cost
        except TypeError as problem:
            raise ValueError(f"UnitGates(cost=...) takes a CostPressure or its settings ({problem})") from problem
        self.weight_scale, self.estimator, self.layers, self.start = weight_scale, estimator, layers, start

    @property
    def config(self) -> dict[str, Any]:
        """Name and arguments, by which a saved fit finds it."""
        arguments = {
            "log_gamma": self.log_gamma, "kappa": self.kappa, "probability": self.probability,
            "cost": None if self.cost is None else asdict(self.cost),
            "beta": None if self.beta is None else list(self.beta),
            "weight_scale": self.weight_scale, "estimator": self.estimator, "layers": self.layers, "start": self.start,
        }  # fmt: skip
        return {"name": "UnitGates", "arguments": arguments}

    def pressure(self, data_size: int) -> GatePressure | None:
        """What presses each gate to zero; None where the price is the network's expected cost."""
        if self.kappa is not None:
            return Flattening(self.kappa * data_size)
        if self.log_gamma is not None:
            return Flattening(self.log_gamma)
        if self.probability is not None:
            return FixedProbability(self.probability)
        if self.beta is not None:
            return BetaHyperPrior(*self.beta)
        return None if self.cost is not None else Flattening(default_log_gamma(data_size))

    @property
    def has_straight_price(self) -> bool:
        """Whether a price is paid for every open gate, so that a factor on it is the same prior at another price."""
        return self.probability is None and self.beta is None

    def price(self, data_size: int) -> float | None:
        """What a unit costs in nats of all the data, where that is one number; None for the other pressures."""
        pressure = self.pressure(data_size)
        return float(pressure.log_gamma) if isinstance(pressure, Flattening) else None

    def weight_prior(self) -> Hierarchy:
        """Weight ~ Normal(0, weight_scale), a point under every guide that is not told otherwise."""
        return Hierarchy(weight=dist.Normal(0.0, self.weight_scale), included=exact_zero(), default_guide="map")

    def __repr__(self) -> str:
        given = ", ".join(f"{k}={v!r}" for k, v in self.config["arguments"].items() if v is not None)
        return f"UnitGates({given})"


def default_log_gamma(data_size: int) -> float:
    """The price of a unit that was given none, log N nats; as of three data for fewer, as log 1 would be no price."""
    return math.log(max(data_size, 3))
