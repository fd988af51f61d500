"""The flattening hyper-prior of a gate's prior probability.

Source: Guenter & Sideris, "Robust Learning of Parsimonious Deep Neural Networks", arXiv 2205.04650, whose abstract
describes it; the formulas are derived, not quoted. It is the one density on [0, 1] under which the best prior
probability of a gate costs an amount that is linear in the gate's posterior probability theta: with
gamma = exp(log_gamma)

    p(pi) = (gamma - 1) / log gamma / (1 + (gamma - 1) pi)
    min over pi of KL(Bernoulli(theta) || Bernoulli(pi)) - log p(pi) = theta log gamma + a constant

so that nothing holds theta between 0 and 1, as a fixed pi or a Beta hyper-prior would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

_LARGE = 80.0
"""From here on exp(|log_gamma|), which float32 still holds, is handled by its logarithm."""
_SMALL = 1.0
"""Up to here moments and entropy are by their series, where their closed forms cancel."""
_SERIES = (
    1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160, -691 / 1307674368000, 1 / 74724249600,
    -3617 / 10670622842880000, 43867 / 5109094217170944000, -174611 / 802857662698291200000,
)  # fmt: skip
"""B_2n / (2n)! for n = 1 to 10, of which the tenth is 1e-16 times the first at `_SMALL`."""
_NEXT_TO_NOTHING = 1e-30
"""What stands for a log_gamma of zero, at which the formulas are 0 / 0; so near it they are at their limits."""


class FlatteningPrior(TorchDistribution):
    """p(pi) = (gamma - 1) / log gamma / (1 + (gamma - 1) pi) on [0, 1], gamma = exp(log_gamma).

    1 + (gamma - 1) pi is log-uniform on [1, gamma]. `log_gamma` = 0 is the Uniform; a positive one presses gates to
    zero, -log_gamma is the mirror image. Accurate for |log_gamma| up to 1e3.

    Args:
        log_gamma: Any real number, or a tensor of them.
        validate_args: As in PyTorch; default None.

    Raises:
        ValueError: If `log_gamma` is a number that is not finite.
    """

    arg_constraints = {"log_gamma": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, log_gamma: Any, validate_args: bool | None = None) -> None:
        dtype = None if torch.is_tensor(log_gamma) else torch.get_default_dtype()
        self.log_gamma = torch.as_tensor(log_gamma, dtype=dtype)
        if not torch.is_tensor(log_gamma) and not math.isfinite(log_gamma):  # a tensor may be a latent, while traced
            raise ValueError(f"FlatteningPrior(log_gamma=...) must be finite, not {log_gamma}")
        super().__init__(self.log_gamma.shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats."""
        return self.log_normaliser - _log_slope(value, self.log_gamma)

    @property
    def log_normaliser(self) -> Tensor:
        """log((gamma - 1) / log gamma)."""
        slope = _not_zero(self.log_gamma)
        size = slope.abs()
        large = size > _LARGE
        near, far = torch.where(large, torch.ones_like(size), size), size.clamp_min(_LARGE)
        found = torch.where(large, far - far.log() + torch.log1p(-(-far).exp()), (torch.expm1(near) / near).log())
        return found + slope.clamp_max(0.0)  # that of -log_gamma, as the mirror image, less |log_gamma|

    def cdf(self, value: Tensor) -> Tensor:
        """P(pi <= value) = log(1 + (gamma - 1) value) / log gamma."""
        slope = _not_zero(self.log_gamma)
        return torch.where(self.log_gamma == 0, value, _log_slope(value, slope) / slope)

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile: (gamma^value - 1) / (gamma - 1)."""
        slope = _not_zero(self.log_gamma)
        size = slope.abs()
        falling = torch.expm1(-value * size) / torch.expm1(-size)
        # For a positive slope by exp(-|slope|), which does not overflow.
        return torch.where(slope > 0, ((value - 1.0) * size).exp() * falling, falling).clamp(0.0, 1.0)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape `sample_shape + batch_shape`, with gradient to `log_gamma`."""
        shape = torch.Size(sample_shape) + self.batch_shape
        return self.icdf(torch.rand(shape, dtype=self.log_gamma.dtype, device=self.log_gamma.device))

    @property
    def mean(self) -> Tensor:
        """1 / log gamma - 1 / (gamma - 1)."""
        small, near, far = _near_and_far(self.log_gamma)
        size = far.abs()
        rising = 1.0 / size + (-size).exp() / torch.expm1(-size)  # of a positive log gamma; exp(size) may overflow
        return torch.where(small, 0.5 - near * _series(near), torch.where(far > 0, rising, 1.0 - rising))

    @property
    def variance(self) -> Tensor:
        """coth(log gamma / 2) / (2 log gamma) - 1 / log^2 gamma, that of a log-uniform value on [1, gamma]."""
        small, near, far = _near_and_far(self.log_gamma)
        return torch.where(small, _series(near), (0.5 / torch.tanh(0.5 * far) - 1.0 / far) / far)

    def entropy(self) -> Tensor:
        """Differential entropy in nats: -log(sinh(log gamma / 2) / (log gamma / 2))."""
        small, near, far = _near_and_far(self.log_gamma)
        size = far.abs()
        square = near.square()
        by_series = -square * _series(near, [c / (2 * n) for n, c in enumerate(_SERIES, start=1)])
        return torch.where(small, by_series, size.log() - 0.5 * size - torch.log1p(-(-size).exp()))

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlatteningPrior:
        """Returns a distribution of the given batch shape."""
        return FlatteningPrior(self.log_gamma.expand(batch_shape), False)


def best_prior_probability(theta: Tensor, log_gamma: Tensor | float) -> Tensor:
    """The pi that minimises KL(Bernoulli(theta) || Bernoulli(pi)) - log p(pi): logit pi = logit theta - log gamma.

    Args:
        theta: Posterior probabilities of gates, in [0, 1].
        log_gamma: Of the `FlatteningPrior`.
    """
    return (torch.logit(theta) - log_gamma).sigmoid()


def _not_zero(log_gamma: Tensor) -> Tensor:
    return torch.where(log_gamma == 0, torch.full_like(log_gamma, _NEXT_TO_NOTHING), log_gamma)


def _near_and_far(log_gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where it is small, its values there and elsewhere, each a harmless number where the other is looked at."""
    small = log_gamma.abs() < _SMALL
    return small, torch.where(small, log_gamma, 0.0), torch.where(small, torch.ones_like(log_gamma), log_gamma)


def _series(log_gamma: Tensor, coefficients: Sequence[float] = _SERIES) -> Tensor:
    """Sum over n of coefficient_n log_gamma^(2n - 2)."""
    square, total = log_gamma.square(), torch.zeros_like(log_gamma)
    for coefficient in reversed(coefficients):
        total = total * square + coefficient
    return total


def _log_slope(value: Tensor, log_gamma: Tensor) -> Tensor:
    """log(1 + (gamma - 1) value), at any log_gamma and to the last digits at both ends, where it is 0 and log_gamma."""
    x, slope = torch.broadcast_tensors(value, log_gamma)
    large = slope.abs() > _LARGE
    moderate = torch.where(large, torch.zeros_like(slope), slope)
    rise = torch.expm1(moderate) * x
    beside_zero = rise < -0.5  # there 1 + rise cancels, and 1 - x is exact
    near = torch.where(
        beside_zero,
        (1.0 - x + moderate.exp() * x).log(),
        torch.log1p(torch.where(beside_zero, torch.zeros_like(rise), rise)),
    )
    inside = (x > 0) & (x < 1)
    safe = torch.where(inside, x, torch.full_like(x, 0.5))
    far = torch.logaddexp(torch.log1p(-safe), slope + safe.log())
    far = torch.where(inside, far, torch.where(x >= 1, slope, torch.zeros_like(slope)))
    return torch.where(large, far, near)
