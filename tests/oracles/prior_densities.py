"""Log densities of the ready priors' latents by scipy: (copies, out, in) -> (copies,), in nats."""

from __future__ import annotations

from math import log

import numpy as np
from scipy import stats


def total(entries):
    return np.reshape(entries, (len(entries), -1)).sum(1)


def normal(x, sd):
    return total(stats.norm.logpdf(x, 0.0, sd))


def laplace(x, scale):
    return total(stats.laplace.logpdf(x, 0.0, scale))


def gamma(x, shape, rate):
    return total(stats.gamma.logpdf(x, shape, scale=1.0 / rate))


def signed_gamma(x, shape, rate):
    return total(stats.gamma.logpdf(abs(x), shape, scale=1.0 / rate) - log(2.0))


def inverse_gamma(x, shape, scale):
    return total(stats.invgamma.logpdf(x, shape, scale=scale))


def half_cauchy(x, scale):
    return total(stats.halfcauchy.logpdf(x, scale=scale))


def bernoulli(x, p):
    return total(stats.bernoulli.logpmf(x, p))


def log_uniform(x):
    return -total(np.log(abs(x)))


def concave(x, lam, end):
    size = np.minimum(abs(x), end)
    return -total(lam * (size - size**2 / (2.0 * end)))


def mixture(x, density, spike_sd, slab_sd):
    spike, slab = (stats.norm.logpdf(x, 0.0, sd) for sd in (spike_sd, slab_sd))
    return total(np.logaddexp(log(1.0 - density) + spike, log(density) + slab))


def normals(s_sd, raw_sd):
    return lambda s, raw: normal(s, s_sd) + normal(raw, raw_sd)


def horseshoe(tau, lam, z, tau0=0.1 / 0.9 / 2.0):  # the root of fan-in is 2
    return half_cauchy(tau, tau0) + half_cauchy(lam, 1.0) + normal(z, 1.0)
