"""Exact spike-and-slab linear regression, by enumeration and in closed form, with problems to try it on.

Model: z_j ~ Bernoulli(lambda), w_j ~ N(0, s^2), b_j = z_j w_j, y ~ N(X b, sigma^2) with sigma known
(Mitchell and Beauchamp 1988). The paired guide is q(z_j) = Bernoulli(a_j), q(w_j | z_j = 1) = N(m_j, v_j),
q(w_j | z_j = 0) = the prior (Titsias and Lazaro-Gredilla 2011); the factorised guide drops the condition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit, logsumexp, xlogy

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RegressionProblem:
    """A regression whose posterior is known exactly.

    Attributes:
        x: (n, p) design, float64.
        y: (n,) response, float64.
        noise_sd: known noise sd sigma.
        slab_sd: prior sd s of an included weight.
        inclusion: prior inclusion probability lambda of each feature.
    """

    x: Array
    y: Array
    noise_sd: float
    slab_sd: float
    inclusion: float


@dataclass(frozen=True)
class ExactPosterior:
    """Exact posterior summaries, each (p,) but the evidence.

    Attributes:
        pips: P(z_j = 1 | y).
        mean: E[b_j | y], with b_j = z_j w_j.
        included_mean: E[w_j | z_j = 1, y].
        included_variance: Var[w_j | z_j = 1, y].
        log_evidence: log p(y | x) in nats.
    """

    pips: Array
    mean: Array
    included_mean: Array
    included_variance: Array
    log_evidence: float


def enumerate_posterior(problem: RegressionProblem) -> ExactPosterior:
    """Sum over all 2^p subsets of features; about a second at p = 12.

    Given a subset S, with P_S = X_S'X_S / sigma^2 + I / s^2 and r_S = X_S'y / sigma^2,

        log p(y | S) = -n/2 log(2 pi sigma^2) - y'y / (2 sigma^2) - |S|/2 log s^2 - 1/2 log|P_S|
                       + 1/2 r_S' P_S^-1 r_S

    and w_S | y, S ~ N(P_S^-1 r_S, P_S^-1).
    """
    n, p = problem.x.shape
    if p > 16:
        raise ValueError(f"The problem has {p} features, more than the 16 allowed: take fewer.")
    variance, slab = problem.noise_sd**2, problem.slab_sd**2
    gram, moment = problem.x.T @ problem.x / variance, problem.x.T @ problem.y / variance
    base = -0.5 * n * math.log(2.0 * math.pi * variance) - 0.5 * float(problem.y @ problem.y) / variance
    log_in, log_out = math.log(problem.inclusion), math.log1p(-problem.inclusion)

    subsets = (np.arange(2**p)[:, None] >> np.arange(p)) & 1
    log_weights = np.empty(2**p)
    means = np.zeros((2**p, p))
    variances = np.zeros((2**p, p))
    for row, bits in enumerate(subsets):
        chosen = np.flatnonzero(bits)
        k = len(chosen)
        log_weights[row] = base + k * log_in + (p - k) * log_out
        if k == 0:
            continue
        factor = cho_factor(gram[np.ix_(chosen, chosen)] + np.eye(k) / slab, lower=True)
        mean = cho_solve(factor, moment[chosen])
        log_det = 2.0 * float(np.log(np.diag(factor[0])).sum())
        log_weights[row] += 0.5 * (float(moment[chosen] @ mean) - log_det - k * math.log(slab))
        means[row, chosen] = mean
        variances[row, chosen] = np.diag(cho_solve(factor, np.eye(k)))

    log_evidence = float(logsumexp(log_weights))
    posterior = np.exp(log_weights - log_evidence)
    pips = posterior @ subsets
    mean_b = posterior @ means
    included = mean_b / pips
    second = posterior @ (variances + means**2) / pips
    return ExactPosterior(pips, mean_b, included, second - included**2, log_evidence)


def orthogonal_posterior(problem: RegressionProblem) -> ExactPosterior:
    """Return the closed form for mutually orthogonal columns, one feature at a time.

    v = 1 / (x'x / sigma^2 + 1 / s^2), m = v x'y / sigma^2,
    logit PIP = logit lambda + 1/2 log(v / s^2) + m^2 / (2 v).
    """
    gram = problem.x.T @ problem.x
    norms = np.diag(gram)
    if not np.allclose(gram, np.diag(norms), atol=1e-9 * float(norms.max())):
        raise ValueError("The columns of x are not orthogonal, expected so here: use enumerate_posterior.")
    variance, slab = problem.noise_sd**2, problem.slab_sd**2
    v = 1.0 / (norms / variance + 1.0 / slab)
    m = v * (problem.x.T @ problem.y) / variance
    log_factor = 0.5 * np.log(v / slab) + m**2 / (2.0 * v)
    prior_logit = math.log(problem.inclusion) - math.log1p(-problem.inclusion)
    pips = expit(prior_logit + log_factor)
    null = -0.5 * len(problem.y) * math.log(2.0 * math.pi * variance)
    null -= float(problem.y @ problem.y) / (2.0 * variance)
    per_feature = np.logaddexp(math.log1p(-problem.inclusion), math.log(problem.inclusion) + log_factor)
    return ExactPosterior(pips, pips * m, m, v, float(null + per_feature.sum()))


def paired_kl(a: Array, m: Array, v: Array, inclusion: float, slab_sd: float) -> Array:
    """Return KL(q || prior) of the paired guide per entry, in nats.

    a [log(a / lambda) + KL(N(m, v) || N(0, s^2))] + (1 - a) log((1 - a) / (1 - lambda)).
    """
    slab = slab_sd**2
    normal = 0.5 * (v / slab + m**2 / slab - 1.0 - np.log(v / slab))
    # xlogy makes the limits a = 0 and a = 1 exact.
    gate = xlogy(a, a) - a * math.log(inclusion)
    gate = gate + xlogy(1.0 - a, 1.0 - a) - (1.0 - a) * math.log1p(-inclusion)
    return np.asarray(gate + a * normal)


def paired_moments(a: Array, m: Array, v: Array) -> tuple[Array, Array]:
    """Return E[b] = a m and Var[b] = a (v + m^2) - a^2 m^2 under the paired guide."""
    return a * m, a * (v + m**2) - (a * m) ** 2


def expected_log_likelihood(problem: RegressionProblem, mean_b: Array, variance_b: Array) -> float:
    """Return E[log N(y; X b, sigma^2)] in nats when the b_j are independent with these moments.

    Exact whatever the distributions: the likelihood is quadratic in b.
    """
    variance = problem.noise_sd**2
    residual = problem.y - problem.x @ mean_b
    spread = float((problem.x**2 @ variance_b).sum())
    constant = -0.5 * len(problem.y) * math.log(2.0 * math.pi * variance)
    return constant - 0.5 * (float(residual @ residual) + spread) / variance


def paired_elbo(problem: RegressionProblem, a: Array, m: Array, v: Array) -> float:
    """Return the exact ELBO of the paired guide in nats; the log evidence bounds it from above."""
    kl = float(paired_kl(a, m, v, problem.inclusion, problem.slab_sd).sum())
    return expected_log_likelihood(problem, *paired_moments(a, m, v)) - kl


def paired_fixed_point(
    problem: RegressionProblem, start: float | None = None, sweeps: int = 2000, tolerance: float = 1e-13
) -> tuple[Array, Array, Array]:
    """Climb the ELBO of the paired guide one feature at a time; return (a, m, v), each (p,).

    Each update is the orthogonal closed form with y replaced by the residual of the other features'
    posterior means. On an orthogonal design one sweep is exact; on a correlated one the answer is the best
    guide of this family near `start` (default: the prior inclusion probability), not the posterior.
    """
    gram, moment, v, prior_logit = _sufficient(problem)
    p = len(moment)
    a = np.full(p, problem.inclusion if start is None else start)
    m = np.zeros(p)
    for _ in range(sweeps):
        before = a * m
        for j in range(p):
            others = moment[j] - gram[j] @ (a * m) + gram[j, j] * a[j] * m[j]
            m[j] = v[j] * others
            a[j] = expit(prior_logit + 0.5 * math.log(v[j] / problem.slab_sd**2) + m[j] ** 2 / (2.0 * v[j]))
        if float(np.abs(a * m - before).max()) < tolerance:
            break
    return a, m, v


def factorised_fixed_point(
    problem: RegressionProblem, start: float | None = None, sweeps: int = 5000, tolerance: float = 1e-13
) -> tuple[Array, Array, Array]:
    """Climb the ELBO of the wrong family, q(z_j) q(w_j) independent; return (a, m, v), each (p,).

    v_j = 1 / (a_j x'x / sigma^2 + 1 / s^2),  m_j = v_j a_j x_j'(y - rest) / sigma^2,
    logit a_j = logit lambda + m_j x_j'(y - rest) / sigma^2 - x_j'x_j (m_j^2 + v_j) / (2 sigma^2).

    The ELBO can have two optima per feature; the one found depends on `start`, the first value of every a
    (default: the prior inclusion probability).
    """
    gram, moment, _, prior_logit = _sufficient(problem)
    p = len(moment)
    a = np.full(p, problem.inclusion if start is None else start)
    m, v = np.zeros(p), np.full(p, problem.slab_sd**2)
    for _ in range(sweeps):
        before = a.copy()
        for j in range(p):
            others = moment[j] - gram[j] @ (a * m) + gram[j, j] * a[j] * m[j]
            v[j] = 1.0 / (a[j] * gram[j, j] + 1.0 / problem.slab_sd**2)
            m[j] = v[j] * a[j] * others
            a[j] = expit(prior_logit + m[j] * others - 0.5 * gram[j, j] * (m[j] ** 2 + v[j]))
        if float(np.abs(a - before).max()) < tolerance:
            break
    return a, m, v


def _sufficient(problem: RegressionProblem) -> tuple[Array, Array, Array, float]:
    """Return X'X / sigma^2, X'y / sigma^2, the per-feature slab variance v and logit lambda."""
    gram = problem.x.T @ problem.x / problem.noise_sd**2
    moment = problem.x.T @ problem.y / problem.noise_sd**2
    v = 1.0 / (np.diag(gram) + 1.0 / problem.slab_sd**2)
    return gram, moment, v, math.log(problem.inclusion) - math.log1p(-problem.inclusion)


def problem_with_pips(
    pips: Array,
    norms: Array,
    rng: np.random.Generator,
    noise_sd: float,
    slab_sd: float,
    inclusion: float,
    n: int,
) -> RegressionProblem:
    """Build an orthogonal problem whose exact PIPs are the given ones.

    The closed form is inverted for each x_j'y (random sign); the part of y outside the columns' span is
    plain noise, on which no PIP depends.

    Args:
        pips: (p,) wanted PIPs; each must exceed the PIP of a feature with x_j'y = 0.
        norms: (p,) wanted x_j'x_j.
        rng: source of the columns, signs and noise.
        noise_sd: known noise sd.
        slab_sd: slab sd.
        inclusion: prior inclusion probability.
        n: number of rows, at least p.
    """
    basis, _ = np.linalg.qr(rng.standard_normal((n, len(pips))))
    x = basis * np.sqrt(norms)
    variance, slab = noise_sd**2, slab_sd**2
    v = 1.0 / (norms / variance + 1.0 / slab)
    wanted = np.log(pips) - np.log1p(-pips) - math.log(inclusion) + math.log1p(-inclusion)
    evidence = wanted - 0.5 * np.log(v / slab)
    if (evidence < 0).any():
        raise ValueError("A wanted PIP lies below that of a feature without any signal: raise it.")
    m = np.sqrt(2.0 * v * evidence) * rng.choice([-1.0, 1.0], size=len(pips))
    x_dot_y = m * variance / v
    noise = noise_sd * rng.standard_normal(n)
    noise -= basis @ (basis.T @ noise)
    return RegressionProblem(x, x @ (x_dot_y / norms) + noise, noise_sd, slab_sd, inclusion)


def orthogonal_problem(seed: int = 0, n: int = 80, noise_sd: float = 0.7) -> RegressionProblem:
    """Make ten orthogonal features: two sure, five ambiguous (exact PIP in [0.1, 0.9]), three near empty.

    Column norms x'x differ (between 40 and 120), so that each feature has its own posterior variance.
    """
    rng = np.random.default_rng(seed)
    ambiguous = np.array([0.15, 0.3, 0.45, 0.65, 0.85]) + rng.uniform(-0.04, 0.04, size=5)
    empty = rng.uniform(0.04, 0.09, size=3)
    sure = np.array([0.999, 1.0 - 1e-6])
    pips = rng.permutation(np.concatenate([ambiguous, empty, sure]))
    norms = rng.uniform(40.0, 120.0, size=len(pips))
    problem = problem_with_pips(pips, norms, rng, noise_sd, slab_sd=1.0, inclusion=0.25, n=n)
    exact = orthogonal_posterior(problem).pips
    inside = int(((exact >= 0.1) & (exact <= 0.9)).sum())
    assert inside >= 4, f"only {inside} features have an exact PIP in [0.1, 0.9]"
    assert np.allclose(exact, pips, atol=1e-8)
    return problem


def factorised_failure_problem(seed: int = 0) -> RegressionProblem:
    """Make three orthogonal features with exact PIPs .822, .131 and .137 and x'x s^2 / sigma^2 = 200.

    From the prior inclusion probability the factorised guide climbs to .976, .000 and .000.
    """
    pips = np.array([0.822, 0.131, 0.137])
    rng = np.random.default_rng(seed)
    return problem_with_pips(pips, np.full(3, 200.0), rng, noise_sd=1.0, slab_sd=1.0, inclusion=0.2, n=200)


def diabetes_problem(slab_sd: float = 0.3, inclusion: float = 0.5) -> RegressionProblem:
    """Return scikit-learn's diabetes data (442 rows, 10 correlated features), x and y standardised.

    The known noise sd is the residual sd of ordinary least squares, n - p - 1 degrees of freedom.
    """
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    x = np.asarray(x, dtype=np.float64)
    y = np.asarray(y, dtype=np.float64)
    x = (x - x.mean(0)) / x.std(0)
    y = (y - y.mean()) / y.std()
    coefficients, *_ = np.linalg.lstsq(x, y, rcond=None)
    residual = y - x @ coefficients
    noise_sd = math.sqrt(float(residual @ residual) / (len(y) - x.shape[1] - 1))
    return RegressionProblem(x, y, noise_sd, slab_sd, inclusion)
