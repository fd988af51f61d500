"""The expectation over gates of units: the expected loss by a unit-gate estimator, and the price of the gates."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bayesprune.inference.guides.gate_family import GateFamily
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.expectation import Expected, Nll, way_expectation
from bayesprune.inference.objective.unit_gate_estimators import Estimate, Gates, UnitGateEstimator, estimator_named
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.gates.network_gates import NetworkGates

__all__ = ["GATES", "UnitGateExpectation"]

GATES = NetworkGates.name
"""What the part of the KL term that belongs to gates of units is called."""


class UnitGateExpectation:
    """Averages the data term over gates of units, and adds what these cost.

    Args:
        q: Their guide.
        estimator: How theta gets its gradient, by its name or as an object; default None: as the gates declare.
        removed: Nats to add to their cost; default 0.

    Attributes:
        estimator: The estimator; may be replaced between steps.
    """

    def __init__(self, q: GateFamily, estimator: str | UnitGateEstimator | None = None, removed: float = 0.0) -> None:
        self._q, self._removed = q, removed
        self.estimator = estimator_named(q.gates.declaration.estimator if estimator is None else estimator)

    @classmethod
    def of(cls, guide: Guide, estimator: str | UnitGateEstimator | None = None) -> UnitGateExpectation:
        """The expectation over the gates of a guide's model.

        Args:
            guide: The guide.
            estimator: As for the class.

        Raises:
            ValueError: If the model has no gates of units.
        """
        return cls(GateFamily.among(guide.ways), estimator, _cost_of_removed_weights(guide))

    def __call__(self, nll: Nll, batch: int, data_size: int) -> Expected:
        """The expected loss, at theta once that is settled, and the cost."""
        estimate = self._through_gates(nll, batch)
        return Expected(estimate.surrogate * data_size, {GATES: self._cost(estimate)})

    def _through_gates(self, nll: Nll, batch: int) -> Estimate:
        q = self._q
        if q.is_settled:
            return Estimate(nll({} if q.is_open else q.probabilities()).mean())
        live = q.by_site(~q.absorbed)
        estimate = self.estimator(nll, Gates(q.by_site(q.theta), live, batch, q.gates.per_example))
        q.touched = None if estimate.weight is None else torch.cat([estimate.weight[site] for site in q.gates.sets]) > 0
        return estimate

    def _cost(self, estimate: Estimate) -> Tensor:
        """What the gates cost in nats; its gradient in the measure in which the estimator has moved each of them."""
        q = self._q
        theta = q.by_site(q.theta.detach() if q.is_settled else q.theta)
        if estimate.weight is not None:
            theta = {site: at.detach() + estimate.weight[site] * (at - at.detach()) for site, at in theta.items()}
        return q.gates.cost(theta) + self._removed


@way_expectation(NetworkGates)
def _as_declared(way: NetworkGates, model: BayesianNetwork, guide: Guide) -> UnitGateExpectation:
    return UnitGateExpectation.of(guide)


def _cost_of_removed_weights(guide: Guide) -> float:
    """Minus the log prior, in nats, of weights that left with their units, where gates declare it and they are points.

    They count as if they were there, at zero, where they were going: the objective does not jump when they leave.
    """
    model = guide.model
    if not guide.is_point_but_for_gates:
        return 0.0
    gone = sum(
        model.declared_sizes[name] - (math.prod(model.priors[name].shape) if name in model.priors else 0)
        for name in model.left_to_gates
    )
    scale = NetworkGates.among(model.ways).declaration.weight_scale
    return gone * (0.5 * math.log(2.0 * math.pi) + math.log(scale))
