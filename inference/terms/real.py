"""Terms of real sites, under Normals: m and s are their locations and scales.

H = 0.5 log(2 pi e) + log s is the entropy of such a Normal.
"""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprune.inference.guides.factors import HALF_LOG_2PIE, NormalFactor
from bayesprune.inference.guides.paired import SlabFactor
from bayesprune.inference.terms.fixed_normal import fixed_normal
from bayesprune.inference.terms.table import ready_term
from bayesprune.models.distributions.fitted_normal import FittedNormal
from bayesprune.models.distributions.log_uniform import LogUniform


def normal_entries(prior: Any, q: Any) -> Tensor:
    """KL(Normal(m, s) || Normal(loc, scale)) of each entry; of a LogNormal against a LogNormal it is the same."""
    precision = prior.scale.square().reciprocal()
    squares = q.scale.square() + (q.location - prior.loc).square()
    return prior.scale.log() - q.log_scale + 0.5 * (precision * squares - 1.0)


@ready_term(dist.Normal, NormalFactor)
def normal_normal(prior: Any, q: Any) -> Tensor:
    """KL(Normal || Normal) = log(scale / s) + (s^2 + (m - loc)^2) / (2 scale^2) - 1/2 (Kingma & Welling 2014, app. B).

    From the sums over the site where the prior has mean zero and one fixed scale.
    """
    constants = fixed_normal(prior)
    if constants is None:
        return normal_entries(prior, q).sum()
    log_scale, half_precision = constants
    squares, log_scales = q.sums.unbind()
    return torch.add(q.location.numel() * (log_scale - 0.5) - log_scales, squares, alpha=half_precision)


@ready_term(dist.Normal, SlabFactor)
def normal_slab(prior: Any, q: Any) -> Tensor:
    """A KL(Normal(m, s) || Normal(loc, scale)), the slab's part of the paired guide's KL.

    A is the inclusion of each entry (Titsias & Lazaro-Gredilla 2011).
    """
    return (q.inclusion * normal_entries(prior, q)).sum()


def _laplace_entries(prior: Any, q: Any) -> Tensor:
    """KL(Normal(m, s) || Laplace(loc, scale)) of each entry."""
    centred = q.location - prior.loc
    standard = centred / q.scale
    mean_distance = q.scale * math.sqrt(2.0 / math.pi) * (-0.5 * standard.square()).exp()
    mean_distance = mean_distance + centred * torch.erf(standard * math.sqrt(0.5))
    return (2.0 * prior.scale).log() + mean_distance / prior.scale - (q.log_scale + HALF_LOG_2PIE)


@ready_term(dist.Laplace, NormalFactor)
def laplace_normal(prior: Any, q: Any) -> Tensor:
    """KL(Normal || Laplace) = log(2 scale) + E|w - loc| / scale - H, by the mean of the folded Normal.

    Leone, Nelson & Nottingham 1961: with d = m - loc, E|w - loc| = s sqrt(2 / pi) exp(-d^2 / 2 s^2)
    + d erf(d / (s sqrt 2)).
    """
    return _laplace_entries(prior, q).sum()


@ready_term(dist.Laplace, SlabFactor)
def laplace_slab(prior: Any, q: Any) -> Tensor:
    """A KL(Normal(m, s) || Laplace(loc, scale)), as `normal_slab` with the KL of `laplace_normal`."""
    return (q.inclusion * _laplace_entries(prior, q)).sum()


SPARSE_DROPOUT = (0.63576, 1.87320, 1.48695)
"""k1, k2 and k3 of Molchanov, Ashukha & Vetrov 2017, eq. 14."""


@ready_term(LogUniform, NormalFactor)
def log_uniform_normal(prior: Any, q: Any) -> Tensor:
    """KL(Normal(m, s) || LogUniform), approximated: k1 (1 - sigmoid(k2 + k3 log alpha)) + log(1 + 1 / alpha) / 2.

    alpha = s^2 / m^2 (Molchanov, Ashukha & Vetrov 2017, eq. 14). It is off by at most
    0.0094 nats an entry, at log alpha = -3.5, and in the derivative in log alpha by at most 0.014.
    """
    k1, k2, k3 = SPARSE_DROPOUT
    inverse = (q.location / q.scale).square()
    log_alpha = -inverse.clamp_min(1e-30).log()  # held where a location of zero has no derivative
    return (k1 * (-k2 - k3 * log_alpha).sigmoid() + 0.5 * inverse.log1p()).sum()


@ready_term(FittedNormal, NormalFactor)
def fitted_normal_normal(prior: Any, q: Any) -> Tensor:
    """Strength min over xi of KL(Normal(m, s) || Normal(0, xi)) = strength log(1 + m^2 / s^2) / 2.

    Dai, Zhu, Guo & Wipf 2018. No average of log q - log p over draws: xi is one for all of them.
    """
    return (0.5 * prior.strength * (q.location / q.scale).square().log1p()).sum()
