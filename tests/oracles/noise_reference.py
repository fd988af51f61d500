"""Priors with multiplicative noise by scipy: divergences, moments and probabilities as integrals and searches.

Nothing is shared with the code under test: densities are written out, integrals are adaptive.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import integrate, optimize, stats

TIGHT = {"epsabs": 1e-13, "epsrel": 1e-12, "limit": 500}
GREATEST = 37.0  # standard deviations: beyond there is nothing left in float64


def log_uniform_kl(location, scale):
    """KL(Normal || density 1 / |w|) in nats, the free constant such that it vanishes at location zero."""
    pole = -location / scale
    middle = pole if abs(pole) < GREATEST else 0.0

    def expected(m):
        return lambda e: stats.norm.pdf(e) * math.log(abs(m + scale * e))

    pieces = (-GREATEST, middle), (middle, GREATEST)
    mean = sum(integrate.quad(expected(location), *piece, **TIGHT)[0] for piece in pieces)
    at_zero = sum(integrate.quad(expected(0.0), *piece, **TIGHT)[0] for piece in ((-GREATEST, 0.0), (0.0, GREATEST)))
    return mean - at_zero


def paper_kl(log_alpha):
    """The approximation of Molchanov, Ashukha & Vetrov 2017 as their code writes it, its sign turned round."""
    k1, k2, k3 = 0.63576, 1.87320, 1.48695
    negative = k1 / (1.0 + math.exp(-(k2 + k3 * log_alpha))) - 0.5 * math.log(1.0 + math.exp(-log_alpha)) - k1
    return -negative


class TruncatedNormal:
    """The Normal(location, scale) between two ends, by integrals of its unnormalised density about its mode.

    Args:
        location: Centre.
        scale: Standard deviation before the ends are cut off.
        low: Lower end.
        high: Upper end.
    """

    def __init__(self, location, scale, low, high):
        self.location, self.scale, self.low, self.high = location, scale, low, high
        self.mode = min(max(location, low), high)
        self.peak = self._exponent(self.mode)
        self.mass = self.integral(lambda x: 1.0)

    def _exponent(self, x):
        return -0.5 * ((x - self.location) / self.scale) ** 2

    def integral(self, function):
        """The integral of a function times the density, relative to the peak."""
        # All that matters lies within a few of the lengths by which the density falls off.
        far = abs(self.mode - self.location) / self.scale
        width = self.scale / max(1.0, far)
        steps = np.array([0.0, 1.0, 4.0, 12.0, 45.0]) * width
        around = np.concatenate([self.mode - steps, self.mode + steps])
        nodes = sorted(set(np.clip(around, self.low, self.high)))

        def weighted(x):
            return function(x) * math.exp(self._exponent(x) - self.peak)

        return sum(integrate.quad(weighted, a, b, **TIGHT)[0] for a, b in zip(nodes, nodes[1:], strict=False))

    def expected(self, function):
        """The mean of a function."""
        return self.integral(function) / self.mass

    def log_density(self, x):
        """In nats."""
        return self._exponent(x) - self.peak - math.log(self.mass)

    def kl_from_uniform(self):
        """KL from the uniform distribution between the ends."""
        return self.expected(self.log_density) + math.log(self.high - self.low)

    def below(self, x):
        """The distribution function."""
        part = TruncatedNormal(self.location, self.scale, self.low, x)
        return part.mass * math.exp(part.peak - self.peak) / self.mass


def open_probability(log_alpha, beta=2.0 / 3.0, gamma=-0.1, zeta=1.1):
    """P(gate != 0) for a uniform u: the share of u at which the stretched concrete variable is positive."""

    def stretched(u):
        logit = math.log(u) - math.log1p(-u)
        return (zeta - gamma) / (1.0 + math.exp(-(logit + log_alpha) / beta)) + gamma

    root = optimize.brentq(stretched, 1e-15, 1.0 - 1e-15, xtol=1e-16, rtol=1e-15)
    return 1.0 - root


def best_normal_kl(location, scale):
    """The least KL(Normal(location, scale) || Normal(0, xi)) over xi, by a search."""

    def kl(log_xi):
        return log_xi - math.log(scale) + 0.5 * (scale**2 + location**2) * math.exp(-2.0 * log_xi) - 0.5

    return optimize.minimize_scalar(kl, bounds=(-10.0, 10.0), method="bounded", options={"xatol": 1e-10}).fun


def half_cauchy_product_density(z, shape=0.5):
    """Density of sqrt(a b) at z for a ~ Gamma(shape, 1) and b ~ InverseGamma(shape, 1), by the integral over log a."""

    def integrand(log_a):
        a = math.exp(log_a)
        return a * stats.gamma.pdf(a, shape) * stats.invgamma.pdf(z * z / a, shape) * 2.0 * z / a

    return integrate.quad(integrand, -60.0, 6.0, points=[-2.0, 0.0, 2.0], **TIGHT)[0]
