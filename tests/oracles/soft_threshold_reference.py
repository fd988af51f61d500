"""What soft thresholds come to by other means: adaptive quadrature, draws, and a Gibbs sampler of a regression.

Model of the sampler: y ~ N(X w, sigma^2 I), w_j = sign(raw_j) relu(|raw_j| - g(s)), raw_j ~ N(0, raw_sd^2),
s ~ N(0, s_sd^2), g the logistic function. Given all else raw_j has a density of three Gaussian pieces, below -g,
between and above g, which is drawn exactly; s is drawn on a grid. Nothing here uses the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.integrate import quad
from scipy.special import expit, log_ndtr, logsumexp, ndtr, ndtri_exp
from scipy.stats import norm

Array = npt.NDArray[np.float64]
_GRID = np.linspace(-8.0, 4.0, 241)


def inclusion_by_quadrature(location: float, sd: float, threshold: Callable[[float], float]) -> float:
    """P(|raw| > threshold(u)) for raw ~ N(location, sd^2) and u ~ N(0, 1), adaptively."""

    def inside(u: float) -> float:
        t = threshold(u)
        return float(_density(u) * (ndtr((location - t) / sd) + ndtr((-t - location) / sd)))

    return float(quad(inside, -10, 10, limit=2000, epsabs=1e-12, epsrel=1e-11, points=np.linspace(-9, 9, 19))[0])


def _density(u: float) -> float:
    return math.exp(-0.5 * u * u) / math.sqrt(2.0 * math.pi)


def mean_by_quadrature(location: float, sd: float, threshold: float) -> float:
    """E[sign(raw) relu(|raw| - threshold)], adaptively, in two pieces."""

    def weighted(raw: float) -> float:
        return float(np.sign(raw) * (abs(raw) - threshold) * _density((raw - location) / sd) / sd)

    reach = abs(location) + 12.0 * sd
    return float(sum(quad(weighted, *ends, epsabs=1e-13, limit=500)[0] for ends in
                     ((-reach - threshold, -threshold), (threshold, threshold + reach))))  # fmt: skip


@dataclass(frozen=True)
class ThresholdProblem:
    """A regression: x `(n, p)`, y `(n,)`, the true weights `(p,)` and the constants of the model."""

    x: Array
    y: Array
    weights: Array
    noise_sd: float
    raw_sd: float
    s_sd: float


def gibbs_inclusion(problem: ThresholdProblem, sweeps: int, burn_in: int, seed: int) -> Array:
    """Posterior inclusion probabilities `(p,)`, by `sweeps` sweeps after `burn_in`; Rao-Blackwellised."""
    rng = np.random.default_rng(seed)
    x, y, p = problem.x, problem.y, problem.x.shape[1]
    gram, noise = (x * x).sum(0) / problem.noise_sd**2, problem.noise_sd**2
    raw, s = problem.raw_sd * rng.standard_normal(p), -1.0
    total = np.zeros(p)
    for sweep in range(burn_in + sweeps):
        g = float(expit(s))
        w = _soft(raw, g)
        residual = y - x @ w
        for j in rng.permutation(p):
            residual += x[:, j] * w[j]
            logs, pieces = _pieces(float(x[:, j] @ residual) / noise, float(gram[j]), g, problem.raw_sd)
            probabilities = np.exp(logs - logsumexp(logs))
            if sweep >= burn_in:
                total[j] += probabilities[0] + probabilities[2]
            mean, sd, low, high = pieces[rng.choice(3, p=probabilities / probabilities.sum())]
            raw[j] = _truncated(mean, sd, low, high, rng)
            w[j] = _soft(raw[j], g)
            residual -= x[:, j] * w[j]
        fitted = x @ _soft(raw[None], expit(_GRID)[:, None]).T
        logs = norm.logpdf(_GRID, 0.0, problem.s_sd) - 0.5 * ((y[:, None] - fitted) ** 2).sum(0) / noise
        s = float(rng.choice(_GRID, p=np.exp(logs - logsumexp(logs))) + rng.uniform(-0.025, 0.025))
    return total / sweeps


def _soft(raw: Array, threshold: Array | float) -> Array:
    return np.sign(raw) * np.maximum(np.abs(raw) - threshold, 0.0)


def _pieces(pull: float, curvature: float, g: float, raw_sd: float) -> tuple[Array, list[tuple[float, ...]]]:
    """Log masses of raw below -g, within and above g, and the truncated Normal of each: mean, sd and ends.

    The log-likelihood of the weight w alone is pull w - curvature w^2 / 2.
    """
    prior, precision = raw_sd**-2, curvature + raw_sd**-2
    logs, pieces = [], []
    for shift, low, high in ((g, -np.inf, -g), (None, -g, g), (-g, g, np.inf)):
        if shift is None:
            mean, sd, constant = 0.0, raw_sd, 0.0
        else:  # w = raw + shift
            linear = pull - curvature * shift
            mean, sd = linear / precision, precision**-0.5
            constant = pull * shift - 0.5 * curvature * shift**2 + 0.5 * linear**2 / precision
            constant += 0.5 * np.log(prior / precision)
        logs.append(constant + _log_between((low - mean) / sd, (high - mean) / sd))
        pieces.append((mean, sd, low, high))
    return np.array(logs), pieces


def _log_between(a: float, b: float) -> float:
    """log(Phi(b) - Phi(a))."""
    if a > 0:
        a, b = -b, -a
    upper, lower = log_ndtr(b), log_ndtr(a)
    return float(upper + np.log1p(-np.exp(lower - upper))) if np.isfinite(lower) else float(upper)


def _truncated(mean: float, sd: float, low: float, high: float, rng: np.random.Generator) -> float:
    """A draw of a Normal between two ends, by its inverse distribution function in the lower tail."""
    a, b = (low - mean) / sd, (high - mean) / sd
    flip = a > 0
    if flip:
        a, b = -b, -a
    # Phi at the draw is Phi(a) + U (Phi(b) - Phi(a)).
    share = np.log(rng.uniform()) + _log_between(a, b)
    drawn = float(ndtri_exp(min(float(np.logaddexp(log_ndtr(a), share)), -1e-300)))
    return float(np.clip(mean + sd * (-drawn if flip else drawn), low, high))
