"""Improper densities that are a power of |value|: the flat one, which says nothing, among them."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints


class PowerDensity(TorchDistribution):
    """Density |value|^power on the real line or on its positive half; improper, so it cannot be sampled.

    Power 0 is the flat density, of a value without a penalty.

    Args:
        power: Exponent, not negative; default 0.
        positive: Whether values are positive; default False: any real number.
        batch_shape: Leading independent copies; default none.
    """

    arg_constraints: dict[str, Any] = {}
    has_rsample = False

    def __init__(
        self, power: float = 0.0, positive: bool = False, batch_shape: Any = (), validate_args: bool | None = None
    ) -> None:
        self.power, self.positive = power, positive
        super().__init__(torch.Size(batch_shape), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        """The real line, or its positive half."""
        return constraints.positive if self.positive else constraints.real

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Refuses.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "a flat density, or a power of |value|, has no finite mass, so it cannot be sampled: fit it with a guide "
            "in place of NUTS or prior draws"
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """The logarithm of |value|^power, which is not normalised."""
        if self.power == 0.0:
            return 0.0 * value  # no constant, so that a value which has no other term has a gradient too
        return self.power * value.abs().log()

    @property
    def mean(self) -> Tensor:
        """Zero, where the density is symmetric about it."""
        return torch.full(self.batch_shape, math.nan if self.positive else 0.0)

    @property
    def variance(self) -> Tensor:
        """Infinite."""
        return torch.full(self.batch_shape, math.inf)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PowerDensity:
        """Returns a distribution of the given batch shape."""
        return PowerDensity(self.power, self.positive, batch_shape, False)
