"""Spike-and-slab regression under a KL weight T: prior x likelihood^(1/T), in closed form and by enumeration.

A fit minimises -E log lik + T KL(q || prior) = T (KL(q || prior) - E[log lik] / T), so that its target is
proportional to prior x likelihood^(1/T). Model: one z a group of features, z ~ Bernoulli(lambda), w_j ~ N(0, s^2),
b_j = z w_j, y ~ N(X b, sigma^2) with sigma known. Written from these lines alone, one subset at a time.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats
from scipy.special import expit, logsumexp, xlogy

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tempered:
    """The tempered posterior.

    Attributes:
        log_odds: Of each group's gate, `(groups,)`.
        mean: E[w_j | its gate is 1], `(p,)`.
        variance: Var[w_j | its gate is 1], `(p,)`.
    """

    log_odds: Array
    mean: Array
    variance: Array

    @property
    def pips(self) -> Array:
        """Probability of each group's gate."""
        return np.asarray(expit(self.log_odds))


def closed_form(
    x: Array, y: Array, noise_sd: float, slab_sd: float, inclusion: float, kl_weight: float, size: int = 1
) -> Tempered:
    """On orthogonal columns, whose gates stand for `size` features each, one after the other.

    v = 1 / (x'x / (T sigma^2) + 1 / s^2), m = v x'y / (T sigma^2),
    logit PIP = logit lambda + sum over the group of (1/2 log(v / s^2) + m^2 / (2 v)).
    """
    v = 1.0 / ((x**2).sum(0) / (kl_weight * noise_sd**2) + 1.0 / slab_sd**2)
    m = v * (x.T @ y) / (kl_weight * noise_sd**2)
    gained = 0.5 * np.log(v / slab_sd**2) + m**2 / (2.0 * v)
    return Tempered(math.log(inclusion / (1.0 - inclusion)) + gained.reshape(-1, size).sum(1), m, v)


def enumerated(
    x: Array, y: Array, noise_sd: float, slab_sd: float, inclusion: float, kl_weight: float, size: int = 1
) -> Tempered:
    """By all subsets of the gates, on any design; the likelihood itself is raised to the power 1 / T."""
    p, power = x.shape[1], 1.0 / kl_weight
    groups = p // size
    constant = power * (-0.5 * len(y) * math.log(2.0 * math.pi * noise_sd**2) - 0.5 * float(y @ y) / noise_sd**2)
    logs, gates, first, second = [], [], [], []
    for z in itertools.product((0, 1), repeat=groups):
        on = np.repeat(np.array(z, dtype=bool), size)
        prior = sum(math.log(inclusion if one else 1.0 - inclusion) for one in z)
        mean, square, log = np.zeros(p), np.zeros(p), constant + prior
        if on.any():
            precision = power * x[:, on].T @ x[:, on] / noise_sd**2 + np.eye(int(on.sum())) / slab_sd**2
            covariance = np.linalg.inv(precision)
            mean[on] = covariance @ (power * x[:, on].T @ y / noise_sd**2)
            square[on] = np.diag(covariance) + mean[on] ** 2
            log += 0.5 * float(mean[on] @ precision @ mean[on]) - 0.5 * np.linalg.slogdet(precision)[1]
            log -= int(on.sum()) * math.log(slab_sd)
        logs.append(log)
        gates.append(z)
        first.append(mean)
        second.append(square)
    share, on = np.exp(np.array(logs) - logsumexp(logs)), np.array(gates, dtype=bool)
    log_odds = np.array([logsumexp(logs, b=one) - logsumexp(logs, b=~one) for one in on.T])
    each = np.repeat(share @ on, size)
    mean = share @ np.array(first) / each
    return Tempered(log_odds, mean, share @ np.array(second) / each - mean**2)


def objective(
    log_odds: Array,
    m: Array,
    v: Array,
    x: Array,
    y: Array,
    noise_sd: float,
    slab_sd: float,
    inclusion: float,
    kl_weight: float,
) -> float:
    """-E log lik + T KL of the paired guide, exactly, in nats; a gate a feature."""
    a, rest = expit(log_odds), expit(-log_odds)
    mean, variance = a * m, a * (v + m**2) - (a * m) ** 2
    residual = y - x @ mean
    fit = 0.5 * (float(residual @ residual) + float((x**2 @ variance).sum())) / noise_sd**2
    fit += 0.5 * len(y) * math.log(2.0 * math.pi * noise_sd**2)
    slab = 0.5 * ((v + m**2) / slab_sd**2 - 1.0 - np.log(v / slab_sd**2))
    gate = xlogy(a, a / inclusion) + xlogy(rest, rest / (1.0 - inclusion))
    return fit + kl_weight * float((gate + a * slab).sum())


def read_back(mean: Array, variance: Array, slab_sd: float, kl_weight: float) -> Array:
    """Log odds that a feature gains at T = 1, from m and v of a fit at T; exact on orthogonal columns.

    The precision that the data give is T (1 / v - 1 / s^2) at T = 1, and their pull T m / v:
    v_1 = 1 / (T / v + (1 - T) / s^2), and what is gained 1/2 log(v_1 / s^2) + v_1 (T m / v)^2 / 2.
    """
    v_1 = 1.0 / (kl_weight / variance + (1.0 - kl_weight) / slab_sd**2)
    return np.asarray(0.5 * np.log(v_1 / slab_sd**2) + 0.5 * v_1 * (kl_weight * mean / variance) ** 2)


def map_of_hyper_parameters(
    x: Array, y: Array, noise_sd: float, kl_weight: float, copies: int, shapes: tuple[float, float], scale: float
) -> tuple[float, float]:
    """lambda ~ Beta(shapes) and s ~ half-Cauchy(scale) as points beside the best guide, on orthogonal columns.

    T multiplies their log densities as it does the rest of the KL term, so that they maximise log p(lambda, s) plus
    `copies` times the log evidence of likelihood^(1/T): what the gates gain under the slab, prior included.
    """

    def lost(at: Array) -> float:
        inclusion, slab_sd = float(expit(at[0])), float(np.exp(at[1]))
        one = closed_form(x, y, noise_sd, slab_sd, inclusion, kl_weight)
        gained = one.log_odds - at[0]
        evidence = np.logaddexp(math.log1p(-inclusion), math.log(inclusion) + gained).sum()
        hyper = stats.beta(*shapes).logpdf(inclusion) + stats.halfcauchy(scale=scale).logpdf(slab_sd)
        return -float(copies * evidence + hyper)

    found = optimize.minimize(
        lost, np.array([-1.0, 0.0]), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-11}
    )
    return float(expit(found.x[0])), float(np.exp(found.x[1]))
