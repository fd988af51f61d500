"""Normals of any covariance: divergences in closed form, and the best approximations of a posterior that is Normal.

Textbook formulas by NumPy alone (Bishop 2006, sections 2.3 and 10.1.2).
"""

from __future__ import annotations

import numpy as np
from scipy import optimize

from tests.oracles.conjugate_regression import Array, ConjugateRegression


def divergence(mean: Array, covariance: Array, other_mean: Array, other_covariance: Array) -> float:
    """KL(Normal(mean, covariance) || Normal(other_mean, other_covariance)) in nats."""
    precision, apart = np.linalg.inv(other_covariance), other_mean - mean
    logs = np.linalg.slogdet(other_covariance)[1] - np.linalg.slogdet(covariance)[1]
    return 0.5 * float(np.trace(precision @ covariance) + apart @ precision @ apart - len(mean) + logs)


def total_correlation(covariance: Array) -> float:
    """KL of a Normal to its marginals, in nats."""
    mean = np.zeros(len(covariance))
    return divergence(mean, covariance, mean, np.diag(np.diag(covariance)))


def least_divergence(precision: Array, rank: int, starts: int = 4) -> float:
    """The least KL(Normal(m, U U' + diag(s^2)) || Normal(m, precision^-1)) in nats, by quasi-Newton steps.

    Args:
        precision: P, `(d, d)`.
        rank: Columns of U.
        starts: Random starts, of which the best counts; default 4.
    """
    size = len(precision)
    covariance = np.linalg.inv(precision)

    def at(numbers: Array) -> tuple[float, Array]:
        loading, logs = numbers[: size * rank].reshape(size, rank), numbers[size * rank :]
        diagonal = np.exp(2.0 * logs)
        found = loading @ loading.T + np.diag(diagonal)
        slope = 0.5 * (precision - np.linalg.inv(found))  # of the divergence in the covariance
        gradient = np.concatenate([(2.0 * slope @ loading).ravel(), 2.0 * np.diag(slope) * diagonal])
        return divergence(np.zeros(size), found, np.zeros(size), covariance), gradient

    rng = np.random.default_rng(0)
    logs = -0.5 * np.log(np.diag(precision))
    begin = [np.concatenate([0.3 * rng.normal(size=size * rank), logs]) for _ in range(starts)]
    options = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-10}
    return min(float(optimize.minimize(at, one, jac=True, method="L-BFGS-B", options=options).fun) for one in begin)


def expected_log_joint(problem: ConjugateRegression, mean: Array, covariance: Array) -> float:
    """E log p(y, weights) under Normal(mean, covariance), in nats: quadratic in the weights, so two moments say all."""
    return float(problem.log_joint(mean[None])[0] - 0.5 * np.trace(problem.precision @ covariance))
