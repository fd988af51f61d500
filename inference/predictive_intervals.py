"""Predictive intervals: where an observation will lie, the noise and what the weights may be taken together.

The predictive distribution of a fit is a mixture over draws of its weights, of one distribution of the likelihood each.
Quantiles are those of the mixture: exact, by bisection on its distribution function where the distribution
of the likelihood has one, else of random numbers from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bayesprune.models.likelihoods import Likelihood

__all__ = ["COVERAGES", "coverage_at", "intervals_at"]

COVERAGES = {"coverage_50": 0.5, "coverage_90": 0.9}
"""Intervals whose share of held-out observations is among the scores, by the name of the score."""
_RANDOM = 4000
"""Random numbers of an observation, of all draws together, where there is no distribution function."""
_HALVINGS = 60


@torch.no_grad()
def intervals_at(likelihood: Likelihood, outputs: Sequence[Tensor], probability: float) -> tuple[Tensor, Tensor]:
    """Lower and upper ends of equal-tailed intervals of the mixture, like the targets.

    Args:
        likelihood: What outputs mean; its `is_ordered` is true.
        outputs: Outputs `(n, ...)` of each network of the mixture.
        probability: That of an interval, in (0, 1).
    """
    tail = 0.5 * (1.0 - probability)
    mixture = _Mixture(likelihood, outputs)
    if mixture.cdf is None:
        drawn = mixture.random().sort(dim=0).values
        low, high = (round(at * (len(drawn) - 1)) for at in (tail, 1.0 - tail))
        return drawn[low].to(outputs[0]), drawn[high].to(outputs[0])
    lower, upper = (mixture.quantile(at).to(outputs[0]) for at in (tail, 1.0 - tail))
    return lower, upper


@torch.no_grad()
def coverage_at(likelihood: Likelihood, outputs: Sequence[Tensor], y: Tensor) -> dict[str, float]:
    """Shares of observations that lie in their predictive intervals, by the names of `COVERAGES`.

    Args:
        likelihood: What outputs mean; its `is_ordered` is true.
        outputs: Outputs `(n, ...)` of each network of the mixture.
        y: Targets.

    Where there is a distribution function, an observation lies in its interval if that lies between the tails there.
    """
    mixture = _Mixture(likelihood, outputs)
    y = y.to(outputs[0].device, torch.float64)
    found = {}
    for name, probability in COVERAGES.items():
        tail = 0.5 * (1.0 - probability)
        if mixture.cdf is None:
            lower, upper = intervals_at(likelihood, outputs, probability)
            inside = (y >= lower) & (y <= upper)
        elif mixture.discrete:  # the upper end is the first count that leaves a tail above it
            inside = (mixture.cdf(y) >= tail) & (mixture.cdf(y - 1.0) < 1.0 - tail)
        else:
            at = mixture.cdf(y)
            inside = (at >= tail) & (at <= 1.0 - tail)
        found[name] = float(inside.double().mean())
    return found


class _Mixture:
    """The predictive distribution of each number of each observation, in float64.

    Attributes:
        cdf: Its distribution function; None where the likelihood's distribution has none.
        discrete: Whether observations are whole numbers.
    """

    def __init__(self, likelihood: Likelihood, outputs: Sequence[Tensor]) -> None:
        self._parts = [_each(likelihood.distribution(part.double())) for part in outputs]
        self._centres = torch.stack([likelihood.predict(part.double()) for part in outputs])
        self.discrete = bool(getattr(self._parts[0].support, "is_discrete", False))
        self.cdf: Callable[[Tensor], Tensor] | None = self._cdf
        try:
            self._parts[0].cdf(self._centres[0])
        except NotImplementedError:
            self.cdf = None

    def _cdf(self, y: Tensor) -> Tensor:
        total = torch.zeros_like(self._centres[0])
        for part in self._parts:
            total += part.cdf(y)
        return total / len(self._parts)

    def quantile(self, at: float) -> Tensor:
        """The least number at which the distribution function reaches `at`."""
        low, high = self._centres.amin(dim=0).floor(), self._centres.amax(dim=0).ceil()
        width = torch.ones_like(low)
        while bool((outside := self._cdf(low) >= at).any()) and float(width.max()) < 1e300:
            low, width = torch.where(outside, low - width, low), torch.where(outside, 2.0 * width, width)
        width = torch.ones_like(high)
        while bool((outside := self._cdf(high) < at).any()) and float(width.max()) < 1e300:
            high, width = torch.where(outside, high + width, high), torch.where(outside, 2.0 * width, width)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            middle = middle.floor() if self.discrete else middle
            reached = self._cdf(middle) >= at
            high, low = torch.where(reached, middle, high), torch.where(reached, low, middle)
            if self.discrete and bool((high - low <= 1.0).all()):
                break
        return high

    def random(self) -> Tensor:
        """Random numbers of it, `(many, n, ...)`; the random state of torch is left as it was."""
        each = -(-_RANDOM // len(self._parts))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return torch.cat([part.sample((each,)).double() for part in self._parts])


def _each(distribution: Any) -> Any:
    """The distribution of each number of an observation, where one of several was made an event."""
    while hasattr(distribution, "base_dist") and hasattr(distribution, "reinterpreted_batch_ndims"):
        distribution = distribution.base_dist
    return distribution
