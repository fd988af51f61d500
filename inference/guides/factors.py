"""Guide factors: q of one site for one draw, as a family hands it to the objective."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import SigmoidTransform
from torch.distributions.utils import probs_to_logits
from torch.nn.functional import logsigmoid

from bayesprune.inference.guides.functional import is_functional
from bayesprune.models.language.iid import Iid

LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
HALF_LOG_2PIE = LOG_SQRT_2PI + 0.5
"""Entropy of a standard Normal in nats."""


@dataclass(frozen=True)
class Factor:
    """q of one site for one draw.

    Attributes:
        value: The drawn value, differentiable, of the site's shape.
        has_density: Whether q has a log density.
        has_landing_term: Whether its `landing_term` is one.
    """

    value: Tensor
    has_density: ClassVar[bool] = True
    has_landing_term: ClassVar[bool] = False

    @property
    def log_value(self) -> Tensor:
        """Logarithm of the drawn value; where the value is an exponential, what it is the exponential of."""
        return self.value.log()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of q in nats, summed over the site."""
        fn = self.distribution()
        return fn.log_prob(value).sum()

    def distribution(self) -> Any:
        """Q as a Pyro distribution whose batch shape is the site's."""
        raise TypeError(f"{type(self).__name__} does not say its distribution")

    def conditioned(self, values: Mapping[str, Tensor], prior: Iid) -> Any:
        """Q given the sites that were drawn before this one, as a Pyro distribution; by default it looks at none.

        Args:
            values: Drawn values by name of site.
            prior: The site's prior, given its drawn parents.
        """
        return self.distribution()

    def term_from_draw(self, prior: Iid, value: Tensor) -> Tensor:
        """Log q - log p at a draw, in nats, summed over the site: its term, where there is no closed form.

        Of what has no density minus the log prior.

        Args:
            prior: The site's prior, given its drawn parents.
            value: The drawn value.
        """
        log_prior = prior.log_prob(value)
        return self.log_prob(value) - log_prior if self.has_density else -log_prior

    def landing_term(self, prior: Iid, value: Tensor) -> Tensor | None:
        """As `term_from_draw`, with the parameters of log q held fixed; None where q has no such form.

        See `bayesprune.inference.objective.sticking_the_landing`.

        Args:
            prior: The site's prior, given its drawn parents.
            value: The drawn value.
        """
        return None


@dataclass(frozen=True)
class DeltaFactor(Factor):
    """A point: MAP. It has no density, so its term is minus the log prior.

    Attributes:
        logarithm: Logarithm of the value where the guide holds it, else None.
    """

    logarithm: Tensor | None = None
    has_density: ClassVar[bool] = False

    @property
    def log_value(self) -> Tensor:
        """Logarithm of the value."""
        return super().log_value if self.logarithm is None else self.logarithm

    def log_prob(self, value: Tensor) -> Tensor:
        """Zero, as Pyro's Delta has it at its point."""
        return value.new_zeros(())

    def distribution(self) -> Any:
        """Delta at the value."""
        return dist.Delta(self.value)


@dataclass(frozen=True)
class NormalFactor(Factor):
    """Normal(location, scale) on the real line.

    Attributes:
        location: Mean.
        log_scale: Logarithm of the standard deviation.
        sums: Sums over the site of location^2 + scale^2 and of log_scale, `(2,)`.
    """

    location: Tensor
    log_scale: Tensor
    sums: Tensor
    has_landing_term: ClassVar[bool] = True

    @property
    def scale(self) -> Tensor:
        """Standard deviation."""
        return self.log_scale.exp()

    def distribution(self) -> Any:
        """The Normal."""
        return dist.Normal(self.location, self.scale)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, summed."""
        standard = (value - self.location) / self.scale
        return -(0.5 * standard.square() + self.log_scale + LOG_SQRT_2PI).sum()

    def held(self) -> Self:
        """The same q with location and scale that take no gradient."""
        return replace(self, location=self.location.detach(), log_scale=self.log_scale.detach())

    def landing_term(self, prior: Iid, value: Tensor) -> Tensor:
        """Log q - log p at a draw, with location and scale held fixed, in nats, summed over the site."""
        return self.held().log_prob(value) - prior.log_prob(value)


@dataclass(frozen=True)
class LogNormalFactor(NormalFactor):
    """exp of a Normal, for positive sites; location and scale are those of the logarithm.

    Attributes:
        logarithm: The drawn logarithm of the value; None: it is computed.
    """

    logarithm: Tensor | None = None

    @property
    def log_value(self) -> Tensor:
        """Logarithm of the drawn value."""
        return super().log_value if self.logarithm is None else self.logarithm

    def distribution(self) -> Any:
        """The LogNormal."""
        return dist.LogNormal(self.location, self.scale)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, summed."""
        logarithm = self.log_value if value is self.value else value.log()
        return super().log_prob(logarithm) - logarithm.sum()


@dataclass(frozen=True)
class LogitNormalFactor(NormalFactor):
    """Sigmoid of a Normal, for sites on the unit interval; location and scale are those of the logit."""

    def distribution(self) -> Any:
        """The logit-Normal."""
        return dist.TransformedDistribution(dist.Normal(self.location, self.scale), [SigmoidTransform()])

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, summed."""
        return super().log_prob(torch.logit(value)) - (value.log() + torch.log1p(-value)).sum()


@dataclass(frozen=True)
class BernoulliFactor(Factor):
    """Bernoulli(sigmoid(logit)); its value is left to the gate estimator and holds the probability until then.

    Attributes:
        logit: Log odds of a one.
    """

    logit: Tensor

    @property
    def probability(self) -> Tensor:
        """Probability of a one."""
        return self.value

    def distribution(self) -> Any:
        """The Bernoulli."""
        return dist.Bernoulli(logits=self.logit)


@dataclass(frozen=True)
class GivenGateFactor(BernoulliFactor):
    """A gate that is given: exactly zero or one in every draw, which no gate estimator draws and nothing trains.

    A point on the two values, so that its term is minus the log prior probability of the value: with it the objective
    bounds log p(data, gates), whose difference compares two sets of gates.
    """

    has_density: ClassVar[bool] = False

    def log_prob(self, value: Tensor) -> Tensor:
        """Zero: q of the one value that is drawn is one."""
        return value.new_zeros(())

    def term_from_draw(self, prior: Iid, value: Tensor) -> Tensor:
        """Minus the log prior probability of the values, in nats, summed over the site."""
        if not isinstance(prior.base_dist, dist.Bernoulli):
            return super().term_from_draw(prior, value)
        logits = log_odds_of(prior.base_dist)
        return -logsigmoid(torch.where(self.probability > 0.5, logits, -logits)).sum()


def log_odds_of(prior: Any) -> Tensor:
    """Log odds of a Bernoulli; while the objective is traced not remembered on it, as PyTorch would do by itself."""
    if is_functional() and "logits" not in vars(prior):
        return probs_to_logits(prior.probs, is_binary=True)
    logits: Tensor = prior.logits
    return logits
