"""A Beta density tilted by what gates of its probability are paid for: the probability of gates under a moved price."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

__all__ = ["TiltedBeta"]

_FAR, _NODES = 48.0, 4097
"""Ends of the trapezoid in the logit, and its nodes: what it integrates falls like exp(-|logit|) or faster."""
_WIDTH = 2.0 * _FAR / (_NODES - 1)


class TiltedBeta(TorchDistribution):
    """Density proportional to x^(a - 1) (1 - x)^(b - 1) (1 - x + odds x)^count on (0, 1); a Beta where odds is 1.

    It is what makes a knob on the odds of gates a plain price of open ones where their probability is learned. If
    `count` gates are Bernoulli with log odds logit(x) + log(odds) given x, then under this density the joint of x and
    the gates is that of Beta(a, b) and Bernoulli(x), times odds to the power of the number of open gates. Under a Beta
    the learned x would go up as the knob goes down, until the knob has no say.

    Args:
        concentration1: a; at least 1 and at most about 1,800 for a normaliser exact to 1e-8.
        concentration0: b; likewise.
        odds: The factor on the odds of a gate.
        count: How many gates have the probability x.
    """

    arg_constraints = {
        "concentration1": constraints.positive,
        "concentration0": constraints.positive,
        "odds": constraints.positive,
        "count": constraints.nonnegative,
    }
    support = constraints.unit_interval
    has_rsample = False

    def __init__(
        self, concentration1: Any, concentration0: Any, odds: Any, count: Any, validate_args: bool | None = None
    ) -> None:
        self.concentration1, self.concentration0, self.odds, self.count = broadcast_all(
            concentration1, concentration0, odds, count
        )
        super().__init__(self.odds.shape, validate_args=validate_args)

    def tilt(self, log_value: Tensor, log_rest: Tensor) -> Tensor:
        """Log of the tilt, count log(1 - x + odds x), by the logarithms of x and 1 - x."""
        return self.count * torch.logaddexp(log_rest, log_value + self.odds.log())

    def log_normaliser(self) -> Tensor:
        """Log of the integral of the density that is not normalised, in nats: by a trapezoid in the logit, in float64.

        Where odds is 1 it is log B(a, b).
        """
        return (self._masses().logsumexp(dim=-1) + math.log(_WIDTH)).to(self.odds.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape `sample_shape + batch_shape`: a cell of the trapezoid, and a logit within it."""
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            cells = torch.distributions.Categorical(logits=self._masses()).sample(torch.Size(sample_shape))
            logits = _logits(self.odds)[cells] + (torch.rand_like(cells, dtype=torch.float64) - 0.5) * _WIDTH
            return logits.sigmoid().to(self.odds.dtype).reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats."""
        log_value, log_rest = value.log(), (-value).log1p()
        beta = (self.concentration1 - 1.0) * log_value + (self.concentration0 - 1.0) * log_rest
        return beta + self.tilt(log_value, log_rest) - self.log_normaliser()

    def expand(self, batch_shape: Any, _instance: Any = None) -> TiltedBeta:
        """Returns a distribution of the given batch shape."""
        shape = torch.Size(batch_shape)
        a, b, odds, count = (each.expand(shape) for each in self._parameters())
        return TiltedBeta(a, b, odds, count, validate_args=False)

    def _parameters(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.concentration1, self.concentration0, self.odds, self.count

    def _masses(self) -> Tensor:
        """Logarithms of the density in the logit at the nodes, not normalised, in float64: `batch_shape + (nodes,)`."""
        logits = _logits(self.odds)
        a, b, odds, count = (each.double().unsqueeze(-1) for each in self._parameters())
        log_value, log_rest = logsigmoid(logits), logsigmoid(-logits)
        return a * log_value + b * log_rest + count * torch.logaddexp(log_rest, log_value + odds.log())


def _logits(like: Tensor) -> Tensor:
    return torch.linspace(-_FAR, _FAR, _NODES, dtype=torch.float64, device=like.device)
