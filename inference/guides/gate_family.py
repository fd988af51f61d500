"""The guide of unit gates: independent Bernoullis by their probabilities theta, which may be exactly 0 and 1."""

from __future__ import annotations

from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bayesprune.inference.guides.registry import POINT
from bayesprune.inference.ways.way_family import WayFamily, way_family
from bayesprune.models.gates.network_gates import NetworkGates
from bayesprune.models.ways.host_flag import HostFlag

__all__ = ["GateFamily"]


def _is_true(flag: Tensor) -> Tensor:
    return flag


def _all_open(theta: Tensor) -> Tensor:
    return (theta == 1).all()


@way_family(NetworkGates)
class GateFamily(WayFamily):
    """q(gate) = Bernoulli(theta) for every gate of a network; pi is a point at its best.

    Args:
        gates: The gates; theta begins at what their declaration says.
        like: A tensor whose dtype and device theta has.

    Attributes:
        theta: Probabilities, `(gates,)`, in [0, 1]; moved by projected gradient steps, not by the fit's optimizer.
        absorbed: Gates that stay closed, boolean, `(gates,)`.
        origin: Number of each gate among those that were declared, `(gates,)`.
        settled: Whether theta has been rounded and is trained no more, a boolean scalar.
        touched: Gates whose theta the last step has moved, `(gates,)`; None: all of them.
    """

    why_no_elbo = "gates of units have another objective"

    def __init__(self, gates: NetworkGates, like: Tensor) -> None:
        super().__init__(gates, like)
        self._gates = (gates,)
        self.sizes = [one.count for one in gates.sets.values()]
        count = sum(self.sizes)
        self.theta = nn.Parameter(like.new_full((count,), gates.declaration.start))
        self.absorbed: Tensor
        self.origin: Tensor
        self.settled: Tensor
        self.register_buffer("absorbed", torch.zeros(count, dtype=torch.bool, device=like.device))
        self.register_buffer("origin", torch.arange(count, device=like.device))
        self.register_buffer("settled", torch.zeros((), dtype=torch.bool, device=like.device))
        self.touched: Tensor | None = None
        self._settled, self._open = HostFlag(_is_true), HostFlag(_all_open)

    @classmethod
    def among(cls, ways: Mapping[str, WayFamily]) -> GateFamily:
        """The guide of gates among those of a guide's ways.

        Raises:
            ValueError: If there is none.
        """
        found = next((q for q in ways.values() if isinstance(q, GateFamily)), None)
        if found is None:
            raise ValueError("the model has no gates of units: declare gates=UnitGates(...)")
        return found

    @property
    def is_settled(self) -> bool:
        """`settled`, as the host knows it: nothing is waited for in a step."""
        return self._settled.of(self.settled)

    @property
    def is_open(self) -> bool:
        """Whether every theta is 1, likewise."""
        return self._open.of(self.theta)

    def is_certain(self) -> bool:
        """Whether all gates are open or closed for good."""
        theta = self.theta.detach()
        return bool(((theta == 0) | (theta == 1)).all())

    def family_of(self) -> dict[str, str]:
        """Gates are Bernoullis, their pi is a point."""
        found: dict[str, str] = {}
        for one in self.gates.sets.values():
            found |= {one.site: "bernoulli", one.probability_site: POINT}
        return found

    def forward(self) -> dict[str, Tensor]:
        """Pi at its best, and real Bernoullis."""
        values = {}
        for name, pi in self.best_priors().items():
            values[name] = pyro.sample(name, dist.Delta(pi).to_event(1))
        for site, theta in self.by_site(self.theta).items():
            values[site] = pyro.sample(site, dist.Bernoulli(theta).to_event(1))
        return values

    @property
    def gates(self) -> NetworkGates:
        """The gates that this guide was made for."""
        return self._gates[0]

    def by_site(self, flat: Tensor) -> dict[str, Tensor]:
        """A vector `(gates,)` cut into what belongs to each site, `(count,)`."""
        return dict(zip(self.gates.sets, flat.split(self.sizes), strict=True))

    def probabilities(self) -> dict[str, Tensor]:
        """Theta by site, without gradient."""
        return self.by_site(self.theta.detach())

    def best_priors(self) -> dict[str, Tensor]:
        """The pi at which each gate costs least, by its own site; none where pi is a given number.

        Where the price is the network's expected cost, each gate's is set to its marginal cost at theta.
        """
        found = {}
        self.gates.press(self.probabilities())
        for site, theta in self.probabilities().items():
            pressure = self.gates.pressure(site)
            if pressure.prior(theta) is not None:
                found[self.gates.sets[site].probability_site] = pressure.best(theta)
        return found

    def sample(self) -> dict[str, Tensor]:
        """One draw of every gate, by site."""
        return {site: torch.bernoulli(theta) for site, theta in self.probabilities().items()}

    def tensors_closed(self, threshold: float) -> tuple[str, ...]:
        """What scales the output of residual branches whose gate is closed."""
        theta, branches = self.probabilities(), self.gates.branches
        closed = [name for name in branches if float(theta[f"{name}.layer_gate"]) <= threshold]
        return tuple(tensor for name in closed for tensor in branches[name].output)
