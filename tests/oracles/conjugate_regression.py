"""Bayesian linear regression with known noise and a Gaussian prior, in closed form (Bishop 2006, section 3.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class ConjugateRegression:
    """Data, and what is known exactly about the weights: `(features,)`."""

    x: Array
    y: Array
    prior_sd: float
    noise_sd: float

    @property
    def precision(self) -> Array:
        return self.x.T @ self.x / self.noise_sd**2 + np.eye(self.x.shape[1]) / self.prior_sd**2

    @property
    def mean(self) -> Array:
        return np.linalg.solve(self.precision, self.x.T @ self.y) / self.noise_sd**2

    @property
    def meanfield_sd(self) -> Array:
        """Of the best independent Normals, whose mean is the posterior's (Bishop 2006, section 10.1.2)."""
        return np.diag(self.precision) ** -0.5

    def leave_one_out(self) -> Array:
        """Log predictive density of each point given all the others, by fitting again without it."""
        found = []
        for point in range(len(self.y)):
            kept = np.arange(len(self.y)) != point
            other = ConjugateRegression(self.x[kept], self.y[kept], self.prior_sd, self.noise_sd)
            row = self.x[point]
            variance = self.noise_sd**2 + row @ np.linalg.solve(other.precision, row)
            error = self.y[point] - row @ other.mean
            found.append(-0.5 * math.log(2 * math.pi * variance) - 0.5 * error**2 / variance)
        return np.array(found)

    def log_joint(self, weights: Array) -> Array:
        """Log p(y, weights) for rows of weights, `(n, features)`."""
        errors = (self.y - weights @ self.x.T) / self.noise_sd
        standard = weights / self.prior_sd
        data = -0.5 * (errors**2).sum(-1) - len(self.y) * math.log(self.noise_sd * math.sqrt(2 * math.pi))
        prior = -0.5 * (standard**2).sum(-1) - weights.shape[1] * math.log(self.prior_sd * math.sqrt(2 * math.pi))
        return data + prior


def regression(size: int = 60, features: int = 4, correlation: float = 0.0, seed: int = 0) -> ConjugateRegression:
    """A problem with orthogonal features, or ones of the given correlation with their neighbour."""
    rng = np.random.default_rng(seed)
    x = np.linalg.qr(rng.normal(size=(size, features)))[0] * math.sqrt(size)
    for place in range(1, features):
        x[:, place] = correlation * x[:, place - 1] + math.sqrt(1 - correlation**2) * x[:, place]
    y = x @ rng.normal(size=features) + rng.normal(size=size)
    return ConjugateRegression(x, y, prior_sd=1.0, noise_sd=1.0)
