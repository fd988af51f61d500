"""What a budget is of: the share of weights that are left, or of MACs or parameters of the network as it was declared.

Each measure says where a fit stands (`reached`), a smooth number to steer by (`signal`), and how it is met in the end
(`land`), by the smallest change that meets it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from bayesprune.inference.guides.gate_family import GateFamily
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.guides.left_in import included_weights
from bayesprune.inference.rules.attraction import fan_out_norms
from bayesprune.inference.rules.budget_count import (
    counting_rules,
    counts_left,
    knob_of,
    thresholds,
    weights_left,
)
from bayesprune.inference.rules.budget_landing import landed
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.gates.network_gates import NetworkGates
from bayesprune.models.gates.unit_gates import PRICE
from bayesprune.models.language.knobs import Knob

__all__ = ["Measure", "SizeMeasure", "WeightMeasure", "measure_of"]

NO_KNOB = (
    "give a prior that has one, such as HALO(), SpikeAndSlab() or L0HardConcrete(), or gates=UnitGates(), or prune the "
    "fit afterwards: prune(fit, sparsity=0.98)"
)


_HOVER = 2.0
"""Times the median difference between two looks: how far a weight that hovers around zero is from it."""


class Measure(Protocol):
    """What a budget is of, in one model.

    Attributes:
        knobs: What is moved: the knobs by their key in `BayesianNetwork.knobs`.
        whole: What counts as all of it.
        settles: Whether it is met when gates of units are rounded, rather than at the end of the fit.
    """

    knobs: dict[str, Knob]
    whole: float
    settles: bool

    def reached(self, guide: Guide) -> float:
        """What is left now, by the rule that is counted by, in the units of `whole`."""

    def signal(self, guide: Guide, along: float) -> float:
        """A number to steer by, of the same scale; it is `reached` at `along` = 1, the end of the ramp."""

    def land(self, guide: Guide, target: float) -> dict[str, Any]:
        """Meets the target, IN PLACE of the guide; says what was done, as JSON holds it."""

    def rules(self, model: BayesianNetwork) -> dict[str, str]:
        """By which rule is counted, by name of tensor or of what is counted."""

    latest: dict[str, Tensor]
    """What `signal` remembers of its last look, by name of tensor."""


class WeightMeasure:
    """Weights with a prior that its own rule leaves in: see `bayesprune.inference.rules.budget_count`.

    Args:
        model: The model.

    Attributes:
        knobs: See `Measure`.
        whole: Number of weights with a prior.
        settles: See `Measure`.

    Raises:
        ValueError: If no prior offers a knob.
    """

    settles = False

    def __init__(self, model: BayesianNetwork) -> None:
        self.knobs: dict[str, Knob] = {}
        for prior in model.priors.values():
            knob = knob_of(prior)
            if knob is not None:
                self.knobs[f"{prior.pattern}.{prior.hierarchy.budget}"] = knob
        self.whole = float(sum(model.declared_sizes.values()))
        self.latest: dict[str, Tensor] = {}
        if not self.knobs:
            names = ", ".join(dict.fromkeys(repr(prior.hierarchy) for prior in model.priors.values()))
            raise ValueError(f"Budget(density=...) moves a knob, but {names or 'the model'} has none: {NO_KNOB}")

    def reached(self, guide: Guide) -> float:
        """See `Measure`."""
        return float(sum(counts_left(guide).values()))

    @torch.no_grad()
    def signal(self, guide: Guide, along: float) -> float:
        """What the count is going to be.

        Of gates that have probabilities it is their sum, and more and more the count itself, geometrically. Of weights
        that count by their size it is how many also exceed what an optimizer moves them by between two looks: what
        hovers around zero is noise of its steps, and settles when these get smaller.
        """
        probabilities, least = guide.inclusion(), thresholds(guide)
        weights = included_weights(guide) if least else {}
        count, expected, counts = 0.0, 0.0, counts_left(guide)
        for name, left in weights_left(guide).items():
            prior = guide.model.priors[name]
            event, here = prior.hierarchy.included, float(counts[name])
            gate = None if event is None or event.gate is None else probabilities.get(prior.sites[event.gate].name)
            if name in least and name in self.latest:
                hovers = _HOVER * (weights[name] - self.latest[name]).abs().median()
                here = float((left & (weights[name].abs() > hovers)).sum())
            count += here
            expected += here if gate is None else float(gate.mean()) * left.numel()
        self.latest = {name: weights[name] for name in least}
        return math.exp((1.0 - along) * math.log(max(expected, 0.5)) + along * math.log(max(count, 0.5)))

    def land(self, guide: Guide, target: float) -> dict[str, Any]:
        """See `Measure`."""
        return landed(guide, lambda: self.reached(guide), round(target))

    def rules(self, model: BayesianNetwork) -> dict[str, str]:
        """See `Measure`."""
        return counting_rules(model)


class SizeMeasure:
    """Expected MACs, parameters or weights of a network with gates on its units.

    Args:
        model: The model.
        what: ``"macs"`` or ``"parameters"``.

    Attributes:
        knobs: See `Measure`.
        whole: That of the network as it was declared.
        settles: See `Measure`.

    Raises:
        ValueError: If there are no gates of units, or these have no straight price.
    """

    settles = True

    def __init__(self, model: BayesianNetwork, what: str) -> None:
        self.latest: dict[str, Tensor] = {}
        self.what = ("macs", "parameters").index(what)
        if not any(isinstance(way, NetworkGates) for way in model.ways):
            raise ValueError(
                f"Budget({what}=...) is met by removing units, but the model has no gates on its units: declare "
                "gates=UnitGates(), or give density="
            )
        gates = NetworkGates.among(model.ways)
        if not gates.knobs:
            raise ValueError(
                f"Budget({what}=...) moves the price of a unit, but {gates.declaration!r} has none that is paid for "
                "every open gate: give UnitGates(kappa=...), log_gamma= or cost="
            )
        self.knobs = {f"{gates.name}.{name}": PRICE for name in gates.knobs}
        self.whole = float(gates.whole[self.what])

    @torch.no_grad()
    def reached(self, guide: Guide) -> float:
        """With every gate open whose theta is above 1/2."""
        q = GateFamily.among(guide.ways)
        return self._cost(q, (q.theta > 0.5).to(q.theta.dtype))

    @torch.no_grad()
    def signal(self, guide: Guide, along: float) -> float:
        """Expected, at theta."""
        q = GateFamily.among(guide.ways)
        return self._cost(q, q.theta.detach())

    @torch.no_grad()
    def land(self, guide: Guide, target: float) -> dict[str, Any]:
        """Rounds theta at another number than 1/2, so that what is left comes nearest to the target.

        Gates of equal theta go in the order of the norms of what reads their units.
        """
        q, before = GateFamily.among(guide.ways), self.reached(guide)
        order = torch.argsort(q.theta + 1e-6 * self._rank_of_readers(guide, q), descending=True)
        most = int((~q.absorbed & (q.theta > 0)).sum())

        def opened(count: int) -> Tensor:
            theta = torch.zeros_like(q.theta)
            theta[order[:count]] = 1.0
            return theta

        low, high = 0, most
        while low < high:  # costs rise with the number of open gates
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._cost(q, opened(middle)) < target else (low, middle)
        count = min((max(0, low - 1), low), key=lambda n: abs(self._cost(q, opened(n)) - target))
        cut = float(q.theta[order[count - 1]]) if count else 1.0
        q.theta.copy_(opened(count))
        q.theta.grad = None  # or a last step on the way would be taken from here
        return {"by": "theta rounded at another number than 1/2", "before": before, "cut": cut}

    def rules(self, model: BayesianNetwork) -> dict[str, str]:
        """See `Measure`."""
        return {("macs", "parameters")[self.what]: "units whose gate is open with more than 1/2"}

    def _cost(self, q: GateFamily, theta: Tensor) -> float:
        return float(q.gates.costs.expected(*q.gates.by_owner(q.by_site(theta)))[self.what])

    def _rank_of_readers(self, guide: Guide, q: GateFamily) -> Tensor:
        """Norms of what reads each unit, as shares of the largest; 1 for gates of branches."""
        gates = q.gates
        weights = guide.model.ungated_weights_at(guide.means())
        owners = {one.owner: gates.groups[one.owner] for one in gates.sets.values() if not one.is_layer}
        norms = fan_out_norms(weights, owners)
        parts = [
            torch.ones_like(theta) if gates.sets[site].is_layer
            else norms[gates.sets[site].owner][gates.sets[site].numbers.to(theta.device)]
            for site, theta in q.probabilities().items()
        ]  # fmt: skip
        found = torch.cat(parts)
        return found / found.max().clamp_min(1e-30)


MEASURES: dict[str, Callable[[BayesianNetwork], Measure]] = {
    "density": WeightMeasure,
    "macs": lambda model: SizeMeasure(model, "macs"),
    "parameters": lambda model: SizeMeasure(model, "parameters"),
}
"""How each kind of budget is measured, by name."""


def measure_of(model: BayesianNetwork, what: str) -> Measure:
    """The measure of a budget of that kind in a model.

    Raises:
        ValueError: If the model has no knob for it.
    """
    return MEASURES[what](model)
