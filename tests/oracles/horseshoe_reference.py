"""Horseshoe regression written out in numpy: the non-centred log joints and a small problem to fit.

Carvalho, Polson and Scott (2010) for the horseshoe; Piironen and Vehtari (2017), equations 2.7 and 2.8, for
the regularised one. All densities are of the constrained values (lambda, tau, c^2 themselves, no
Jacobians), which is what a probabilistic program's trace sums.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln

Array = npt.NDArray[np.float64]


def log_normal_density(x: Array, mean: Array | float, sd: float) -> float:
    """Return the summed log density of N(mean, sd^2)."""
    residual = (x - mean) / sd
    return float(-0.5 * (residual**2).sum() - x.size * (math.log(sd) + 0.5 * math.log(2.0 * math.pi)))


def log_half_cauchy_density(x: Array | float, scale: float) -> float:
    """Return the summed log density of the half-Cauchy on x > 0."""
    x_ = np.asarray(x, dtype=np.float64)
    return float((math.log(2.0 / (math.pi * scale)) - np.log1p((x_ / scale) ** 2)).sum())


def log_inverse_gamma_density(x: float, shape: float, rate: float) -> float:
    """Return log InverseGamma(x; shape, rate), density proportional to x^(-shape-1) exp(-rate / x)."""
    return float(shape * math.log(rate) - gammaln(shape) - (shape + 1.0) * math.log(x) - rate / x)


def regularised_local_scale(lam: Array, tau: float, c_squared: float) -> Array:
    """Return lambda tilde, with lambda tilde^2 = c^2 lambda^2 / (c^2 + tau^2 lambda^2)."""
    return np.sqrt(c_squared * lam**2 / (c_squared + tau**2 * lam**2))


def horseshoe_weights(z: Array, lam: Array, tau: float) -> Array:
    """Return w = z lambda tau."""
    return z * lam * tau


def regularised_horseshoe_weights(z: Array, lam: Array, tau: float, c_squared: float) -> Array:
    """Return w = z lambda tilde tau; |w| stays of order c where lambda tau is large."""
    return z * regularised_local_scale(lam, tau, c_squared) * tau


def horseshoe_log_joint(
    x: Array, y: Array, z: Array, lam: Array, tau: float, noise_sd: float, global_scale: float = 1.0
) -> float:
    """Return log p(y, z, lambda, tau | x) in nats.

    z ~ N(0, 1), lambda ~ C+(0, 1), tau ~ C+(0, global_scale), y ~ N(x (z lambda tau), noise_sd^2).

    Args:
        x: (n, p) design.
        y: (n,) response.
        z: (p,) standard scores of the weights.
        lam: (p,) local scales.
        tau: global scale.
        noise_sd: known sd of y.
        global_scale: scale of the half-Cauchy on tau.
    """
    prior = log_normal_density(z, 0.0, 1.0) + log_half_cauchy_density(lam, 1.0)
    prior += log_half_cauchy_density(tau, global_scale)
    return prior + log_normal_density(y, x @ horseshoe_weights(z, lam, tau), noise_sd)


def regularised_horseshoe_log_joint(
    x: Array,
    y: Array,
    z: Array,
    lam: Array,
    tau: float,
    c_squared: float,
    noise_sd: float,
    global_scale: float = 1.0,
    slab_scale: float = 2.0,
    slab_df: float = 4.0,
) -> float:
    """Return log p(y, z, lambda, tau, c^2 | x) in nats.

    As the horseshoe, with lambda tilde for lambda and c^2 ~ InverseGamma(nu / 2, nu s^2 / 2), where nu is
    `slab_df` and s is `slab_scale`: a Student-t slab with nu degrees of freedom and scale s.
    """
    prior = log_normal_density(z, 0.0, 1.0) + log_half_cauchy_density(lam, 1.0)
    prior += log_half_cauchy_density(tau, global_scale)
    prior += log_inverse_gamma_density(c_squared, slab_df / 2.0, slab_df * slab_scale**2 / 2.0)
    weights = regularised_horseshoe_weights(z, lam, tau, c_squared)
    return prior + log_normal_density(y, x @ weights, noise_sd)


@dataclass(frozen=True)
class HorseshoeProblem:
    """A regression with a few true signals.

    Attributes:
        x: (n, p) design, columns near unit variance.
        y: (n,) response.
        noise_sd: the known noise sd that y was made with.
        weights: (p,) true weights, most of them 0.
        global_scale: p0 / (p - p0) * noise_sd / sqrt(n) (Piironen and Vehtari 2017, equation 3.12).
    """

    x: Array
    y: Array
    noise_sd: float
    weights: Array
    global_scale: float


def horseshoe_problem(seed: int = 0, n: int = 60, p: int = 8, noise_sd: float = 1.0) -> HorseshoeProblem:
    """Make a regression with three true signals (strong, strong, weak) among p features."""
    if p < 4:
        raise ValueError(f"p is {p}, but three signals and one empty feature need p >= 4: raise p.")
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p))
    weights = np.zeros(p)
    weights[[0, 2, 3]] = [2.0, -1.5, 0.6]
    y = x @ weights + noise_sd * rng.standard_normal(n)
    signals = int((weights != 0).sum())
    global_scale = signals / (p - signals) * noise_sd / math.sqrt(n)
    return HorseshoeProblem(x, y, noise_sd, weights, global_scale)
