"""LowRank written down in numpy and scipy: the log joint of its latents, and the sum of its components."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats


def log_density(m_sd, precision):
    """The log joint of latents with a leading axis of copies, for a standard deviation of m and a precision of s."""

    def normal(x, mean, sd):
        return np.reshape(stats.norm.logpdf(x, mean, sd), (len(x), -1)).sum(1)

    def joint(s, u, m, v):
        sizes = normal(s, math.log(m_sd), precision**-0.5) + normal(m, 0.0, m_sd)
        return sizes + normal(u, 0.0, 1.0) + normal(v, 0.0, 1.0)

    return joint


def components(s, u, m, v):
    """The matrix, a component of rank one after the other."""
    sizes = np.sign(m) * np.maximum(abs(m) - np.exp(s.reshape(())), 0.0)
    lengths = np.linalg.norm(u, axis=0) * np.linalg.norm(v, axis=1)
    return sum(size * np.outer(u[:, k], v[k]) / lengths[k] for k, size in enumerate(sizes))
