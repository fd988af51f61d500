"""Terms of sites on (0, 1), under logit-Normals: x = sigmoid(u) with u ~ Normal(m, s)."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from bayesprune.inference.guides.factors import HALF_LOG_2PIE, LogitNormalFactor
from bayesprune.inference.terms.table import ready_term
from bayesprune.models.distributions.tilted_beta import TiltedBeta


def _unit_entries(q: Any, a: Any, b: Any) -> Tensor:
    """E[log q - (a - 1) log x - (b - 1) log(1 - x)] of each entry, with less noise than the draw has.

    log q = log Normal(u) - log x - log(1 - x) leaves f(u) = -a log x - b log(1 - x), which has no closed form. From it
    k (u - m) is taken, which has mean zero whatever k is, so that k needs no gradient. The variance is least at
    k = E f'(u) = (a + b) E sigmoid(u) - a (Stein's lemma); E sigmoid(u) is close to sigmoid(m / sqrt(1 + pi s^2 / 8))
    (MacKay 1992), for any s.
    """
    logit = torch.logit(q.value)
    with torch.no_grad():
        slope = (a + b) * (q.location * (1.0 + math.pi / 8.0 * q.scale.square()).rsqrt()).sigmoid() - a
    from_draw = -a * logsigmoid(logit) - b * logsigmoid(-logit) - slope * (logit - q.location)
    return from_draw - (q.log_scale + HALF_LOG_2PIE)


@ready_term(dist.Beta, LogitNormalFactor)
def beta_logitnormal(prior: Any, q: Any) -> Tensor:
    """E[log q - log p] of a logit-Normal under Beta(a, b), in part from the draw; see `_unit_entries`."""
    a, b = prior.concentration1, prior.concentration0
    return (_unit_entries(q, a, b) + torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)).sum()


@ready_term(TiltedBeta, LogitNormalFactor)
def tilted_beta_logitnormal(prior: Any, q: Any) -> Tensor:
    """E[log q - log p] of a logit-Normal under a tilted Beta: that of the Beta, and the tilt from the draw."""
    logit = torch.logit(q.value)
    tilt = prior.tilt(logsigmoid(logit), logsigmoid(-logit))
    return (_unit_entries(q, prior.concentration1, prior.concentration0) - tilt + prior.log_normaliser()).sum()


@ready_term(dist.Uniform, LogitNormalFactor)
def uniform_logitnormal(prior: Any, q: Any) -> Tensor:
    """E[log q - log p] of a logit-Normal under a Uniform(low, high) that holds (0, 1); see `_unit_entries`."""
    return (_unit_entries(q, 1.0, 1.0) + (prior.high - prior.low).log()).sum()
