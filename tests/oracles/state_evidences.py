"""Marginal likelihoods of a regression with gates, state by state, as densities of the observations themselves.

Given gates and noise the observations are jointly Normal, of mean X m and covariance X S X' + noise; nothing is solved
for coefficients. Flat parameters and a learned noise are integrated over on grids. Written from the definitions alone.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy.special import expit, logsumexp
from scipy.stats import multivariate_normal

Array = np.ndarray


def normal_states(x: Array, y: Array, gate: Array, log_odds: Array, mean: Array, sd: Array, noise: float) -> Array:
    """Log of prior times marginal likelihood of each state of the gates, in the order of `itertools.product`.

    Args:
        x: Design, `(n, K)`.
        y: Observations, `(n,)`.
        gate: Number of each column's gate, `(K,)`; -1: always in.
        log_odds: Of the gates, `(G,)`.
        mean: Slab means.
        sd: Slab sds.
        noise: Its standard deviation.
    """
    found = []
    for state in itertools.product((0, 1), repeat=len(log_odds)):
        inside = np.array([1.0 if one < 0 else float(state[one]) for one in gate])
        covariance = (x * (sd * inside) ** 2) @ x.T + noise**2 * np.eye(len(y))
        prior = sum(np.log(expit(odds if on else -odds)) for odds, on in zip(log_odds, state, strict=True))
        found.append(prior + multivariate_normal.logpdf(y, x @ (mean * inside), covariance))
    return np.array(found)


def with_flat_bias_and_noise(
    x: Array, y: Array, log_odds: Array, sd: Array, bias: Array, log_noise: Array
) -> tuple[Array, float]:
    """Inclusion probabilities and log evidence with a flat bias and a flat log noise, each on an even grid."""
    rows = y[:, None] - bias
    table = np.empty((len(bias), len(log_noise), 2 ** len(sd)))
    for number, state in enumerate(itertools.product((0, 1), repeat=len(sd))):
        prior = sum(np.log(expit(odds if on else -odds)) for odds, on in zip(log_odds, state, strict=True))
        for at, t in enumerate(log_noise):
            covariance = (x * (sd * np.array(state)) ** 2) @ x.T + np.exp(2.0 * t) * np.eye(len(y))
            square = (rows * np.linalg.solve(covariance, rows)).sum(0)
            determinant = np.linalg.slogdet(2.0 * np.pi * covariance)[1]
            table[:, at, number] = prior - 0.5 * (square + determinant)
    cell = np.log(bias[1] - bias[0]) + np.log(log_noise[1] - log_noise[0])
    total = float(logsumexp(table))
    shares = np.exp(logsumexp(table.reshape(-1, table.shape[-1]), axis=0) - total)
    states = np.array(list(itertools.product((0, 1), repeat=len(log_odds))))
    return shares @ states, total + float(cell)


def pips(log_joint: Array, gates: int) -> Array:
    """Inclusion probabilities of a list of states."""
    states = np.array(list(itertools.product((0, 1), repeat=gates)))
    found: Array = np.exp(log_joint - logsumexp(log_joint)) @ states
    return found
