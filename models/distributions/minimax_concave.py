"""The density whose minus logarithm is the minimax concave penalty; it has no normaliser."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

__all__ = ["IMPROPER", "MinimaxConcave"]

IMPROPER = "its penalty is constant for large weights, so it has no normaliser; fit it with guide='map'"


class MinimaxConcave(TorchDistribution):
    """exp(-penalty) with the minimax concave penalty (Zhang 2010); improper, so it cannot be sampled.

    The penalty of a value w, lam times the integral of (1 - x / (gamma lam))_+ over x from 0 to |w|, is
    lam |w| - w^2 / (2 gamma) for |w| <= gamma lam and gamma lam^2 / 2 beyond.

    Args:
        lam: Slope at zero, in nats.
        gamma: Minus the reciprocal of the curvature up to gamma lam.
    """

    arg_constraints = {"lam": constraints.positive, "gamma": constraints.positive}
    support = constraints.real
    has_rsample = False

    def __init__(self, lam: Any, gamma: Any, validate_args: bool | None = None) -> None:
        self.lam, self.gamma = broadcast_all(lam, gamma)
        super().__init__(self.lam.shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus the penalty in nats: zero at zero, and not normalised."""
        size = torch.minimum(value.abs(), self.gamma * self.lam)
        return size * (0.5 / self.gamma * size - self.lam)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Refused.

        Raises:
            ValueError: Always: the density has no normaliser.
        """
        raise ValueError(f"this prior cannot be simulated: {IMPROPER}")

    def expand(self, batch_shape: Any, _instance: Any = None) -> MinimaxConcave:
        """Returns a distribution of the given batch shape."""
        return MinimaxConcave(self.lam.expand(batch_shape), self.gamma.expand(batch_shape), validate_args=False)
