"""Penalties and densities of single weights, written from their definitions in NumPy and SciPy, in float64."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import integrate, stats
from scipy.special import logsumexp

Array = npt.NDArray[np.float64]


def sws_penalty(weights: Array, lam: float, xi: float, psi: float) -> float:
    """xi / lam^2 sum |w| + psi lam^2, with one lam for all the weights."""
    return xi / lam**2 * float(np.abs(weights).sum()) + psi * lam**2


def mcp_penalty(weight: float, lam: float, gamma: float) -> float:
    """The integral of its slope, lam (1 - x / (gamma lam))_+, from 0 to |weight| (Zhang 2010)."""
    end = gamma * lam  # the slope's kink
    value, _ = integrate.quad(lambda x: lam * max(0.0, 1.0 - x / end), 0.0, abs(weight), points=[min(end, abs(weight))])
    return float(value)


def mcp_least_squares(estimate: float, curvature: float, lam: float, gamma: float) -> float:
    """The minimum of curvature (w - estimate)^2 / 2 + MCP(w): firm thresholding (Gao & Bruce 1997).

    For curvature gamma > 1, where there is one minimum.
    """
    size = abs(estimate)
    if size <= lam / curvature:
        return 0.0
    if size > gamma * lam:
        return estimate
    return math.copysign((size - lam / curvature) / (1.0 - 1.0 / (gamma * curvature)), estimate)


def spike_slab_log_density(weights: Array, density: float, spike_sd: float, slab_sd: float) -> Array:
    """Log of density Normal(0, slab_sd) + (1 - density) Normal(0, spike_sd)."""
    parts = [
        math.log(density) + stats.norm(0, slab_sd).logpdf(weights),
        math.log1p(-density) + stats.norm(0, spike_sd).logpdf(weights),
    ]
    return np.asarray(logsumexp(parts, axis=0))


def slab_probability(weights: Array, density: float, spike_sd: float, slab_sd: float) -> Array:
    """P(slab | weight) by Bayes' rule."""
    log_slab = math.log(density) + stats.norm(0, slab_sd).logpdf(weights)
    return np.asarray(np.exp(log_slab - spike_slab_log_density(weights, density, spike_sd, slab_sd)))
