"""Expected loss of a tiny network under Bernoulli gates on its units, with gradients, by enumeration of all gates.

The network has two hidden layers of tanh units, each unit multiplied by a gate, and a softmax at the end. It is
written from the formulas alone, so that gates may be (units,) or (batch, units).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Nll = Callable[[Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True)
class TinyNetwork:
    """A classification by 3-4-3-2 units in float64; calling it with gates "a" (4) and "b" (3) gives losses (batch,).

    Attributes:
        weights: Its three matrices, (out, in), which require a gradient.
        x: (batch, 3) inputs.
        y: (batch,) labels.
    """

    weights: tuple[Tensor, Tensor, Tensor]
    x: Tensor
    y: Tensor

    def __call__(self, gates: Mapping[str, Tensor]) -> Tensor:
        first, second, third = self.weights
        hidden = torch.tanh(self.x @ first.T) * gates["a"]
        hidden = torch.tanh(hidden @ second.T + 0.5) * gates["b"]
        log_probabilities = (hidden @ third.T).log_softmax(-1)
        return -log_probabilities.gather(-1, self.y[:, None]).squeeze(-1)


def tiny_network(batch: int = 5, seed: int = 0) -> TinyNetwork:
    """Random weights and data."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    sizes = [(4, 3), (3, 4), (2, 3)]
    first, second, third = (normal(*size).mul(1.5).requires_grad_() for size in sizes)
    return TinyNetwork((first, second, third), normal(batch, 3), torch.randint(2, (batch,), generator=random))


@dataclass(frozen=True)
class ExactExpectation:
    """Expected mean loss F in nats per example, and its gradients.

    Attributes:
        value: F, a scalar.
        theta: dF / dtheta by site, (units,).
        weights: dF / dweights, in the order given.
    """

    value: Tensor
    theta: dict[str, Tensor]
    weights: tuple[Tensor, ...]


def enumerate_gates(nll: Nll, theta: Mapping[str, Tensor], weights: tuple[Tensor, ...] = ()) -> ExactExpectation:
    """Sums over all 2^m gates; the gradient of theta is the sum of C(open) - C(closed), weighted by the other gates."""
    sites = [(site, unit) for site, values in theta.items() for unit in range(len(values))]
    probability = {place: float(theta[place[0]][place[1]].detach()) for place in sites}
    value = torch.zeros((), dtype=torch.float64)
    gradient = {site: torch.zeros(len(values), dtype=torch.float64) for site, values in theta.items()}
    for bits in itertools.product((0, 1), repeat=len(sites)):
        state = dict(zip(sites, bits, strict=True))
        gates = {
            site: torch.tensor([state[site, unit] for unit in range(len(v))]).double() for site, v in theta.items()
        }
        loss = nll(gates).mean()
        chance = {place: probability[place] if bit else 1.0 - probability[place] for place, bit in state.items()}
        together = 1.0
        for factor in chance.values():
            together *= factor
        value = value + together * loss
        for site, unit in sites:
            others = 1.0
            for place, factor in chance.items():
                others *= factor if place != (site, unit) else 1.0
            gradient[site][unit] += (1 if state[site, unit] else -1) * others * float(loss.detach())
    return ExactExpectation(value.detach(), gradient, torch.autograd.grad(value, weights) if weights else ())
