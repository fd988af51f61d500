"""Regressions with correlated features, of at most 12, whose inclusion probabilities enumeration gives exactly.

Written from the definitions alone; see `spike_and_slab_reference` for the model.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.oracles.spike_and_slab_reference import Array, RegressionProblem, diabetes_problem, orthogonal_problem

COLUMNS = 12


def correlated_problems(rows: int = 100) -> dict[str, RegressionProblem]:
    """The first 12 columns of two data sets, diabetes, and three simulated designs; noise sd known.

    Args:
        rows: Rows of the simulated ones.
    """
    from sklearn.datasets import load_breast_cancer, load_wine

    rng = np.random.default_rng(0)
    noise = rng.standard_normal((rows, COLUMNS))
    chain = np.zeros((rows, COLUMNS))
    chain[:, 0] = noise[:, 0]
    for j in range(1, COLUMNS):
        chain[:, j] = 0.9 * chain[:, j - 1] + math.sqrt(1.0 - 0.81) * noise[:, j]
    twice = rng.standard_normal((rows, 10))
    twice[:, 5] = twice[:, 0]
    block = rng.standard_normal((rows, COLUMNS))
    block[:, :6] = math.sqrt(0.95) * rng.standard_normal((rows, 1)) + math.sqrt(0.05) * block[:, :6]
    return {
        "breast cancer": _standardised(*load_breast_cancer(return_X_y=True)),
        "wine": _standardised(*load_wine(return_X_y=True)),
        "diabetes": diabetes_problem(),
        "AR(1) .9": _simulated(chain, {2: 0.6, 6: -0.5, 9: 0.3}, rng),
        "a column twice": _simulated(twice, {0: 0.5, 1: 0.3}, rng),
        "a block of .95": _simulated(block, {1: 0.5, 7: 0.4}, rng),
    }


def orthogonal_problems() -> dict[str, RegressionProblem]:
    """Designs whose columns are orthogonal, and centred so that they do not correlate either."""
    rng = np.random.default_rng(3)
    raw = rng.standard_normal((90, 11))
    basis, _ = np.linalg.qr(np.column_stack([np.ones(90), raw]))
    return {
        "orthogonal": orthogonal_problem(),
        "orthogonal, centred": _simulated(basis[:, 1:] * math.sqrt(90), {0: 0.5, 3: 0.3, 5: 0.2}, rng),
    }


def random_problem(rng: np.random.Generator) -> RegressionProblem:
    """A small regression of some correlation, weak and strong effects, few and many data."""
    n, p = int(rng.choice([40, 100, 300])), int(rng.integers(4, 8))
    rho, kind = float(rng.choice([0.0, 0.2, 0.4, 0.6, 0.8, 0.95])), int(rng.integers(3))
    if kind == 0:
        covariance = np.full((p, p), rho) + np.eye(p) * (1.0 - rho)
    elif kind == 1:
        covariance = rho ** np.abs(np.subtract.outer(np.arange(p), np.arange(p)))
    else:
        covariance = np.eye(p)
        covariance[0, 1] = covariance[1, 0] = rho
    x = rng.standard_normal((n, p)) @ np.linalg.cholesky(covariance + 1e-9 * np.eye(p)).T
    x = (x - x.mean(0)) / x.std(0)
    b = np.zeros(p)
    size = int(rng.integers(0, 4))
    b[rng.choice(p, size, replace=False)] = rng.choice([0.15, 0.3, 0.6, 1.5], size) * rng.choice([-1.0, 1.0], size)
    return RegressionProblem(x, x @ b + rng.standard_normal(n), 1.0, 1.0, float(rng.choice([0.1, 0.25, 0.5])))


def _standardised(x: Any, y: Any, slab_sd: float = 0.3, inclusion: float = 0.5) -> RegressionProblem:
    """Real data; the known noise sd is that of the residuals of least squares on the columns that are kept."""
    x, y = np.asarray(x, dtype=np.float64)[:, :COLUMNS], np.asarray(y, dtype=np.float64)
    x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    noise_sd = math.sqrt(float(residual @ residual) / (len(y) - x.shape[1] - 1))
    return RegressionProblem(x, y, noise_sd, slab_sd, inclusion)


def _simulated(x: Array, coefficients: dict[int, float], rng: np.random.Generator) -> RegressionProblem:
    b = np.zeros(x.shape[1])
    for j, value in coefficients.items():
        b[j] = value
    return RegressionProblem(x, x @ b + rng.standard_normal(len(x)), 1.0, 1.0, 0.25)
