"""Spike-and-slab regression on an orthogonal design whose slab sd and inclusion probability are unknown.

Model: sd ~ HalfCauchy(c), pi ~ Beta(a, b), z_j ~ Bernoulli(pi), w_j ~ N(0, sd^2), y ~ N(X (z w), sigma^2), sigma known,
columns of X orthogonal. Given (sd, pi) the evidence is a product over features,

    p(y | sd, pi) = p(y | no feature) prod_j [1 - pi + pi BF_j(sd)],  log BF_j = log(v_j / sd^2) / 2 + m_j^2 / (2 v_j),

so that the posterior of (sd, pi) is an integral in two dimensions: by a grid in (log sd, logit pi). Formulas and scipy
alone: nothing is shared with the package.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, special, stats

from tests.oracles.spike_and_slab_reference import Array, RegressionProblem


@dataclass(frozen=True)
class HyperPriors:
    """Scale of the half-Cauchy of sd, and the two parameters of the Beta of pi."""

    scale: float
    a: float
    b: float


def problem_of(features: int, sd: float, pi: float, seed: int = 0, noise_sd: float = 1.0) -> RegressionProblem:
    """Data drawn from the model at a known sd and pi; columns of norms between 5 and 20."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.standard_normal((features, features)))
    x = basis * rng.uniform(5.0, 20.0, features)
    weights = (rng.uniform(size=features) < pi) * sd * rng.standard_normal(features)
    return RegressionProblem(x, x @ weights + noise_sd * rng.standard_normal(features), noise_sd, sd, pi)


def conditional(problem: RegressionProblem, sd: Array) -> tuple[Array, Array, Array]:
    """(m, v, log BF) of each feature given sd, the features along the last axis."""
    norms = np.square(problem.x).sum(0) / problem.noise_sd**2
    moment = problem.x.T @ problem.y / problem.noise_sd**2
    variance = np.square(np.asarray(sd))[..., None]
    v = 1.0 / (norms + 1.0 / variance)
    m = v * moment
    return m, v, 0.5 * np.log(v / variance) + m**2 / (2.0 * v)


def log_evidence(problem: RegressionProblem, sd: Array, pi: Array) -> Array:
    """Log p(y | sd, pi) in nats."""
    log_factor = conditional(problem, sd)[2]
    pi = np.asarray(pi)[..., None]
    null = stats.norm.logpdf(problem.y, 0.0, problem.noise_sd).sum()
    return null + np.logaddexp(np.log1p(-pi), np.log(pi) + log_factor).sum(-1)


def log_joint(problem: RegressionProblem, hyper: HyperPriors, sd: Array, pi: Array) -> Array:
    """Log p(y, sd, pi), the density that of sd and pi themselves."""
    prior = stats.halfcauchy.logpdf(sd, scale=hyper.scale) + stats.beta.logpdf(pi, hyper.a, hyper.b)
    return log_evidence(problem, sd, pi) + prior


def tempered(problem: RegressionProblem, kl_weight: float) -> RegressionProblem:
    """The likelihood to the power 1 / kl_weight: a noise variance of kl_weight times as much."""
    return replace(problem, noise_sd=problem.noise_sd * math.sqrt(kl_weight))


def best_points(problem: RegressionProblem, hyper: HyperPriors, jacobian: bool = False) -> tuple[float, float]:
    """(sd, pi) of the largest joint density; with `jacobian` that of (log sd, logit pi), another point."""

    def loss(at: Array) -> float:
        sd, pi = math.exp(at[0]), float(special.expit(at[1]))
        change = math.log(sd) + math.log(pi) + math.log1p(-pi) if jacobian else 0.0
        return -float(log_joint(problem, hyper, np.array(sd), np.array(pi))) - change

    starts = [(np.log(s), special.logit(p)) for s in (0.1, 0.5, 2.0) for p in (0.05, 0.3, 0.7)]
    options = {"xatol": 1e-10, "fatol": 1e-12, "maxiter": 4000}
    found = min((optimize.minimize(loss, at, method="Nelder-Mead", options=options) for at in starts), key=_value)
    return math.exp(found.x[0]), float(special.expit(found.x[1]))


def _value(result: optimize.OptimizeResult) -> float:
    return float(result.fun)


def hyper_posterior(problem: RegressionProblem, hyper: HyperPriors, nodes: int = 241) -> dict[str, tuple[float, float]]:
    """Mean and sd of ``log sd`` and ``logit pi`` a posteriori, and the log evidence (with 0), by a grid."""
    u, t = np.linspace(-6.0, 4.0, nodes), np.linspace(-9.0, 6.0, nodes)
    sd, pi = np.exp(u)[:, None], special.expit(t)[None, :]
    sd, pi = np.broadcast_arrays(sd, pi)
    mass = log_joint(problem, hyper, sd, pi) + np.log(sd) + np.log(pi) + np.log1p(-pi)
    total = special.logsumexp(mass)
    share = np.exp(mass - total)
    edges = max(share[0].sum(), share[-1].sum(), share[:, 0].sum(), share[:, -1].sum())
    assert edges < 1e-4, f"{edges} of the posterior lies at the ends of the grid"
    found = {"log sd": _moments(u, share.sum(1)), "logit pi": _moments(t, share.sum(0))}
    return {**found, "log evidence": (float(total + np.log(u[1] - u[0]) + np.log(t[1] - t[0])), 0.0)}


def _moments(values: Array, share: Array) -> tuple[float, float]:
    mean = float(values @ share)
    return mean, math.sqrt(float(np.square(values - mean) @ share))


def beta_bernoulli(inclusion: Array, hyper: HyperPriors) -> tuple[float, float]:
    """Mean and sd of logit pi under the best q(pi) given q(z): Beta(a + sum, b + rest), by conjugacy."""
    a, b = hyper.a + inclusion.sum(), hyper.b + (1.0 - inclusion).sum()
    mean = float(special.digamma(a) - special.digamma(b))
    return mean, math.sqrt(float(special.polygamma(1, a) + special.polygamma(1, b)))


def best_logit_normal(a: float, b: float) -> tuple[float, float]:
    """Location and scale of the logit-Normal nearest to Beta(a, b) in KL(q || Beta), by quadrature and a search."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()

    def kl(at: Array) -> float:
        u = at[0] + math.exp(at[1]) * nodes
        log_beta = a * special.log_expit(u) + b * special.log_expit(-u) - special.betaln(a, b)
        return -at[1] - 0.5 * math.log(2.0 * math.pi * math.e) - float(weights @ log_beta)

    start = np.array([special.digamma(a) - special.digamma(b), 0.5 * np.log(1.0 / a + 1.0 / b)])
    options = {"xatol": 1e-10, "fatol": 1e-13, "maxiter": 4000}
    found = optimize.minimize(kl, start, method="Nelder-Mead", options=options)
    return float(found.x[0]), math.exp(found.x[1])
