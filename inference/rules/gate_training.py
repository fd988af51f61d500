"""Gating: how gates of units are trained, absorbed, rounded, and their units removed while a fit runs."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import xarray as xr
from torch import Tensor

from bayesprune.inference.guides.gate_family import GateFamily
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.expectation import Expectation
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.objective.unit_gate_estimators import UnitGateEstimator, estimator_named
from bayesprune.inference.objective.unit_gate_expectation import UnitGateExpectation
from bayesprune.inference.rules.attraction import fan_out_norms, is_attracted, lipschitz_estimates
from bayesprune.inference.rules.gate_noise import GateNoise
from bayesprune.inference.rules.gate_trace import gate_variables
from bayesprune.inference.rules.registry import brought_by
from bayesprune.inference.rules.rule import ActiveRule, Change, Needs, Rule, Run, Taken
from bayesprune.inference.rules.unit_transfer import check_removable, transfer
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.setting_types import checked_types
from bayesprune.models.costs.macs import count_macs
from bayesprune.models.gates.network_gates import NetworkGates
from bayesprune.models.networks.running_statistics import frozen_statistics
from bayesprune.models.unit_removal import without_units

__all__ = ["GateTraining", "Gating"]

RECORDS = 200
"""About how many times a fit records theta."""
INTERIOR = (0.02, 0.98)
"""A theta strictly between these is undecided."""
_PROBES = 4
"""Batches on which the attraction set of zero is estimated."""


@brought_by(NetworkGates)
@dataclass(frozen=True)
class Gating(Rule):
    """How `fit` trains the gates of units; the default rule of a model that has some.

    theta moves by projected gradient steps of constant size, theta <- clip(theta - step * gradient, 0, 1), with the
    gradient in nats per datum; the optimizer of the fit moves everything else.

    Attributes:
        travel: Share of the steps in which theta moves that a unit of no use needs from its start to zero; it sets the
            size of the steps by the price of a unit. Default 0.25. Much less prunes prematurely.
        step: The size itself, in place of `travel`; default None. With `travel`, and the expected cost as the price,
            each gate's is in inverse proportion to its own price at the start.
        patience: Steps in a row that theta is at 0 until the gate is absorbed, that is, stays closed; default 1.
            Steps in which an estimator does not look at the gate do not count.
        remove: When closed units leave network, guide and optimizer: ``"epoch"`` (default) at the end of each epoch, a
            number after so many steps, None never: their gates stay closed, but no time is saved.
        rule: Which units leave: ``"absorbed"`` (default), or ``"attracted"``: those with theta below 1/2 inside the
            attraction set of zero as well (see `bayesprune.inference.rules.attraction`), which are closed before theta
            has arrived there.
        round_at: Share of the steps after which theta is rounded at 1/2 and trained no more; the rest of the fit trains
            the network that is left. Default 2/3; None: never.
        delay: Share of the steps with gates in which theta stays at its start and weights are trained alone; in [0, 1),
            default 0.3. While the loss is far from its end, many units of a narrow network are worth their price, and
            their theta goes up, but few of a wide one: with 0, the default of earlier versions, the number of units
            that are found depends more on the width of the start.
        estimator: How the gradient of theta is estimated, a name or an object; default None: as the gates declare.

    Raises:
        ValueError: If a value is out of range or of another type.
    """

    travel: float = 0.25
    step: float | None = None
    patience: int = 1
    remove: str | int | None = "epoch"
    rule: str = "absorbed"
    round_at: float | None = 2.0 / 3.0
    delay: float = 0.3
    estimator: str | UnitGateEstimator | None = None
    name: ClassVar[str] = "gating"

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if name != "estimator"}
        for name, value in checked_types("Gating", Gating, given).items():
            object.__setattr__(self, name, value)  # Python's own numbers, which a checkpoint writes down
        if not self.travel > 0 or (self.step is not None and not self.step > 0):
            raise ValueError(f"Gating(travel=, step=) must be positive, not {self.travel} and {self.step}")
        if self.patience < 1:
            raise ValueError(f"Gating(patience=...) must be at least 1, not {self.patience}")
        is_count = isinstance(self.remove, int) and not isinstance(self.remove, bool) and self.remove >= 1
        if self.remove not in ("epoch", None) and not is_count:
            raise ValueError(f"Gating(remove=...) takes 'epoch', a number of steps or None, not {self.remove!r}")
        if self.rule not in ("absorbed", "attracted"):
            raise ValueError(f"Gating(rule=...) takes 'absorbed' or 'attracted', not {self.rule!r}")
        if self.round_at is not None and not 0.0 < self.round_at <= 1.0:
            raise ValueError(f"Gating(round_at=...) is a share of the steps in (0, 1], not {self.round_at}")
        if not 0.0 <= self.delay < 1.0:
            raise ValueError(f"Gating(delay=...) is a share of the steps with gates in [0, 1), not {self.delay}")
        if self.estimator is not None:
            object.__setattr__(self, "estimator", estimator_named(self.estimator))

    def check(self, model: BayesianNetwork, options: Mapping[str, Any]) -> None:
        """Refuses a model without gates of units, and what does not go together with them."""
        NetworkGates.among(model.ways)
        if model.plan is not None and options["restarts"] > 1:
            raise ValueError("units have been removed from this model: fit the model as it was declared")
        if options["start"] is not None:
            raise ValueError(
                "start= is not for gates of units, which have left it closed: begin at the network's weights"
            )
        if options["particles"] > 1:
            raise ValueError("particles= is not for gates of units: draw them more often by their estimator, or take 1")

    def expectation(self, guide: Guide) -> Expectation | None:
        """The expectation over the gates by the estimator that was asked for."""
        return None if self.estimator is None else UnitGateExpectation.of(guide, self.estimator)

    def begin(self, run: Run) -> GateTraining:
        """See `Rule.begin`."""
        return GateTraining(self, run)


class GateTraining(ActiveRule):
    """The gates of one restart while it is trained.

    Args:
        gating: How.
        run: The restart, whose model is replaced where units are removed. Its final KL weight is a factor on prices
            and priors; anything but 1 is a tempered objective.

    Attributes:
        records: What the pruning trace will hold: one dict a record.
        said: What the settings of the fit will hold.
    """

    needs = Needs(changing=True)

    def __init__(self, gating: Gating, run: Run) -> None:
        self.gating, self.run = gating, run
        self.records: list[dict[str, Any]] = []
        gates, q = self._gates, self._q
        if self.gating.remove is not None:
            check_removable(self._objective.model)
        total = self.run.steps
        share = self.gating.round_at
        self.rounding_step = -1 if share is None else min(total, max(1, round(share * total)))
        self.fixes_at = None if share is None else self.rounding_step
        gated = total if share is None else self.rounding_step
        self._held_until = int(self.gating.delay * gated)
        price = self._price()
        if self.gating.step is None and not price > 0:
            raise ValueError(
                f"an open gate costs {price:.3g} nats per datum more than a closed one, so that travel= gives theta no "
                "step: give Gating(step=...)"
            )
        moving = gated - self._held_until
        self.rate = self.gating.step or gates.declaration.start / (price * self.gating.travel * moving)
        self._rates = self._rates_of_gates()
        self._declared = {site: (one.owner, one.numbers, one.is_layer) for site, one in gates.sets.items()}
        self._homes = {layer: name for name, units in gates.groups.sets.items() for layer in units.layers}
        self._at_zero = torch.zeros_like(q.absorbed, dtype=torch.int64)
        self._noise = GateNoise(q.theta.detach())
        self._recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=_PROBES)
        self._every = max(1, total // RECORDS)
        self._macs = self._count_macs()
        self._attracted: dict[str, Tensor] = {}
        self._decay = self._weight_decay()
        self.needs = Needs(changing=True, batch=self._looks)
        if self.gating.rule == "attracted" and self._decay is None:
            raise ValueError(
                "rule='attracted' needs to know the weights' decay: leave all weights of gated layers to UnitGates, or "
                "use rule='absorbed'"
            )
        assert isinstance(self._objective.expectation, UnitGateExpectation)
        estimator = self._objective.expectation.estimator
        self.said: dict[str, Any] = {
            "step": self.rate,
            "rounding_step": self.rounding_step,
            "held_until": self._held_until,
            "estimator": repr(estimator),
            "evaluations_a_step": float(getattr(estimator, "evaluations", 0)),
            "dense_macs": float(gates.whole[0]),
            "units_at_start": self._units(),
            "removals": [],
        }
        self.record()

    def after_step(self, taken: Taken) -> Change:
        """Moves theta after an optimizer step, rounds it when its time has come, and removes units where it is due."""
        self._recent.append((taken.x, taken.y))
        step, removed = taken.step, False
        if not self._q.is_settled:
            if step > self._held_until:
                self._project()
            else:
                self._q.theta.grad = None
            if step == self.rounding_step:
                self._round()
                removed = self.gating.remove is not None and self.remove()
        if isinstance(self.gating.remove, int) and step % self.gating.remove == 0:
            removed = self.remove() or removed
        if step % self._every == 0 or step == self.rounding_step or removed:
            self.record()
        return Change.MODEL if removed else Change.VALUES

    def _looks(self, step: int) -> bool:
        """Whether inputs are kept, to look at after the epoch."""
        return self._decay is not None and not self._q.is_settled

    def after_epoch(self) -> Change:
        """Looks at the attraction set, and removes closed units where epochs end with that."""
        if self._decay is not None and not self._q.is_settled:
            self._attracted = self._find_attracted()
            if self.gating.rule == "attracted":
                with torch.no_grad():
                    inside = torch.cat([self._attracted[site] for site in self._gates.sets]).to(self._q.theta.device)
                    inside &= self._q.theta < 0.5  # gradients seen so far say little of a unit that is hardly trained
                    self._q.theta[inside] = 0.0
                    self._q.absorbed |= inside
        removed = self.gating.remove == "epoch" and self.remove()
        if removed:
            self.record()
        return Change.MODEL if removed else Change.VALUES

    def end(self) -> None:
        """Notes how gates were left where the restart was stopped early."""
        if self.run.stop:
            self.record()

    @torch.no_grad()
    def remove(self) -> bool:
        """Removes the units of absorbed gates; returns whether there were any that could go."""
        gates, q = self._gates, self._q
        closed = q.by_site(q.absorbed)
        may_go = [site for site, one in gates.sets.items() if one.is_layer or gates.groups[one.owner].count > 1]
        if not any(bool(closed[site].any()) for site in may_go):
            return False
        count = sum(one.count for one in gates.sets.values())
        removed = without_units(self._objective.model, closed)
        if len(removed.gates) == count:
            return False  # what is closed has to stay, lest a layer is empty
        before = (self._objective, self.run.optimizer)
        with torch.random.fork_rng(devices=[q.theta.device] if q.theta.device.type == "cuda" else []):
            fresh = self.run.replace(
                removed.model, for_good=q.is_settled
            )  # a guide draws starting values, which are replaced next
        transfer(removed, before, fresh)
        self._at_zero = self._at_zero[removed.gates.to(self._at_zero.device)]
        if len(removed.gates) == 0:
            self._q.settled.fill_(True)
        for name in removed.emptied:
            warnings.warn(
                f"all units of {name} are closed: one is kept, because a layer cannot be empty; a lower price keeps "
                "more",
                UserWarning,
                stacklevel=2,
            )
        self._attracted = {}
        self._macs = self._count_macs()
        self.said["removals"].append({"step": self.run.step, "gates": count - len(removed.gates)})
        return True

    @torch.no_grad()
    def record(self) -> None:
        """Notes theta, in the numbering of the declared network, and costs."""
        gates, q = self._gates, self._q
        if self.records and self.records[-1]["step"] == self.run.step:
            self.records.pop()
        theta = torch.zeros(len(self.units()), dtype=torch.float32)
        theta[q.origin.cpu()] = q.theta.detach().float().cpu()
        self.records.append(
            {
                "step": self.run.step,
                "theta": theta.numpy(),
                "units_left": self._units(),
                "attracted": {self._name_of(gates.sets[s].owner): int(v.sum()) for s, v in self._attracted.items()},
                "expected_macs": float(gates.costs.macs(*gates.by_owner(q.probabilities()))),
                "realised_macs": self._macs,
            }
        )

    def units(self) -> list[tuple[str, int, bool]]:
        """Set, number and whether it is a layer's gate, of every gate that was declared."""
        return [
            (owner, int(number), is_layer) for owner, numbers, is_layer in self._declared.values() for number in numbers
        ]

    def row(self) -> Mapping[str, float | Mapping[str, float]]:
        """How many units are left, by the name of their set."""
        return {"units_left": {name: float(count) for name, count in self._units().items()}}

    def report(self) -> dict[str, Any]:
        """What came of it: steps of theta, rounding, removals, and how noisy the gradient was."""
        return self.said

    @classmethod
    def trace(cls, trace: xr.Dataset, rules: Sequence[Self]) -> xr.Dataset:
        """Adds what gates did; see `gate_variables`."""
        trace = trace.drop_dims("units_left_name", errors="ignore")  # of each epoch; records are more
        return gate_variables(trace, rules[0].units(), [one.records for one in rules], rules[0].said)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, beside the guide."""
        looks = self._decay is not None and not self._q.is_settled
        return {
            "records": self.records,
            "report": self.said,
            "at_zero": self._at_zero,
            **self._noise.state_dict(),
            "attracted": self._attracted,
            "recent": list(self._recent) if looks else [],
        }

    def load_state_dict(self, kept: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned; the run has objective and optimizer of what was left then."""
        device = self._q.theta.device
        self.records, self.said = kept["records"], kept["report"]
        self._at_zero = kept["at_zero"].to(device)
        self._noise.load_state_dict(kept)
        self._attracted = {site: inside.to(device) for site, inside in kept["attracted"].items()}
        self._recent.extend((x.to(device), y.to(device)) for x, y in kept["recent"])
        self._held_until = self.said.get("held_until", 0)  # an earlier version held nothing,
        self._rates, self.rate = self._rates * (self.said["step"] / self.rate), self.said["step"]  # and took others
        self._macs = self._count_macs()

    # -- inside ----------------------------------------------------------------------------------------------

    @property
    def _objective(self) -> Objective:
        return self.run.objective

    @property
    def _gates(self) -> NetworkGates:
        return NetworkGates.among(self._objective.model.ways)

    @property
    def _q(self) -> GateFamily:
        return GateFamily.among(self._objective.guide.ways)

    def _price(self) -> float:
        """Mean price of a gate in nats per datum, between closed and open."""
        gates = self._gates
        n = sum(one.count for one in gates.sets.values())
        like = self._q.theta.detach()
        open_, closed = (gates.cost(self._q.by_site(torch.full_like(like, value))) for value in (1.0, 0.0))
        return self.run.final_kl_weight * float(open_ - closed) / n / gates.data_size

    def _rates_of_gates(self) -> Tensor:
        """Step of each theta, by the number of its gate: where prices differ, in inverse proportion to its own.

        A unit of no use then needs the same number of steps whatever it costs.
        """
        gates, theta = self._gates, self._q.theta.detach()
        if not gates.is_pressed_by_cost or self.gating.step is not None:
            return torch.full_like(theta, self.rate)
        prices = torch.cat(list(gates.prices(self._q.probabilities()).values()))
        mean = prices.mean()
        return self.rate * mean / prices.clamp_min(1e-3 * float(mean))

    @torch.no_grad()
    def _project(self) -> None:
        q = self._q
        gradient = q.theta.grad
        if gradient is None:
            return
        self._noise.watch(gradient, ~q.absorbed)
        q.theta.sub_(self._rates[q.origin] * torch.where(q.absorbed, 0.0, gradient))
        q.theta.clamp_(0.0, 1.0)
        q.theta.grad = None
        stays = (q.theta == 0) if q.touched is None else (q.theta == 0) & q.touched
        untouched = torch.zeros_like(stays) if q.touched is None else ~q.touched
        self._at_zero = torch.where(stays, self._at_zero + 1, torch.where(untouched, self._at_zero, 0))
        if all(self._gates.pressure(site).absorbs for site in self._gates.sets):
            q.absorbed |= self._at_zero >= self.gating.patience

    @torch.no_grad()
    def _round(self) -> None:
        q = self._q
        price = self._price()
        if price > 0:  # a curved price may press no gate out
            self.said["noise"] = self._noise.ratio(self.rate, price)
        theta = q.theta.detach().clone()
        before = {site: int((part > 0).sum()) for site, part in q.by_site(theta).items()}
        q.theta.copy_((theta > 0.5).to(theta.dtype))
        q.absorbed |= q.theta == 0
        q.settled.fill_(True)
        after = {site: int(part.sum()) for site, part in q.by_site(q.theta).items()}
        self.said |= {
            "interior": int(((theta > INTERIOR[0]) & (theta < INTERIOR[1])).sum()),
            "open_before_rounding": before,
            "open_after_rounding": after,
        }

    def _units(self) -> dict[str, int]:
        """Units in the network, by the name that their set was declared under."""
        return {self._name_of(name): units.count for name, units in self._gates.groups.sets.items()}

    def _name_of(self, owner: str) -> str:
        """The name under which a set of units, or a branch, was declared: its first layer may have left since."""
        groups = self._gates.groups.sets
        return self._homes[groups[owner].layers[0]] if owner in groups else owner

    def _count_macs(self) -> int:
        model = self._objective.model
        return sum(one.dense for one in count_macs(model.network, model.example_input).values())

    def _weight_decay(self) -> float | None:
        """Decay of the weights in nats per datum, where all readers have the prior that the gates declare."""
        model, gates = self._objective.model, self._gates
        own = gates.declaration
        if own.probability is not None or own.beta is not None:
            return None  # the set is that of a straight price
        if not set(gates.tensors) <= set(model.left_to_gates):
            return None
        return self.run.final_kl_weight / (own.weight_scale**2 * model.data_size)

    def _find_attracted(self) -> dict[str, Tensor]:
        """Which gates lie inside the attraction set of zero, by site, on the last few batches."""
        model, q, gates = self._objective.model, self._q, self._gates
        assert self._decay is not None
        readers = {one.owner: gates.groups[one.owner] for one in gates.sets.values() if not one.is_layer}
        weights = {n: w.detach() for n, w in model.ungated_weights_at(self._objective.guide.means()).items()}
        gradients = []
        with (
            torch.random.fork_rng(devices=[q.theta.device] if q.theta.device.type == "cuda" else []),
            frozen_statistics(model.network),
        ):
            for x, y in self._recent:
                effective = gates.weights(weights, q.sample(), model.network)
                leaves = {name: value.detach().requires_grad_(True) for name, value in effective.items()}
                outputs = torch.func.functional_call(model.network, leaves, (x,))
                loss = -model.likelihood.log_prob(outputs, y).mean()
                gradients.append(dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)))
        lipschitz, norms = lipschitz_estimates(gradients, readers), fan_out_norms(weights, readers)
        prices = gates.prices(q.probabilities())
        attracted = {}
        for site, theta in q.probabilities().items():
            one = gates.sets[site]
            if one.is_layer:
                attracted[site] = torch.zeros(1, dtype=torch.bool, device=theta.device)
                continue
            mine, kappa = one.numbers.to(theta.device), self.run.final_kl_weight * prices[site] / model.data_size
            attracted[site] = is_attracted(
                norms[one.owner][mine], theta, kappa, self._decay, lipschitz[one.owner][mine]
            )
        return attracted
