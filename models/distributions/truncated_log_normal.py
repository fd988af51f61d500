"""The truncated log-Normal distribution: draws, entropy and moments that hold in the tails.

Everything is computed in float64 whatever comes in: differences of distribution functions are what float32 loses first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from bayesprune.models.distributions.log_uniform import within

FAR = 30.0
"""Standard deviations beyond an end of the interval at which the Normal's centre is held: the density is then an
exponential one, whose rate the scale can still set, and distribution functions are still numbers."""
CUT = 36.0
"""Standard deviations at which an end is as good as infinite."""
WIDEST = 12.0
"""Log scale above which the distribution is log-uniform to eight digits, and is taken at this scale."""
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class _Standard:
    """The truncated Normal in units of its own scale, float64: centre, log scale, and the two ends."""

    location: Tensor
    log_scale: Tensor
    lower: Tensor
    upper: Tensor

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp()


class TruncatedLogNormal(TorchDistribution):
    """exp of a Normal(location, exp(log_scale)) that is cut off outside [low, high].

    Args:
        location: Centre of the Normal.
        log_scale: Logarithm of its scale.
        low: Logarithm of the smallest value.
        high: Logarithm of the largest.
    """

    arg_constraints = {"location": constraints.real, "log_scale": constraints.real}
    has_rsample = True

    def __init__(
        self, location: Tensor, log_scale: Tensor, low: float, high: float, validate_args: bool | None = None
    ) -> None:
        self.location, self.log_scale = torch.broadcast_tensors(location, log_scale)
        self.low, self.high = low, high
        super().__init__(self.location.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> Any:
        """The interval."""
        return constraints.interval(math.exp(self.low), math.exp(self.high))

    def expand(self, batch_shape: Any, _instance: Any = None) -> TruncatedLogNormal:
        """Returns a distribution of the given batch shape."""
        location, log_scale = self.location.expand(batch_shape), self.log_scale.expand(batch_shape)
        return TruncatedLogNormal(location, log_scale, self.low, self.high, False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape `sample_shape + batch_shape`, with gradient."""
        noise = torch.randn(self._extended_shape(sample_shape), dtype=self.location.dtype, device=self.location.device)
        return self.logarithm_at(noise).exp()

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats; -inf outside."""
        at, logarithm = self._standard(), value.double().log()
        standard = (logarithm - at.location) / at.scale
        density = -0.5 * standard.square() - _HALF_LOG_2PI - at.log_scale - _log_mass(at.lower, at.upper) - logarithm
        return torch.where(within(logarithm, self.low, self.high), density, -math.inf).to(value.dtype)

    def logarithm_at(self, noise: Tensor) -> Tensor:
        """Logarithm of the draw that standard normal noise gives, by the inverse distribution function at Phi(noise).

        Its derivatives are those of the draw at a fixed level of the distribution function.
        """
        at = self._standard()
        with torch.no_grad():
            below, above = _log_ndtr(noise.double()), _log_ndtr(-noise.double())
            flip = at.lower + at.upper > 0  # the left tail is the one with digits to spare
            lower, upper = torch.where(flip, -at.upper, at.lower), torch.where(flip, -at.lower, at.upper)
            up, down = torch.where(flip, above, below), torch.where(flip, below, above)
            drawn = _inverse_log_ndtr(torch.logaddexp(_log_ndtr(lower) + down, _log_ndtr(upper) + up))
            drawn = torch.minimum(torch.maximum(drawn, lower), upper)
            drawn = torch.where(flip, -drawn, drawn)
            # Phi(drawn) = (1 - u) Phi(lower) + u Phi(upper), so d drawn = w_lower d lower + w_upper d upper.
            w_lower = (above + 0.5 * (drawn - at.lower) * (drawn + at.lower)).clamp_max(0.0).exp()
            w_upper = (below + 0.5 * (drawn - at.upper) * (drawn + at.upper)).clamp_max(0.0).exp()
            by_location = (1.0 - w_lower - w_upper).clamp(0.0, 1.0)
            by_log_scale = at.scale * (drawn - w_lower * at.lower - w_upper * at.upper)
            value = at.location + at.scale * drawn
        moves = by_location * (at.location - at.location.detach())
        moves = moves + by_log_scale * (at.log_scale - at.log_scale.detach())
        return (value + moves).clamp(self.low, self.high).to(self.location.dtype)

    def entropy_of_logarithm(self) -> Tensor:
        """Entropy of log value in nats: log s + log Z + log(2 pi e) / 2 + (a phi(a) - b phi(b)) / (2 Z).

        a and b are the ends in units of the scale s, Z = Phi(b) - Phi(a).
        """
        at = self._standard()
        log_mass = _log_mass(at.lower, at.upper)
        ends = [end * (-0.5 * end.square() - _HALF_LOG_2PI - log_mass).exp() for end in (at.lower, at.upper)]
        entropy = at.log_scale + log_mass + _HALF_LOG_2PI + 0.5 + 0.5 * (ends[0] - ends[1])
        return entropy.to(self.location.dtype)

    @property
    def mean(self) -> Tensor:
        """E value = exp(m + s^2 / 2) (Phi(b - s) - Phi(a - s)) / Z, without gradient."""
        return self._log_moment(1).exp().to(self.location.dtype)

    @property
    def log_signal_to_noise(self) -> Tensor:
        """log((E value)^2 / var(value)), without gradient."""
        ratio = self._log_moment(2) - 2.0 * self._log_moment(1)
        return -ratio.clamp(1e-18, 700.0).expm1().log().to(self.location.dtype)

    @torch.no_grad()
    def _log_moment(self, power: int) -> Tensor:
        at = self._standard()
        shift = power * at.scale
        lower, upper = ((end - at.location) / at.scale for end in (self.low, self.high))
        tilted = _log_mass(lower - shift, upper - shift, torch.special.log_ndtr)
        return power * at.location + 0.5 * shift.square() + tilted - _log_mass(lower, upper, torch.special.log_ndtr)

    def _standard(self) -> _Standard:
        log_scale = self.log_scale.double().clamp_max(WIDEST)
        scale, location = log_scale.exp(), self.location.double()
        location = torch.maximum(torch.minimum(location, self.high + FAR * scale), self.low - FAR * scale)
        ends = [((end - location) / scale).clamp(-CUT, CUT) for end in (self.low, self.high)]
        return _Standard(location, log_scale, *ends)


def _log_ndtr(x: Tensor) -> Tensor:
    """Log Phi(x) for |x| of at most 37; by `erfc`, which can be mapped and traced where `log_ndtr` cannot."""
    left = (0.5 * torch.erfc(-x.clamp_max(1.0) * math.sqrt(0.5))).log()
    return torch.where(x < 0, left, torch.log1p(-0.5 * torch.erfc(x.clamp_min(-1.0) * math.sqrt(0.5))))


def _log_mass(lower: Tensor, upper: Tensor, log_ndtr: Any = _log_ndtr) -> Tensor:
    """log(Phi(upper) - Phi(lower)), taken in the left tail."""
    flip = lower + upper > 0
    lower, upper = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    top = log_ndtr(upper)
    return top + (-torch.expm1(log_ndtr(lower) - top)).log()


def _inverse_log_ndtr(level: Tensor) -> Tensor:
    """The x with log Phi(x) = level, for levels above -700; no gradient."""
    return torch.where(level > -0.7, -torch.special.ndtri(-torch.expm1(level)), torch.special.ndtri(level.exp()))
