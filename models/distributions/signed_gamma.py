"""A Gamma variable with a random sign."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

__all__ = ["SignedGamma"]


class SignedGamma(TorchDistribution):
    """A Gamma variable with a random sign: density Gamma(|value|; concentration, rate) / 2 on the real line.

    Args:
        concentration: Shape of the Gamma.
        rate: Rate of the Gamma.
    """

    arg_constraints = {"concentration": constraints.positive, "rate": constraints.positive}
    support = constraints.real
    has_rsample = False

    def __init__(self, concentration: Any, rate: Any, validate_args: bool | None = None) -> None:
        self.concentration, self.rate = broadcast_all(concentration, rate)
        super().__init__(self.concentration.shape, validate_args=validate_args)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape `sample_shape + batch_shape`."""
        size = dist.Gamma(self.concentration, self.rate).sample(torch.Size(sample_shape))
        return size * torch.randint_like(size, 2).mul(2).sub(1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats."""
        normaliser = self.concentration * self.rate.log() - torch.lgamma(self.concentration) - math.log(2.0)
        return normaliser + (self.concentration - 1) * value.abs().log() - self.rate * value.abs()

    @property
    def mean(self) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.rate)

    @property
    def variance(self) -> Tensor:
        """Second moment of the Gamma."""
        return self.concentration * (self.concentration + 1) / self.rate**2

    def expand(self, batch_shape: Any, _instance: Any = None) -> SignedGamma:
        """Returns a distribution of the given batch shape."""
        return SignedGamma(self.concentration.expand(batch_shape), self.rate.expand(batch_shape), False)
