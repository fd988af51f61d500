"""Normals beyond a threshold: probability and mean of what a soft threshold leaves of a latent, given a guide.

With raw ~ Normal(m, sd) and a threshold t that the guide takes to be independent of it,

    P(|raw| > t) = E_t[Phi((m - t) / sd) + Phi((-m - t) / sd)],
    E[sign(raw) relu(|raw| - t)] = sd E_t[psi((m - t) / sd) - psi((-m - t) / sd)],  psi(x) = x Phi(x) + phi(x),

in closed form where t is a point. Where it is a function of one Normal, or of the exponential or sigmoid of one, the
expectation is over that Normal's standard units, by Gauss-Hermite quadrature. Entries of which five and eight nodes do
not say the same, whose Normal is narrow beside the threshold's spread, get a trapezoid sum, whose error under a
Gaussian falls faster than exponentially in the number of nodes; halving its step keeps these and tells the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.special import log_ndtr

from bayesprune.inference.guides.families import to_support
from bayesprune.inference.guides.guide import Guide, normals
from bayesprune.inference.guides.registry import is_point
from bayesprune.models.language.inclusion import BeyondThreshold
from bayesprune.models.language.tensor_prior import Site, TensorPrior

__all__ = ["Beyond", "beyond", "beyond_of", "mean_of_included"]

At = Callable[[float, Tensor | None], "Beyond"]
"""What is left at so many standard units, of the entries of some numbers (None: of all)."""

_FEW = (5, 8)
"""Nodes of the two Gauss-Hermite sums that are compared first."""
_FARTHEST, _SMOOTH = 4.2, 2.0
"""They count where the threshold moves by less than so many sd of the entry up to here: a step beyond their outermost
nodes would be seen by neither."""
_REACH = 9.75
"""Standard deviations to either side of a threshold's Normal: what lies beyond is less than rounding."""
_STEP, _HALVINGS = 0.75, 6
"""First step, in these units, and how often it is halved at most: to 1,665 nodes."""
_SETTLED, _SETTLED_LOG = 1e-10, 1e-7
"""Change of a probability, and of the logarithm of one relative to its size, from which on a sum has settled."""
_LEAST = 1e-300
"""A threshold of zero or less counts as this: log odds of what is always included stay finite and in order."""
_NARROW = 1e-7
"""Where log Phi differs by less than this over (-t, t), its integral is the density at its middle times the width."""


@dataclass(frozen=True)
class Beyond:
    """What a soft threshold leaves of a Normal, entry by entry, float64.

    Attributes:
        log_in: log P(|raw| > t), nats.
        log_out: log P(|raw| <= t), nats.
        mean: E[sign(raw) relu(|raw| - t)].
    """

    log_in: Tensor
    log_out: Tensor
    mean: Tensor

    @property
    def log_odds(self) -> Tensor:
        """Log odds of P(|raw| > t), in order where the probability rounds to 0 or 1, nats."""
        return self.log_in - self.log_out

    @property
    def probability(self) -> Tensor:
        """P(|raw| > t)."""
        return self.log_in.exp().clamp_max(1.0)  # sums of quadratures may round to just above

    @property
    def mean_given_in(self) -> Tensor:
        """E[sign(raw) relu(|raw| - t) given |raw| > t]; never zero but where raw is centred at zero."""
        return self.mean / self.probability.clamp_min(torch.finfo(torch.float64).tiny)


def beyond(
    location: Tensor, sd: Tensor, threshold_at: Callable[[float], Tensor], is_point: bool = False, of_sign: bool = False
) -> Beyond:
    """What a soft threshold leaves of Normal(location, sd).

    Args:
        location: `(out, in, ...)`, or any other shape.
        sd: Positive, of that shape.
        threshold_at: The threshold at a value, in standard units, of the Normal that it is a function of; broadcasts to
            that shape.
        is_point: Whether it is no function of a Normal: it is looked at once, at 0.
        of_sign: Whether only that side of the threshold counts as in on which the location lies; default False.

    Returns:
        Probabilities and means; within 1e-9 while the threshold moves by less than 70 sd of the entry for one standard
        unit, and within 1e-3 beyond.
    """
    shape = location.shape
    m, s = location.double().flatten(), sd.double().flatten()

    def at(u: float, where: Tensor | None) -> Beyond:
        threshold = threshold_at(u).double().expand(shape).reshape(-1)
        given = _given_side if of_sign else _given
        return given(m, s, threshold) if where is None else given(m[where], s[where], threshold[where])

    if is_point:
        found: Beyond = at(0.0, None)
    else:
        moved = (threshold_at(_FARTHEST) - threshold_at(-_FARTHEST)).double().abs()
        found = _averaged(at, moved.expand(shape).reshape(-1) < _SMOOTH * s)
    return Beyond(*(part.view(shape) for part in (found.log_in, found.log_out, found.mean)))


def _given(m: Tensor, sd: Tensor, threshold: Tensor) -> Beyond:
    """At given thresholds, all of one length."""
    t = threshold.clamp_min(_LEAST)
    size = m.abs()  # the probabilities are even in m, the mean is odd
    near, far = (size - t) / sd, (-size - t) / sd
    log_far, log_near_out = log_ndtr(far), log_ndtr(-near)
    gap = log_far - log_near_out  # log of the ratio of Phi at both ends of what is cut out
    wide = log_near_out + torch.log(-torch.expm1(gap.clamp_max(-_NARROW)))
    narrow = (2.0 * t).log() - sd.log() - 0.5 * (size / sd).square() - 0.5 * math.log(2.0 * math.pi)
    mean = m.sign() * sd * (_psi(near) - _psi(far))
    return Beyond(torch.logaddexp(log_ndtr(near), log_far), torch.where(gap < -_NARROW, wide, narrow), mean)


def _given_side(m: Tensor, sd: Tensor, threshold: Tensor) -> Beyond:
    """The same of the side on which the location lies."""
    near = (m.abs() - threshold) / sd
    return Beyond(log_ndtr(near), log_ndtr(-near), m.sign() * sd * _psi(near))


def _psi(x: Tensor) -> Tensor:
    """Integral of the standard Normal's distribution function up to x."""
    return x * torch.special.ndtr(x) + torch.exp(-0.5 * x.square()) / math.sqrt(2.0 * math.pi)


def _averaged(at: At, is_smooth: Tensor) -> Beyond:
    """The mean of `at` over standard units: by few nodes, and with ever smaller steps where these do not settle it."""
    few, found = (_by_hermite(at, nodes) for nodes in _FEW)
    left = (~(is_smooth & _has_settled(few, found))).nonzero().squeeze(1)
    if not len(left):
        return found
    step, nodes = _STEP, round(_REACH / _STEP)
    sums = _added(None, at, [(k * step, _log_density(k * step)) for k in range(-nodes, nodes + 1)], left)
    for _ in range(_HALVINGS):
        before = _scaled(sums, step)
        between = [(k + 0.5) * step for k in range(-nodes, nodes)]
        sums = _added(sums, at, [(u, _log_density(u)) for u in between], left)
        step, nodes = 0.5 * step, 2 * nodes
        now = _scaled(sums, step)
        for whole, part in zip(_parts(found), _parts(now), strict=True):
            whole[left] = part
        moves = ~_has_settled(before, now)
        left, sums = left[moves], Beyond(*(part[moves] for part in _parts(sums)))
        if not len(left):
            break
    return found


def _by_hermite(at: At, nodes: int) -> Beyond:
    units, weights = np.polynomial.hermite_e.hermegauss(nodes)
    logs = np.log(weights / math.sqrt(2.0 * math.pi))
    return _added(None, at, list(zip(units.tolist(), logs.tolist(), strict=True)), None)


def _log_density(u: float) -> float:
    return -0.5 * u * u - 0.5 * math.log(2.0 * math.pi)


def _added(sums: Beyond | None, at: At, nodes: list[tuple[float, float]], where: Tensor | None) -> Beyond:
    """Sums over nodes, each with the logarithm of its weight, added to those of other nodes."""
    for u, log_weight in nodes:
        one = at(u, where)
        one = Beyond(one.log_in + log_weight, one.log_out + log_weight, one.mean * math.exp(log_weight))
        sums = one if sums is None else Beyond(
            torch.logaddexp(sums.log_in, one.log_in),
            torch.logaddexp(sums.log_out, one.log_out),
            sums.mean + one.mean,
        )  # fmt: skip
    assert sums is not None
    return sums


def _scaled(sums: Beyond, step: float) -> Beyond:
    return Beyond(sums.log_in + math.log(step), sums.log_out + math.log(step), sums.mean * step)


def _parts(one: Beyond) -> tuple[Tensor, Tensor, Tensor]:
    return one.log_in, one.log_out, one.mean


def _has_settled(before: Beyond, now: Beyond) -> Tensor:
    """Where half the step has changed neither the probability nor, relative to their sizes, its logarithms."""
    settled = (before.probability - now.probability).abs() < _SETTLED
    for earlier, later in ((before.log_in, now.log_in), (before.log_out, now.log_out)):
        settled &= (earlier - later).abs() < _SETTLED_LOG * (1.0 + later.abs())
    return settled


@torch.no_grad()
def beyond_of(guide: Guide, prior: TensorPrior, of_sign: bool = False) -> Beyond | None:
    """What the threshold of a prior leaves of its weights under a guide, `(out, in, ...)`; None where it is not known.

    Args:
        guide: The guide.
        prior: One of its model's priors.
        of_sign: As in `beyond`; its log odds are then above 0 where the weight's median is not 0. Default False.

    Returns:
        None unless the prior's event is `beyond_threshold`, the guide holds the latent that is thresholded as Normals,
        and the threshold is a function of points and of at most one other latent, entry by entry, that is a Normal or
        the exponential or sigmoid of one. Then draws can tell.
    """
    threshold = _threshold_of(guide, prior)
    if threshold is None:
        return None
    location, sd = normals(guide)[prior.sites[threshold.event.raw].name]
    return beyond(location, sd, threshold.at, is_point=threshold.site is None, of_sign=of_sign)


@torch.no_grad()
def mean_of_included(guide: Guide, prior: TensorPrior) -> Tensor | None:
    """E[weight | included] of soft-thresholded Normals, `(out, in, ...)`, float64.

    Args:
        guide: The guide.
        prior: One of its model's priors.

    Returns:
        None where `beyond_of` is, or where the weight is another function than sign(raw) relu(|raw| - threshold).
    """
    threshold = _threshold_of(guide, prior)
    known = beyond_of(guide, prior) if threshold is not None and threshold.makes_soft_weights() else None
    return None if known is None else known.mean_given_in


def _threshold_of(guide: Guide, prior: TensorPrior) -> _Threshold | None:
    event, held = prior.hierarchy.included, normals(guide)
    if not isinstance(event, BeyondThreshold) or event.raw not in prior.sites:
        return None
    raw, above = prior.sites[event.raw], _latents_above(prior, event.threshold)
    if raw.name not in held or raw.support != "real" or raw.shape != prior.shape or above is None:
        return None
    sites = [prior.sites[latent] for latent in sorted(above)]
    moving = [site for site in sites if not is_point(guide.family_of[site.name])]
    if raw in sites or len(moving) > 1 or any(site.name not in held for site in moving):
        return None
    if any(prior.hierarchy.nodes[name].dims for name in (event.threshold, *(site.latent for site in moving))):
        return None  # entries of dimensions of its own belong to no weight
    found = _Threshold(guide, prior, event, moving[0] if moving else None)
    return found if found.is_entrywise() else None


def _latents_above(prior: TensorPrior, node: str) -> set[str] | None:
    """Latents whose values settle that of a node, itself if it is one; None for what the prior does not have."""
    if node in prior.sites:
        return {node}
    if node not in prior.deterministic:
        return None
    found: set[str] = set()
    for parent in prior.hierarchy.parents.get(node, ()):
        if parent in prior.hierarchy.nodes:
            found |= _latents_above(prior, parent) or set()
    return found


class _Threshold:
    """The threshold of a tensor as a function of one latent's standard units, by running the declaration.

    Args:
        guide: The guide.
        prior: The prior.
        event: Its event.
        site: The latent; None: there is none, all are points.
    """

    def __init__(self, guide: Guide, prior: TensorPrior, event: BeyondThreshold, site: Site | None) -> None:
        self.prior, self.event, self.site = prior, event, site
        self.centre = {
            name: value.double() if value.is_floating_point() else value for name, value in guide.means().items()
        }
        self.normal = None if site is None else normals(guide)[site.name]

    def at(self, units: float | Tensor) -> Tensor:
        """The threshold, `(out, in, ...)`, where the latent is that many standard deviations from its location."""
        values = dict(self.centre)
        if self.site is not None and self.normal is not None:
            location, sd = self.normal
            values[self.site.name] = to_support(location + units * sd, self.site.support)
        return self._run(values)[1]

    def is_entrywise(self) -> bool:
        """Whether each weight's threshold depends on one entry of the latent alone.

        Entries are moved that have a one at some digit of their number, for each digit: any two of them differ in one.
        """
        if self.site is None or self.normal is None or self.normal[0].numel() == 1:
            return True
        location, low, high = self.normal[0], self.at(0.0), self.at(1.0)
        numbers = torch.arange(location.numel(), device=location.device).view(location.shape)
        for digit in range((location.numel() - 1).bit_length()):
            moved = (numbers >> digit) % 2
            expected = torch.where(self.prior.spread(self.site.latent, moved) > 0, high, low)
            if not torch.equal(self.at(moved.double()), expected):
                return False
        return True

    def makes_soft_weights(self) -> bool:
        """Whether the weights are sign(raw) relu(|raw| - threshold), at values below and beyond it of either sign."""
        raw, threshold = self.prior.sites[self.event.raw].name, self.at(0.0)
        numbers = torch.arange(threshold.numel(), device=threshold.device).view(threshold.shape)
        value = (numbers % 4 - 1.5) * (threshold + 0.1)
        weight, _ = self._run({**self.centre, raw: value})
        return torch.allclose(weight, value.sign() * torch.relu(value.abs() - threshold), rtol=1e-9, atol=1e-12)

    def _run(self, values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Weights and threshold at values of the latents."""
        weight, found = self.prior.run(lambda site, _: values[site], next(iter(values.values())), {})
        return weight, self.prior.spread(self.event.threshold, found[self.event.threshold])
