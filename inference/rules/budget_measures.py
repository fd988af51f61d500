"""What a budget is of: the share of weights that are left, or of MACs or parameters of the network as it was declared.

Each measure says where a fit stands (`reached`), a smooth number to steer by (`signal`), and how it is met in the end
(`land`), by the smallest change that meets it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from bayesprune.inference.guides.gate_family import GateFamily
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.guides.left_in import included_weights
from bayesprune.inference.rules.attraction import fan_out_norms
from bayesprune.inference.rules.budget_count import counting_rules, knob_of, thresholds, weights_left
from bayesprune.inference.rules.budget_landing import landed, landed_by_layer
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.costs.layer_budgets import LayerBudget, counts_by_layer
from bayesprune.models.gates.network_gates import NetworkGates
from bayesprune.models.gates.unit_gates import PRICE
from bayesprune.models.language.knobs import Knob

__all__ = ["Measure", "Part", "SizeMeasure", "WeightMeasure", "measure_of"]

NO_KNOB = (
    "give a prior that has one, such as HALO(), SpikeAndSlab() or L0HardConcrete(), or gates=UnitGates(), or prune the "
    "fit afterwards: prune(fit, sparsity=0.98)"
)


_HOVER = 2.0
"""Times the median difference between two looks: how far a weight that hovers around zero is from it."""


@dataclass(frozen=True)
class Part:
    """What one controller steers.

    Attributes:
        knobs: What it moves, together: the knobs by their key in `BayesianNetwork.knobs`.
        whole: What counts as all of it.
        target: What is to be left of that.
        tensors: The tensors whose weights are counted; empty where it is no count of weights.
    """

    knobs: dict[str, Knob]
    whole: float
    target: float
    tensors: tuple[str, ...] = ()


class Measure(Protocol):
    """What a budget is of, in one model.

    Attributes:
        parts: What is steered, each part by itself.
        layers: How many weights each tensor is to end with, where the budget is one by layer; else empty.
        settles: Whether it is met when gates of units are rounded, rather than at the end of the fit.
    """

    parts: tuple[Part, ...]
    layers: dict[str, int]
    settles: bool

    def reached(self, guide: Guide) -> float:
        """What is left of all parts now, by the rule that is counted by, in their units."""

    def signals(self, guide: Guide, along: float) -> list[float]:
        """A number to steer each part by, of its scale; it is what is left of it at `along` = 1, the ramp's end."""

    def land(self, guide: Guide) -> dict[str, Any]:
        """Meets the targets, IN PLACE of the guide; says what was done, as JSON holds it."""

    def rules(self, model: BayesianNetwork) -> dict[str, str]:
        """By which rule is counted, by name of tensor or of what is counted."""

    latest: dict[str, Tensor]
    """What `signals` remembers of its last look, by name of tensor."""


class WeightMeasure:
    """Weights with a prior that its own rule leaves in: see `bayesprune.inference.rules.budget_count`.

    By layer, tensors of which nothing is said are neither counted nor steered, and tensors that share a knob are one
    part, steered by their sum.

    Args:
        model: The model.
        asked: A share of all weights or their number; or, by layer, what `counts_by_layer` takes.

    Attributes:
        parts: See `Measure`.
        layers: See `Measure`.
        settles: See `Measure`.

    Raises:
        ValueError: If no prior offers a knob, by layer if one of a tensor that is named does not; or if the budget is
            more than there is.
    """

    settles = False

    def __init__(self, model: BayesianNetwork, asked: float | LayerBudget | Mapping[str, Any]) -> None:
        self.latest: dict[str, Tensor] = {}
        self.layers: dict[str, int] = {}
        knobs: dict[str, Knob] = {}
        of_knob: dict[str, list[str]] = {}
        for name, prior in model.priors.items():
            knob = knob_of(prior)
            if knob is not None:
                key = f"{prior.pattern}.{prior.hierarchy.budget}"
                knobs[key] = knob
                of_knob.setdefault(key, []).append(name)
        if not knobs:
            names = ", ".join(dict.fromkeys(repr(prior.hierarchy) for prior in model.priors.values()))
            raise ValueError(f"Budget(density=...) moves a knob, but {names or 'the model'} has none: {NO_KNOB}")
        sizes = model.declared_sizes
        if not isinstance(asked, (LayerBudget, Mapping)):
            whole = float(sum(sizes.values()))
            self.parts: tuple[Part, ...] = (Part(knobs, whole, asked_of("density", asked, whole), tuple(model.priors)),)
            return
        self.layers = counts_by_layer(asked, sizes)
        for name in self.layers:
            if name in model.priors and knob_of(model.priors[name]) is None:
                raise ValueError(
                    f"Budget(density=...) moves a knob, but {model.priors[name].hierarchy!r} on {name} has none: leave "
                    f"{name} out of the budget, or {NO_KNOB}"
                )
        parts = []
        for key, tensors in of_knob.items():
            mine = [name for name in tensors if name in self.layers]
            if mine:
                whole, target = (float(sum(there[name] for name in mine)) for there in (sizes, self.layers))
                parts.append(Part({key: knobs[key]}, whole, target, tuple(mine)))
        self.parts = tuple(parts)

    def reached(self, guide: Guide) -> float:
        """See `Measure`."""
        return float(sum(self.by_tensor(guide).values()))

    def by_tensor(self, guide: Guide) -> dict[str, int]:
        """How many weights are left of each tensor that the budget is of."""
        counted = {name for part in self.parts for name in part.tensors}
        return {name: int(left.sum()) for name, left in weights_left(guide).items() if name in counted}

    @torch.no_grad()
    def signals(self, guide: Guide, along: float) -> list[float]:
        """What the counts are going to be.

        Of gates that have probabilities it is their sum, and more and more the count itself, geometrically. Of weights
        that count by their size it is how many also exceed what an optimizer moves them by between two looks: what
        hovers around zero is noise of its steps, and settles when these get smaller.
        """
        probabilities, least = guide.inclusion(), thresholds(guide)
        weights = included_weights(guide) if least else {}
        count, expected = dict[str, float](), dict[str, float]()
        for name, left in weights_left(guide).items():
            prior = guide.model.priors[name]
            event, here = prior.hierarchy.included, float(left.sum())
            gate = None if event is None or event.gate is None else probabilities.get(prior.sites[event.gate].name)
            if name in least and name in self.latest:
                hovers = _HOVER * (weights[name] - self.latest[name]).abs().median()
                here = float((left & (weights[name].abs() > hovers)).sum())
            count[name] = here
            expected[name] = here if gate is None else float(gate.mean()) * left.numel()
        self.latest = {name: weights[name] for name in least}
        found = []
        for part in self.parts:
            there, likely = (sum((of[n] for n in part.tensors if n in of), 0.0) for of in (count, expected))
            found.append(math.exp((1.0 - along) * math.log(max(likely, 0.5)) + along * math.log(max(there, 0.5))))
        return found

    def land(self, guide: Guide) -> dict[str, Any]:
        """See `Measure`."""
        if self.layers:
            return landed_by_layer(guide, self.by_tensor, self.layers)
        return landed(guide, lambda: self.reached(guide), round(self.parts[0].target))

    def rules(self, model: BayesianNetwork) -> dict[str, str]:
        """See `Measure`."""
        found = counting_rules(model)
        return {name: rule for name, rule in found.items() if name in self.layers} if self.layers else found


class SizeMeasure:
    """Expected MACs, parameters or weights of a network with gates on its units.

    Args:
        model: The model.
        what: ``"macs"`` or ``"parameters"``.
        asked: A share of those of the network as it was declared, or their number.

    Attributes:
        parts: See `Measure`.
        layers: See `Measure`.
        settles: See `Measure`.

    Raises:
        ValueError: If there are no gates of units, or these have no straight price.
    """

    settles = True

    def __init__(self, model: BayesianNetwork, what: str, asked: float) -> None:
        self.latest: dict[str, Tensor] = {}
        self.layers: dict[str, int] = {}
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
        whole = float(gates.whole[self.what])
        knobs = {f"{gates.name}.{name}": PRICE for name in gates.knobs}
        self.parts: tuple[Part, ...] = (Part(knobs, whole, asked_of(what, asked, whole)),)

    @torch.no_grad()
    def reached(self, guide: Guide) -> float:
        """With every gate open whose theta is above 1/2."""
        q = GateFamily.among(guide.ways)
        return self._cost(q, (q.theta > 0.5).to(q.theta.dtype))

    @torch.no_grad()
    def signals(self, guide: Guide, along: float) -> list[float]:
        """Expected, at theta."""
        q = GateFamily.among(guide.ways)
        return [self._cost(q, q.theta.detach())]

    @torch.no_grad()
    def land(self, guide: Guide) -> dict[str, Any]:
        """Rounds theta at another number than 1/2, so that what is left comes nearest to the target.

        Gates of equal theta go in the order of the norms of what reads their units.
        """
        target = self.parts[0].target
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


def asked_of(kind: str, asked: float, whole: float) -> float:
    """A budget as a number of a whole: itself, or its share.

    Args:
        kind: Of what it is, for the message.
        asked: A share in (0, 1), or a number from 1 on.
        whole: All there are.

    Raises:
        ValueError: If it is more than the whole.
    """
    asked = float(asked)
    if asked > whole:
        raise ValueError(f"Budget({kind}={asked:g}) is more than all there are, {whole:g}: ask for less")
    return asked if asked >= 1.0 else asked * whole


MEASURES: dict[str, Callable[[BayesianNetwork, Any], Measure]] = {
    "density": WeightMeasure,
    "macs": lambda model, asked: SizeMeasure(model, "macs", asked),
    "parameters": lambda model, asked: SizeMeasure(model, "parameters", asked),
}
"""How each kind of budget is measured, by name."""


def measure_of(model: BayesianNetwork, what: str, asked: float | LayerBudget | Mapping[str, Any]) -> Measure:
    """The measure of a budget of that kind in a model.

    Args:
        model: The model.
        what: The kind.
        asked: The budget.

    Raises:
        ValueError: If the model has no knob for it, or it is more than there is.
    """
    return MEASURES[what](model, asked)
