"""Terms of points: minus the log prior, by as few passes over the site as it takes."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bayesprune.inference.guides.factors import LOG_SQRT_2PI, DeltaFactor
from bayesprune.inference.guides.functional import is_functional
from bayesprune.inference.terms.fixed_normal import fixed_normal, is_centred
from bayesprune.inference.terms.table import ready_term
from bayesprune.models.distributions.signed_gamma import SignedGamma


@ready_term(dist.Normal, DeltaFactor)
def normal_point(prior: Any, q: Any) -> Tensor:
    """Minus the log density of a Normal at a point: log scale + (w - loc)^2 / (2 scale^2) + 0.5 log(2 pi)."""
    constants = fixed_normal(prior)
    if constants is None:
        standard = (q.value - prior.loc) / prior.scale
        return (prior.scale.log() + 0.5 * standard.square() + LOG_SQRT_2PI).sum()
    log_scale, half_precision = constants
    return half_precision * q.value.square().sum() + q.value.numel() * (log_scale + LOG_SQRT_2PI)


@ready_term(dist.Laplace, DeltaFactor)
def laplace_point(prior: Any, q: Any) -> Tensor:
    """Minus the log density of a Laplace at a point: log(2 scale) + |w - loc| / scale."""
    loc, scale = prior.loc, prior.scale
    if scale.numel() == 1:
        return (q.value - loc).abs().sum() / scale.reshape(()) + q.value.numel() * (2.0 * scale.reshape(())).log()
    if is_functional() or scale.shape != q.value.shape or not is_centred(prior):
        inverse = scale.reciprocal()  # its derivative needs no further division, of which there is one a weight
        return ((2.0 * scale).log() + (q.value - loc).abs() * inverse).sum()
    return LaplaceAtPoint.apply(q.value, scale)


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


def _gamma_point(size: Tensor, log_size: Tensor, shape: Tensor, rate: Tensor) -> Tensor:
    """Minus the log density of Gamma(a, b), b x - (a - 1) log x - a log b + lgamma(a); by two sums for one a and b."""
    normaliser = shape * rate.log() - torch.lgamma(shape)
    if normaliser.numel() > 1:
        return (rate * size - (shape - 1.0) * log_size - normaliser).sum()
    # A parameter of shape (1, 1) is one number too; the term has no dimensions.
    shape, rate, normaliser = (parameter.reshape(()) for parameter in (shape, rate, normaliser))
    return rate * size.sum() - (shape - 1.0) * log_size.sum() - size.numel() * normaliser


@ready_term(dist.Gamma, DeltaFactor)
def gamma_point(prior: Any, q: Any) -> Tensor:
    """Minus the log density of a Gamma at a point; by two sums over the site where its parameters are numbers."""
    return _gamma_point(q.value, q.log_value, prior.concentration, prior.rate)


@ready_term(SignedGamma, DeltaFactor)
def signed_gamma_point(prior: Any, q: Any) -> Tensor:
    """Minus the log density of a `SignedGamma` at a point: that of the Gamma at its size, and log 2 for the sign."""
    size = q.value.abs()
    return _gamma_point(size, size.log(), prior.concentration, prior.rate) + q.value.numel() * math.log(2.0)


@ready_term(dist.InverseGamma, DeltaFactor)
def inverse_gamma_point(prior: Any, q: Any) -> Tensor:
    """Minus the log density of an InverseGamma(a, b): that of Gamma(a, b) at 1 / x, and 2 log x for the change."""
    point = _gamma_point(q.value.reciprocal(), -q.log_value, prior.concentration, prior.rate)
    return point + 2.0 * q.log_value.sum()


@ready_term(dist.Exponential, DeltaFactor)
def exponential_point(prior: Any, q: Any) -> Tensor:
    """Minus the log density of an Exponential(b) at a point: b x - log b."""
    return (prior.rate * q.value - prior.rate.log()).sum()


@ready_term(dist.HalfNormal, DeltaFactor)
def half_normal_point(prior: Any, q: Any) -> Tensor:
    """Minus the log density of a HalfNormal(c) at a point: log c + x^2 / (2 c^2) + 0.5 log(pi / 2)."""
    return (prior.scale.log() + 0.5 * (q.value / prior.scale).square() + 0.5 * math.log(math.pi / 2.0)).sum()


@ready_term(dist.HalfCauchy, DeltaFactor)
def half_cauchy_point(prior: Any, q: Any) -> Tensor:
    """Minus the log density of a HalfCauchy(c) at a point: log c + log(1 + x^2 / c^2) + log(pi / 2)."""
    return (prior.scale.log() + (q.value / prior.scale).square().log1p() + math.log(math.pi / 2.0)).sum()


@ready_term(dist.LogNormal, DeltaFactor)
def lognormal_point(prior: Any, q: Any) -> Tensor:
    """Minus the log density of a LogNormal at a point: that of the Normal at log x, and log x for the change."""
    logarithm = q.log_value
    standard = (logarithm - prior.loc) / prior.scale
    return (prior.scale.log() + 0.5 * standard.square() + logarithm + LOG_SQRT_2PI).sum()
