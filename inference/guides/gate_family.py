"""The guide of unit gates: independent Bernoullis by their probabilities theta, which may be exactly 0 and 1."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bayesprune.models.gates.network_gates import NetworkGates


class GateFamily(nn.Module):
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

    def __init__(self, gates: NetworkGates, like: Tensor) -> None:
        super().__init__()
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
