"""What presses gates to zero: the prior of a gate, and what its posterior probability theta then costs.

A gate is Bernoulli(pi) under the prior and Bernoulli(theta) under the guide. Where pi has a hyper-prior p(pi), pi is a
point at its best (type-II maximum likelihood), so that a gate costs

    J(theta) = min over pi of KL(Bernoulli(theta) || Bernoulli(pi)) - log p(pi)   nats.

Under the flattening hyper-prior J is a straight line, under a fixed pi or a Beta it is curved (Guenter & Sideris, arXiv
2205.04650; the formulas are derived, not quoted): the curvature holds theta off its ends, or draws it to them whatever
the unit is worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprune.models.distributions.flattening import FlatteningPrior, best_prior_probability

_EDGE = 1e-6
"""Slopes of curved costs are taken at least this far from 0 and 1, where they are infinite."""


class GatePressure(Protocol):
    """The prior of gates.

    Attributes:
        absorbs: Whether a gate at zero may be closed for good; not where the price is curved, which drives it off zero.
    """

    absorbs: ClassVar[bool]

    def prior(self, like: Tensor) -> Any:
        """The hyper-prior of pi, on the device and in the dtype of `like`; None where pi is a given number."""

    def best(self, theta: Tensor) -> Tensor:
        """The pi at which a gate costs least, at posterior probabilities `theta`."""

    def cost(self, theta: Tensor) -> Tensor:
        """J(theta) in nats, gate by gate."""


@dataclass(frozen=True)
class Flattening:
    """pi ~ FlatteningPrior(log_gamma): J(theta) = theta log gamma - log((gamma - 1) / log gamma).

    Attributes:
        log_gamma: Its slope in nats; a number, or a tensor of one a gate.
    """

    log_gamma: float | Tensor
    absorbs: ClassVar[bool] = True

    def priced(self, factor: Tensor) -> Flattening:
        """The same at `factor` times the price."""
        return Flattening(self.log_gamma * factor)

    def prior(self, like: Tensor) -> FlatteningPrior:
        """The hyper-prior."""
        return FlatteningPrior(torch.as_tensor(self.log_gamma, dtype=like.dtype, device=like.device))

    def best(self, theta: Tensor) -> Tensor:
        """Logit pi = logit theta - log gamma."""
        return best_prior_probability(theta, self.log_gamma)

    def cost(self, theta: Tensor) -> Tensor:
        """The straight line."""
        return theta * self.log_gamma - self._constant

    @cached_property
    def _constant(self) -> float | Tensor:
        if isinstance(self.log_gamma, Tensor):
            return self.prior(self.log_gamma).log_normaliser
        return float(FlatteningPrior(torch.tensor(self.log_gamma, dtype=torch.float64)).log_normaliser)


@dataclass(frozen=True)
class FixedProbability:
    """Pi is a number: J is the KL divergence itself, whose minimum lies between 0 and 1.

    Attributes:
        probability: pi, in (0, 1).
    """

    probability: float
    absorbs: ClassVar[bool] = False

    def prior(self, like: Tensor) -> None:
        """None: there is no hyper-prior."""

    def best(self, theta: Tensor) -> Tensor:
        """The number, for each gate."""
        return torch.full_like(theta, self.probability)

    def cost(self, theta: Tensor) -> Tensor:
        """KL(Bernoulli(theta) || Bernoulli(pi))."""
        return _with_finite_slope(lambda at: _divergence(at, self.best(at)), theta)


@dataclass(frozen=True)
class BetaHyperPrior:
    """pi ~ Beta(a, b) with a and b of at least 1.

    Attributes:
        a: Of the Beta.
        b: Of the Beta.
    """

    a: float
    b: float
    absorbs: ClassVar[bool] = False

    def prior(self, like: Tensor) -> dist.Beta:
        """The hyper-prior."""
        a, b = (torch.tensor(value, dtype=like.dtype, device=like.device) for value in (self.a, self.b))
        return dist.Beta(a, b)

    def best(self, theta: Tensor) -> Tensor:
        """(theta + a - 1) / (a + b - 1), the mode of a Beta(a + theta, b + 1 - theta)."""
        return (theta + (self.a - 1.0)) / (self.a + self.b - 1.0)

    def cost(self, theta: Tensor) -> Tensor:
        """KL(Bernoulli(theta) || Bernoulli(pi)) - log Beta(pi; a, b) at the best pi."""
        constant = math.lgamma(self.a) + math.lgamma(self.b) - math.lgamma(self.a + self.b)

        def at_best(at: Tensor) -> Tensor:
            pi = self.best(at)
            log_density = torch.special.xlog1py(self.b - 1.0, -pi) + torch.xlogy(self.a - 1.0, pi) - constant
            return _divergence(at, pi) - log_density

        return _with_finite_slope(at_best, theta)


def _with_finite_slope(cost: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """The cost at theta, with the slope that it has a little off 0 and 1."""
    held = cost(theta + (theta.clamp(_EDGE, 1.0 - _EDGE) - theta).detach())
    return cost(theta.detach()) + (held - held.detach())


def _divergence(theta: Tensor, pi: Tensor) -> Tensor:
    closed = 1.0 - theta
    opened = torch.xlogy(theta, theta) - torch.xlogy(theta, pi)
    return opened + torch.special.xlog1py(closed, -theta) - torch.special.xlog1py(closed, -pi)
