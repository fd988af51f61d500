"""Predictive intervals: where an observation will lie, the noise and what the weights may be taken together.

The predictive distribution of a fit is a mixture over draws of its weights, of one distribution of the likelihood each.
Quantiles are those of the mixture: exact, by root finding on its distribution function where the distribution
of the likelihood has one, else of random numbers from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bayesprune.models.likelihoods.likelihood import Likelihood

__all__ = ["COVERAGES", "coverage_at", "intervals_at"]

COVERAGES = {"coverage_50": 0.5, "coverage_90": 0.9}
"""Intervals whose share of held-out observations is among the scores, by the name of the score."""
_RANDOM = 4000
"""Random numbers of an observation, of all draws together, where there is no distribution function."""
_MOST = 200
"""Evaluations of a distribution function in search of a root; a smooth one takes about ten."""
_EXACT = {torch.float64: 1e-12}
"""How exact a quantile is, in sds of the distribution, by the number format of the outputs."""
_ROUGH = 1e-7
"""The same for others."""
_LARGE = 1e300
_NEXT = 1e-12
"""How far inside of its support, over the end's size, an observation is put for one that lies outside."""


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
        self._exact = _EXACT.get(outputs[0].dtype, _ROUGH)
        self.discrete = bool(getattr(self._parts[0].support, "is_discrete", False))
        self._ends = [_ends(part.support, centre) for part, centre in zip(self._parts, self._centres, strict=True)]
        self.cdf: Callable[[Tensor], Tensor] | None = self._cdf
        try:
            self._cdf(self._centres[0].floor() if self.discrete else self._centres[0])
        except NotImplementedError:
            self.cdf = None

    def _cdf(self, y: Tensor) -> Tensor:
        """The distribution function; a part is asked for it inside its support alone, as it may refuse others."""
        total = torch.zeros_like(self._centres[0])
        for part, (least, largest, inside) in zip(self._parts, self._ends, strict=True):
            below, above = (y < least) if self.discrete else (y <= least), y >= largest
            found = part.cdf(torch.where(below | above, inside, y))
            total += torch.where(below, 0.0, torch.where(above, 1.0, found))
        return total / len(self._parts)

    def quantile(self, at: float) -> Tensor:
        """The least number at which the distribution function reaches `at`."""
        sizes = torch.stack([_size(part, centre) for part, centre in zip(self._parts, self._centres, strict=True)])
        low, high = self._around(at, sizes.amax(dim=0))
        if self.discrete:
            return self._whole(at, low, high)
        return self._root(at, low, high, self._exact * sizes.amin(dim=0))

    def _around(self, at: float, size: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers below which, and at which, the distribution function has reached `at`; about `size` apart."""
        low, high = self._centres.amin(dim=0), self._centres.amax(dim=0)
        low, high = (low - 2.0 * size, high) if at < 0.5 else (low, high + 2.0 * size)
        if self.discrete:
            low, high, size = low.floor(), high.ceil(), size.ceil()
        step = size
        while bool((outside := (self._cdf(low) >= at) & (step < _LARGE)).any()):
            low, step = torch.where(outside, low - step, low), torch.where(outside, 2.0 * step, step)
        step = size
        while bool((outside := (self._cdf(high) < at) & (step < _LARGE)).any()):
            high, step = torch.where(outside, high + step, high), torch.where(outside, 2.0 * step, step)
        return low, high

    def _whole(self, at: float, low: Tensor, high: Tensor) -> Tensor:
        """The quantile among whole numbers, by bisection."""
        for _ in range(_MOST):
            if bool((high - low <= 1.0).all()):
                break
            middle = (0.5 * (low + high)).floor()
            reached = self._cdf(middle) >= at
            high, low = torch.where(reached, middle, high), torch.where(reached, low, middle)
        return high

    def _root(self, at: float, low: Tensor, high: Tensor, exact: Tensor) -> Tensor:
        """The quantile between two numbers, by the method of Chandrupatla (1997), of all observations together.

        It goes by a parabola of the inverse through three points where that is safe, and halves the bracket elsewhere.
        """
        near, far, share = low, high, torch.full_like(low, 0.5)
        f_near, f_far = self._cdf(near) - at, self._cdf(far) - at
        for _ in range(_MOST):
            new = near + share * (far - near)
            f_new = self._cdf(new) - at
            same = (f_new >= 0.0) == (f_near >= 0.0)
            third, f_third = torch.where(same, near, far), torch.where(same, f_near, f_far)
            far, f_far = torch.where(same, far, near), torch.where(same, f_far, f_near)
            near, f_near = new, f_new
            width = (far - near).abs()
            least = exact + 4.0 * torch.finfo(low.dtype).eps * torch.maximum(near.abs(), far.abs())
            if bool(((width <= least) | (f_near == 0.0)).all()):
                break
            place, part = (near - far) / (third - far), (f_near - f_far) / (f_third - f_far)
            inverse = f_near / (f_far - f_near) * (f_third / (f_far - f_third))
            inverse += (third - near) / (far - near) * (f_near / (f_third - f_near)) * (f_far / (f_third - f_far))
            safe = (part.square() < place) & ((1.0 - part).square() < 1.0 - place) & inverse.isfinite()
            edge = (0.5 * least / width).clamp_max(0.5)  # a step of this size over the root closes the bracket
            share = torch.minimum(torch.maximum(torch.where(safe, inverse, 0.5), edge), 1.0 - edge)
        return torch.where(f_near.abs() <= f_far.abs(), near, far)

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


def _ends(support: Any, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The ends of a support, infinite where it has none, and a number inside of it, like the observations."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    found = []
    for name, none in (("lower_bound", -torch.inf), ("upper_bound", torch.inf)):
        end = torch.as_tensor(getattr(support, name, none)).to(like)
        if end.ndim > like.ndim:  # of a mixture, whose parts stand in dimensions of their own
            end = end.amin() if none < 0 else end.amax()
        found.append(end.expand_as(like))
    low, high = found
    step = 0.0 if getattr(support, "is_discrete", False) else _NEXT
    above, below = (end.nan_to_num(0.0, 0.0, 0.0).abs().clamp_min(1e-290) * step for end in (low, high))
    inside = torch.where(low.isfinite(), low + above, high - below)
    return low, high, torch.where(inside.isfinite(), inside, like)


def _size(part: Any, like: Tensor) -> Tensor:
    """About how wide a distribution is: its sd, its scale where that is not finite, or else 1."""
    found = torch.full_like(like, torch.nan)
    for name in ("stddev", "scale"):
        try:
            one = torch.as_tensor(getattr(part, name)).to(like).expand_as(like)
        except (AttributeError, NotImplementedError, RuntimeError, TypeError):  # it says no such thing
            continue
        found = torch.where(found.isfinite() & (found > 0.0), found, one)
    return torch.where(found.isfinite() & (found > 0.0), found, 1.0)
