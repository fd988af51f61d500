"""Terms of positive sites, under log-Normals: x = exp(u) with u ~ Normal(m, s).

So E log x = m and E x^k = exp(k m + k^2 s^2 / 2); H = 0.5 log(2 pi e) + log s is the entropy of u.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bayesprune.inference.guides.factors import HALF_LOG_2PIE, LogNormalFactor
from bayesprune.inference.guides.truncated_lognormal import TruncatedLogNormalFactor
from bayesprune.inference.terms.real import normal_entries
from bayesprune.inference.terms.table import ready_term
from bayesprune.models.distributions.log_uniform import TruncatedLogUniform


def _kl_lognormal(q: Any, log_prior: Tensor) -> Tensor:
    """E[log q] = -(m + H) less the expected log prior (that of each entry), summed."""
    return (-(q.location + q.log_scale + HALF_LOG_2PIE) - log_prior).sum()


@ready_term(dist.Gamma, LogNormalFactor)
def gamma_lognormal(prior: Any, q: Any) -> Tensor:
    """KL(LogNormal || Gamma(a, b)): E log p = a log b - lgamma(a) + (a - 1) m - b exp(m + s^2 / 2).

    Louizos, Ullrich & Welling 2017 use it, and the next, for the group horseshoe.
    """
    shape, rate = prior.concentration, prior.rate
    mean = (q.location + 0.5 * q.scale.square()).exp()
    return _kl_lognormal(q, shape * rate.log() - torch.lgamma(shape) + (shape - 1.0) * q.location - rate * mean)


@ready_term(dist.InverseGamma, LogNormalFactor)
def inverse_gamma_lognormal(prior: Any, q: Any) -> Tensor:
    """KL(LogNormal || InverseGamma(a, b)): E log p = a log b - lgamma(a) - (a + 1) m - b exp(-m + s^2 / 2)."""
    shape, rate = prior.concentration, prior.rate
    reciprocal = (-q.location + 0.5 * q.scale.square()).exp()
    return _kl_lognormal(q, shape * rate.log() - torch.lgamma(shape) - (shape + 1.0) * q.location - rate * reciprocal)


@ready_term(dist.Exponential, LogNormalFactor)
def exponential_lognormal(prior: Any, q: Any) -> Tensor:
    """KL(LogNormal || Exponential(b)): E log p = log b - b exp(m + s^2 / 2), that of a Gamma(1, b)."""
    return _kl_lognormal(q, prior.rate.log() - prior.rate * (q.location + 0.5 * q.scale.square()).exp())


@ready_term(dist.HalfNormal, LogNormalFactor)
def half_normal_lognormal(prior: Any, q: Any) -> Tensor:
    """KL(LogNormal || HalfNormal(c)): E log p = 0.5 log(2 / pi) - log c - exp(2 m + 2 s^2) / (2 c^2)."""
    square = (2.0 * (q.location + q.scale.square())).exp()
    return _kl_lognormal(q, 0.5 * math.log(2.0 / math.pi) - prior.scale.log() - 0.5 * square / prior.scale.square())


@ready_term(dist.LogNormal, LogNormalFactor)
def lognormal_lognormal(prior: Any, q: Any) -> Tensor:
    """KL(LogNormal || LogNormal): that of the Normals of the logarithms, which a change of variables leaves alone."""
    return normal_entries(prior, q).sum()


@ready_term(dist.HalfCauchy, LogNormalFactor)
def half_cauchy_lognormal(prior: Any, q: Any) -> Tensor:
    """E[log q - log p] of a LogNormal under HalfCauchy(c): only log(1 + x^2 / c^2) is taken from the draw.

    log p = log(2 / pi) - log c - log(1 + x^2 / c^2); the entropy m + H is exact. The expectation of the rest has no
    closed form. It is softplus(2 (log x - log c)), which does not overflow where x^2 does; by `logsigmoid`, since
    PyTorch's softplus is the identity above 20, an error of 2e-9.

    Against the plain draw its gradient in log s has less noise where x < c / sqrt(3), next to none far below c, and
    more above, up to twice: there the draw's entropy happens to cancel half of it.
    """
    log_scale = prior.scale.log()
    from_draw = -logsigmoid(-2.0 * (q.log_value - log_scale))
    return _kl_lognormal(q, math.log(2.0 / math.pi) - log_scale - from_draw)


@ready_term(TruncatedLogUniform, TruncatedLogNormalFactor)
def truncated_log_uniform_lognormal(prior: Any, q: Any) -> Tensor:
    """KL of a truncated log-Normal from the log-uniform on the same interval: log(b - a) less the entropy of log x.

    Neklyudov, Molchanov, Ashukha & Vetrov 2017.
    """
    return ((prior.high - prior.low).log() - q.distribution().entropy_of_logarithm()).sum()
