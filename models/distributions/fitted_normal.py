"""A Normal around zero whose scale is the best one for each guide: the prior of the information bottleneck."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["IMPROPER", "FittedNormal"]

IMPROPER = "the scale of the noise is the best one for each guide, so there is no one prior"


class FittedNormal(TorchDistribution):
    """Normal(0, xi) with xi at its best, counted `strength` times.

    Under a Normal guide xi^2 = E z^2, which only its registered term knows. The log density here is that of the best xi
    for one value, which is log-uniform. It cannot be sampled.

    Args:
        strength: Factor on the KL divergence.
    """

    arg_constraints = {"strength": constraints.positive}
    support = constraints.real
    has_rsample = False
    only_by_term = True  # the best xi is one for all draws of a guide

    def __init__(self, strength: Any, validate_args: bool | None = None) -> None:
        self.strength = torch.as_tensor(
            strength, dtype=None if torch.is_tensor(strength) else torch.get_default_dtype()
        )
        super().__init__(self.strength.shape, validate_args=validate_args)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Refuses.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{IMPROPER}, and it cannot be sampled: fit it with a guide in place of NUTS or prior draws")

    def log_prob(self, value: Tensor) -> Tensor:
        """Strength times the largest log density of a Normal(0, xi) at the value, where xi = |value|, in nats."""
        return self.strength * (-value.abs().log() - 0.5 * math.log(2.0 * math.pi * math.e))

    def expand(self, batch_shape: Any, _instance: Any = None) -> FittedNormal:
        """Returns a distribution of the given batch shape."""
        return FittedNormal(self.strength.expand(batch_shape), False)
