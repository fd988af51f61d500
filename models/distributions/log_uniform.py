"""Log-uniform distributions: flat in log |value|, on the whole real line (improper) or between two ends."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

EULER = 0.5772156649015329
LOG_UNIFORM_CONSTANT = -0.5 * (math.log(4.0 * math.pi) + 1.0 + EULER)
"""What is added to -log |value|. An improper density leaves it open; so chosen that KL(Normal(m, s) || LogUniform) goes
to zero where m / s does: E log |e| = -(EULER + log 2) / 2 for e ~ Normal(0, 1)."""
IMPROPER = "a log-uniform prior, 1 / |value|, has no finite mass"


def within(logarithm: Tensor, low: Any, high: Any) -> Tensor:
    """Whether a logarithm lies between two ends, which come back from single precision a little beside themselves."""
    return (logarithm - low >= -1e-6 * (1.0 + abs(low))) & (logarithm - high <= 1e-6 * (1.0 + abs(high)))


class LogUniform(TorchDistribution):
    """Density proportional to 1 / |value| on the real line; improper, so it cannot be sampled.

    Kingma, Salimans & Welling 2015.

    Args:
        batch_shape: Leading independent copies; default none.
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real
    has_rsample = False

    def __init__(self, batch_shape: Any = (), validate_args: bool | None = None) -> None:
        super().__init__(torch.Size(batch_shape), validate_args=validate_args)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Refuses.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{IMPROPER}, so it cannot be sampled: fit it with a guide in place of NUTS or prior draws")

    def log_prob(self, value: Tensor) -> Tensor:
        """-log |value| + `LOG_UNIFORM_CONSTANT` in nats."""
        return LOG_UNIFORM_CONSTANT - value.abs().log()

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogUniform:
        """Returns a distribution of the given batch shape."""
        return LogUniform(batch_shape, False)


class TruncatedLogUniform(TorchDistribution):
    """log value ~ Uniform(low, high): density 1 / ((high - low) value) on [exp(low), exp(high)].

    Neklyudov et al. 2017.

    Args:
        low: Logarithm of the lower end.
        high: Logarithm of the upper end.
    """

    arg_constraints = {"low": constraints.real, "high": constraints.real}
    has_rsample = False

    def __init__(self, low: Any, high: Any, validate_args: bool | None = None) -> None:
        self.low, self.high = broadcast_all(low, high)
        super().__init__(self.low.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        """The interval, in float64 so that its ends have the given logarithms."""
        return constraints.interval(self.low.double().exp(), self.high.double().exp())

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape `sample_shape + batch_shape`."""
        share = torch.rand(self._extended_shape(sample_shape), dtype=self.low.dtype, device=self.low.device)
        return torch.lerp(self.low, self.high, share).exp()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats; -inf outside."""
        logarithm = value.log()
        return torch.where(within(logarithm, self.low, self.high), -logarithm - (self.high - self.low).log(), -math.inf)

    def expand(self, batch_shape: Any, _instance: Any = None) -> TruncatedLogUniform:
        """Returns a distribution of the given batch shape."""
        return TruncatedLogUniform(self.low.expand(batch_shape), self.high.expand(batch_shape), False)
