"""Terms of the negative ELBO: E_q[log q - log p] of a site, analytic where the pair of families is registered.

A pair without a term is estimated from the draw, log q(value) - log p(value), which is always right in expectation.
Register your own with `register_term`; it must return the sum over the site in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bayesprune.inference.families import BernoulliFactor, DeltaFactor, Factor, LogNormalFactor, NormalFactor
from bayesprune.inference.paired import SlabFactor
from bayesprune.models.halo import SignedGamma
from bayesprune.models.iid import Iid

Term = Callable[[Any, Any], Tensor]
"""(univariate prior, factor) -> E_q[log q - log p] in nats, summed over the site."""

_TERMS: dict[tuple[type, type], Term] = {}


def register_term(prior: type, factor: type) -> Callable[[Term], Term]:
    """Decorator: registers an analytic term for a family of priors and a family of guide factors.

    Args:
        prior: Class of the univariate prior, e.g. `pyro.distributions.Normal`; matched exactly.
        factor: Class of the guide's factor, e.g. `NormalFactor`; matched exactly.
    """

    def register(term: Term) -> Term:
        _TERMS[prior, factor] = term
        return term

    return register


def registered_terms() -> tuple[tuple[type, type], ...]:
    """The registered pairs (prior family, factor family)."""
    return tuple(_TERMS)


def site_term(prior: Iid, factor: Factor, value: Tensor, analytic: bool = True) -> Tensor:
    """E_q[log q - log p] of one site in nats (for a Delta: minus the log prior).

    Args:
        prior: The site's prior, given its drawn parents.
        factor: The site's guide factor.
        value: The drawn value.
        analytic: Whether registered terms are used; default True. False estimates every term from the draw.
    """
    term = _TERMS.get((type(prior.base_dist), type(factor))) if analytic else None
    if term is not None:
        return term(prior.base_dist, factor)
    if isinstance(factor, SlabFactor):
        return _slab_from_draw(prior.base_dist, factor, value)
    log_prior = prior.log_prob(value)
    return factor.log_prob(value) - log_prior if factor.has_density else -log_prior


def _slab_from_draw(prior: Any, factor: SlabFactor, value: Tensor) -> Tensor:
    """A E[log q(w | z = 1) - log p(w)]: the gate's average is exact, the slab's is from the draw."""
    entries = NormalFactor.distribution(factor).log_prob(value) - prior.log_prob(value)
    return (factor.inclusion * entries).sum()


def _normal_entries(prior: dist.Normal, q: NormalFactor) -> Tensor:
    precision = prior.scale.square().reciprocal()
    squares = q.scale.square() + (q.location - prior.loc).square()
    return prior.scale.log() - q.log_scale + 0.5 * (precision * squares - 1.0)


@register_term(dist.Normal, NormalFactor)
def normal_normal(prior: Any, q: Any) -> Tensor:
    """KL(Normal || Normal); from the sums over the site where the prior has mean zero and one fixed scale."""
    constants = _constants(prior)
    if constants is None:
        return _normal_entries(prior, q).sum()
    log_scale, half_precision = constants
    squares, log_scales = q.sums.unbind()
    return torch.add(q.location.numel() * (log_scale - 0.5) - log_scales, squares, alpha=half_precision)


def _constants(prior: Any) -> tuple[float, float] | None:
    """Log s and 1 / (2 s^2) of a Normal(0, s) that depends on no latent, or None for any other.

    Remembered on the distribution, which is made once a model where it depends on no latent.
    """
    if prior.scale.numel() > 1 or prior.scale.requires_grad or prior.loc.requires_grad:
        return None
    if not hasattr(prior, "_bayesprune_constants"):
        scale = float(prior.scale)
        prior._bayesprune_constants = (math.log(scale), 0.5 / scale**2) if _is_zero(prior) else None
    found: tuple[float, float] | None = prior._bayesprune_constants
    return found


def _is_zero(prior: Any) -> bool:
    """Whether a prior's location is zero and fixed."""
    loc = prior.loc
    if loc.requires_grad:
        return False
    one_number = all(stride == 0 for stride in loc.stride())  # a number that was broadcast to the scale's shape
    return bool(loc[(0,) * loc.ndim] == 0) if one_number else bool((loc == 0).all())


@register_term(dist.Normal, SlabFactor)
def normal_slab(prior: Any, q: Any) -> Tensor:
    """A KL(Normal(m, v) || Normal(0, s^2)), the slab's part of the paired guide's KL."""
    return (q.inclusion * _normal_entries(prior, q)).sum()


@register_term(dist.Laplace, NormalFactor)
def laplace_normal(prior: Any, q: Any) -> Tensor:
    """KL(Normal || Laplace), by the mean of the folded Normal."""
    centred = q.location - prior.loc
    standard = centred / q.scale
    mean_distance = q.scale * math.sqrt(2.0 / math.pi) * (-0.5 * standard.square()).exp()
    mean_distance = mean_distance + centred * torch.erf(standard * math.sqrt(0.5))
    entropy = q.log_scale + 0.5 * math.log(2.0 * math.pi * math.e)
    return ((2.0 * prior.scale).log() + mean_distance / prior.scale - entropy).sum()


@register_term(dist.Gamma, LogNormalFactor)
def gamma_lognormal(prior: Any, q: Any) -> Tensor:
    """KL(LogNormal || Gamma)."""
    shape, rate = prior.concentration, prior.rate
    mean = (q.location + 0.5 * q.scale.square()).exp()
    log_prior = shape * rate.log() - torch.lgamma(shape) + (shape - 1.0) * q.location - rate * mean
    return (-q.location - q.log_scale - 0.5 * math.log(2.0 * math.pi * math.e) - log_prior).sum()


@register_term(dist.InverseGamma, LogNormalFactor)
def inverse_gamma_lognormal(prior: Any, q: Any) -> Tensor:
    """KL(LogNormal || InverseGamma)."""
    shape, rate = prior.concentration, prior.rate
    mean_reciprocal = (-q.location + 0.5 * q.scale.square()).exp()
    log_prior = shape * rate.log() - torch.lgamma(shape) - (shape + 1.0) * q.location - rate * mean_reciprocal
    return (-q.location - q.log_scale - 0.5 * math.log(2.0 * math.pi * math.e) - log_prior).sum()


@register_term(dist.Laplace, DeltaFactor)
def laplace_point(prior: Any, q: Any) -> Tensor:
    """Minus the log density of a Laplace at a point."""
    if prior.scale.numel() == 1 or prior.scale.shape != q.value.shape or not _is_zero(prior):
        return -prior.log_prob(q.value).sum()
    return LaplaceAtPoint.apply(q.value, prior.scale)


class LaplaceAtPoint(torch.autograd.Function):
    """(value, scale) -> sum of log(2 scale) + |value| / scale, in a third of autograd's passes over the weights."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: Tensor) -> Tensor:
        """Returns the sum in nats."""
        inverse = scale.reciprocal()
        ratio = value.abs().mul_(inverse)
        ctx.save_for_backward(value, inverse, ratio)
        return scale.log().sum() + value.numel() * math.log(2.0) + ratio.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """sign(value) / scale, and (1 - |value| / scale) / scale."""
        value, inverse, ratio = ctx.saved_tensors
        inverse = inverse * gradient
        return value.sign().mul_(inverse), torch.addcmul(inverse, ratio, inverse, value=-1.0)


@register_term(SignedGamma, DeltaFactor)
def signed_gamma_point(prior: Any, q: Any) -> Tensor:
    """Minus the log density of a `SignedGamma` at a point, by two sums where its parameters are numbers."""
    if prior.rate.numel() > 1:
        return -prior.log_prob(q.value).sum()
    size, shape, rate = q.value.abs(), prior.concentration, prior.rate
    normaliser = shape * rate.log() - torch.lgamma(shape) - math.log(2.0)
    return rate * size.sum() - (shape - 1.0) * size.log().sum() - size.numel() * normaliser


@register_term(dist.Bernoulli, BernoulliFactor)
def bernoulli_bernoulli(prior: Any, q: Any) -> Tensor:
    """KL(Bernoulli || Bernoulli), by log odds, so that probabilities at 0 and 1 cost what they should."""
    log_on = torch.nn.functional.logsigmoid(q.logit)
    log_off = log_on - q.logit
    prior_off = torch.nn.functional.logsigmoid(-prior.logits)
    return (q.probability * (q.logit - prior.logits) + log_off - prior_off).sum()
