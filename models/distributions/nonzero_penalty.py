"""A price on every value that is not zero, in place of a density."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

__all__ = ["IMPROPER", "NonzeroPenalty"]

IMPROPER = "its gates have a price in place of a distribution"


class NonzeroPenalty(TorchDistribution):
    """Log density -price where the value, in [0, 1], is not zero; a penalty, so it cannot be sampled.

    Args:
        price: What a value other than zero costs, in nats.
    """

    arg_constraints = {"price": constraints.nonnegative}
    support = constraints.unit_interval
    has_rsample = False
    only_by_term = True  # an indicator passes no gradient to a draw

    def __init__(self, price: Any, validate_args: bool | None = None) -> None:
        self.price = torch.as_tensor(price, dtype=None if torch.is_tensor(price) else torch.get_default_dtype())
        super().__init__(self.price.shape, validate_args=validate_args)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Refuses.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{IMPROPER}, so it cannot be sampled: fit it with a guide in place of NUTS or prior draws")

    def log_prob(self, value: Tensor) -> Tensor:
        """-price where the value is not zero, in nats."""
        return -self.price * (value != 0)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NonzeroPenalty:
        """Returns a distribution of the given batch shape."""
        return NonzeroPenalty(self.price.expand(batch_shape), False)
