"""Every state of the gates of a regression with Normal noise, each with its marginal likelihood in closed form.

Given gates z and the scale t of the noise, coefficients are Normal and integrate out (Mitchell & Beauchamp 1988). With
A the design of the coefficients with a Normal prior N(m, s^2) over the noise's units, r the residual of the prior
means, and coefficients m + s u of what is open, G = s A'A s and b = s A'r give

    log p(y | z, t) = constant - n log t - r'r / (2 t^2) - 1/2 log|I + G / t^2| + b' (t^2 I + G)^-1 b / (2 t^2)

of which one eigendecomposition a state gives all t. Coefficients under a flat prior go first: design and observations
are projected off theirs, which leaves n less their number, and a determinant. A learned scale is integrated over by
the trapezoidal rule on its logarithm, whose error falls exponentially with the step for such integrands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from bayesprune.inference.reference.chains import Array, Chains
from bayesprune.inference.reference.linear_model import LinearModel

__all__ = ["GATES", "check_proper", "enumerated"]

GATES = 14
"""Gates of which all states are enumerated by default, at most."""
_BLOCK = 2**21
"""Numbers of the matrices that are worked on together."""
_NATS = 60.0
"""What lies so far below the largest term is left out: e^-60 is 1e-26."""
_STEPS = 4.0
"""Nodes of the noise a standard deviation of its logarithm: the trapezoidal rule is exact to rounding from 2 on."""
_LOG_2PI = float(np.log(2.0 * np.pi))


def check_proper(model: LinearModel) -> None:
    """Refuses a declaration whose posterior cannot be normalised.

    Raises:
        ValueError: If columns under flat priors say the same, or the noise is learned and the columns can fit the data
            exactly, so that its scale goes to zero; or if all labels are alike.
    """
    flat = model.design[:, model.flat]
    if flat.shape[1] and model.likelihood == "bernoulli" and len(np.unique(model.y)) < 2:
        raise ValueError(
            "all labels are alike, so that parameters without a prior have no posterior under a flat prior: give them "
            "a prior, or points='fixed'"
        )
    if flat.shape[1] and np.linalg.matrix_rank(flat) < flat.shape[1]:
        raise ValueError(
            "parameters without a prior are not identified by the data, so that there is no posterior under a flat "
            "prior: give them a prior, or points='fixed'; two classes have one output with Bernoulli"
        )
    if model.learns_noise:
        design, y = model.design / model.unit[:, None], (model.y - model.offset) / model.unit
        left = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
        if float(left @ left) <= 1e-20 * max(float(y @ y), 1e-300):
            raise ValueError(
                "the noise is learned, and the inputs fit the targets exactly, so that its scale has no posterior: "
                "declare it, Normal(scale), or give more data than inputs"
            )


@dataclass(frozen=True)
class _Projected:
    """The regression without its flat columns, over the noise's units and the square root of the KL weight."""

    gram: Array
    moment: Array
    square: float
    constant: float
    count: float


def _projected(model: LinearModel, kl_weight: float) -> _Projected:
    unit = model.unit * np.sqrt(kl_weight)
    design, y = model.design / unit[:, None], (model.y - model.offset) / unit
    own, flat = design[:, ~model.flat], design[:, model.flat]
    constant = -float((0.5 * _LOG_2PI + np.log(model.unit)).sum()) / kl_weight
    count = len(y) / kl_weight - flat.shape[1]
    if flat.shape[1]:
        basis, triangle = np.linalg.qr(flat)
        own, y = own - basis @ (basis.T @ own), y - basis @ (basis.T @ y)
        constant += 0.5 * flat.shape[1] * _LOG_2PI - float(np.log(np.abs(np.diag(triangle))).sum())
    return _Projected(own.T @ own, own.T @ y, float(y @ y), constant, count)


@dataclass(frozen=True)
class _States:
    """Some states of the gates by the eigendecompositions of G, after which every scale of the noise costs little.

    Attributes:
        open: Which coefficients are in, `(states, K)`.
        scale: Prior sds of these, zero elsewhere.
        square: r'r, `(states,)`.
        values: Eigenvalues of G, `(states, K)`.
        vectors: Its eigenvectors, in columns.
        along: b along them, `(states, K)`.
    """

    open: Array
    scale: Array
    square: Array
    values: Array
    vectors: Array
    along: Array

    def log_marginal(self, log_noise: Array, count: float, constant: float) -> Array:
        """`(states, nodes)`, in nats, without the prior of the gates."""
        variance = np.exp(2.0 * log_noise)[None, :, None]
        values, along = self.values[:, None, :], self.along[:, None, :]
        determinant = np.log1p(values / variance).sum(-1)
        explained = (along**2 / (variance + values)).sum(-1)
        found: Array = (
            constant
            - count * log_noise
            - 0.5 * determinant
            - 0.5 * (self.square[:, None] - explained) / variance[..., 0]
        )
        return found

    def solved(self, log_noise: Array) -> Array:
        """Posterior mean of u at every state and node, `(states, nodes, K)`."""
        shrunk = self.along[:, None, :] / (np.exp(2.0 * log_noise)[None, :, None] + self.values[:, None, :])
        found: Array = np.einsum("sjk,stk->stj", self.vectors, shrunk)
        return found


def enumerated(model: LinearModel, draws: int = 2000, seed: int = 0, kl_weight: float = 1.0) -> Chains:
    """The posterior of a regression with Normal noise over all states of its gates, to rounding.

    Args:
        model: The regression.
        draws: Exact, independent draws that are kept beside; default 2000.
        seed: Of the draws.
        kl_weight: The likelihood counts to the power of one over it; default 1.

    Raises:
        ValueError: If the posterior cannot be normalised.
    """
    check_proper(model)
    base, gates = _projected(model, kl_weight), len(model.log_odds)
    states = ((np.arange(2**gates)[:, None] >> np.arange(gates)) & 1).astype(bool)
    prior = np.where(states, -np.logaddexp(0.0, -model.log_odds), -np.logaddexp(0.0, model.log_odds)).sum(1)
    nodes, weight = _nodes(model, base, states, prior)
    size = max(1, _BLOCK // max(1, len(base.moment) ** 2 + len(nodes) * len(base.moment)))
    parts = [np.arange(start, min(start + size, len(states))) for start in range(0, len(states), size)]
    table = np.concatenate([
        _decomposed(model, base, states[part]).log_marginal(nodes, base.count, base.constant) for part in parts
    ])  # fmt: skip
    table += prior[:, None]
    evidence = float(logsumexp(table)) + float(np.log(weight))
    posterior = np.exp(table - logsumexp(table))
    of_state = posterior.sum(1)
    seen = np.flatnonzero(of_state > 0.0)
    own = len(base.moment)
    first, second = np.zeros(own), np.zeros((own, own))
    for part in (seen[start : start + size] for start in range(0, len(seen), size)):
        one, shares = _decomposed(model, base, states[part]), posterior[part]
        mean = _means(model, one.open) + one.scale[:, None, :] * one.solved(nodes)
        first += np.einsum("st,stj->j", shares, mean)
        second += np.einsum("st,sti,stj->ij", shares, mean, mean, optimize=True)
        variance = np.exp(2.0 * nodes)[None, :, None]
        spread = (shares[..., None] * variance / (variance + one.values[:, None, :])).sum(1)
        around = np.einsum("sik,sk,sjk->sij", one.vectors, spread, one.vectors, optimize=True)
        second += np.einsum("si,sij,sj->ij", one.scale, around, one.scale, optimize=True)
    covariance = second - np.outer(first, first)
    drawn = _drawn(model, base, states, posterior, nodes, draws, seed, kl_weight)
    mean, sd = np.empty(len(model.sd)), np.empty(len(model.sd))
    mean[~model.flat], sd[~model.flat] = first, np.sqrt(np.clip(np.diag(covariance), 0.0, None))
    if model.flat.any():
        noise = float((posterior.sum(0) * np.exp(2.0 * nodes)).sum())
        mean[model.flat], sd[model.flat] = _flat_moments(model, first, covariance, noise, kl_weight)
    return Chains(
        inclusion=np.clip(of_state @ states, 0.0, 1.0),
        mean=mean,
        sd=sd,
        gates=drawn[0][None],
        conditional=None,
        coefficients=drawn[1][None],
        noise=drawn[2][None] if model.learns_noise else None,
        noise_moments=_noise_moments(posterior.sum(0), np.exp(nodes)) if model.learns_noise else None,
        log_evidence=evidence,
    )


def _noise_moments(shares: Array, noise: Array) -> tuple[float, float]:
    """Mean and standard deviation of the noise."""
    mean = float(shares @ noise)
    return mean, float(np.sqrt(max(float(shares @ noise**2) - mean**2, 0.0)))


def _means(model: LinearModel, opened: Array) -> Array:
    """Prior means of what is in, `(states, 1, K)`."""
    return (opened * model.mean[~model.flat])[:, None, :]


def _decomposed(model: LinearModel, base: _Projected, states: Array) -> _States:
    opened = model.open_at(states)[:, ~model.flat]
    scale = opened * model.sd[~model.flat]
    mean = opened * model.mean[~model.flat]
    values, vectors = np.linalg.eigh(scale[:, :, None] * base.gram * scale[:, None, :])
    moved = mean @ base.gram
    square = base.square - 2.0 * mean @ base.moment + (moved * mean).sum(1)
    along = np.einsum("sjk,sj->sk", vectors, scale * (base.moment - moved))
    return _States(opened, scale, square, np.clip(values, 0.0, None), vectors, along)


def _nodes(model: LinearModel, base: _Projected, states: Array, prior: Array) -> tuple[Array, float]:
    """Nodes of the log of the noise's scale and their weight; zero alone where it is known."""
    if not model.learns_noise:
        return np.zeros(1), 1.0
    spread = 1.0 / np.sqrt(2.0 * max(base.count, 1.0))
    inverse = np.linalg.pinv(base.gram, hermitian=True)
    least = max(base.square - float(base.moment @ inverse @ base.moment), 1e-12 * base.square)
    mean = np.abs(model.mean[~model.flat])
    most = base.square + 2.0 * float(mean @ np.abs(base.moment)) + float(mean @ np.abs(base.gram) @ mean)
    low = 0.5 * np.log(least / (len(model.y) + 1.0)) - 3.0
    high = 0.5 * np.log(most / max(base.count, 1.0)) + 1.0 + _NATS / max(base.count, 1.0)
    nodes = np.arange(low, high, spread / _STEPS)
    # Only where some state has mass: a scan of every eighth node over all states finds it.
    coarse, size = nodes[::8], max(1, _BLOCK // max(1, len(base.moment) ** 2 + len(nodes) * len(base.moment) // 8))
    best = np.full(len(coarse), -np.inf)
    for start in range(0, len(states), size):
        part = slice(start, start + size)
        found = _decomposed(model, base, states[part]).log_marginal(coarse, base.count, base.constant)
        best = np.maximum(best, (found + prior[part, None]).max(0))
    kept = np.flatnonzero(best > best.max() - _NATS)
    first, last = max(kept[0] - 1, 0) * 8, (kept[-1] + 1) * 8
    return nodes[first : last + 1], spread / _STEPS


def _flat_moments(
    model: LinearModel, mean: Array, covariance: Array, noise: float, kl_weight: float
) -> tuple[Array, Array]:
    """Mean and sd of the coefficients under a flat prior, given those of the others."""
    unit = model.unit * np.sqrt(kl_weight)
    design, y = model.design / unit[:, None], (model.y - model.offset) / unit
    own, flat = design[:, ~model.flat], design[:, model.flat]
    pinv = np.linalg.pinv(flat)
    through = pinv @ own
    variance = noise * (pinv**2).sum(1) + np.einsum("ij,jk,ik->i", through, covariance, through)
    return pinv @ y - through @ mean, np.sqrt(variance)


def _drawn(
    model: LinearModel,
    base: _Projected,
    states: Array,
    posterior: Array,
    nodes: Array,
    draws: int,
    seed: int,
    kl_weight: float,
) -> tuple[Array, Array, Array]:
    """Independent draws of gates `(draws, G)`, coefficients `(draws, K)` and noise `(draws,)`."""
    rng = np.random.default_rng(seed)
    picked = rng.choice(posterior.size, size=draws, p=posterior.ravel() / posterior.sum())
    state, node = np.divmod(picked, len(nodes))
    noise = np.exp(nodes[node])
    coefficients = np.empty((draws, len(model.sd)))
    unit = model.unit * np.sqrt(kl_weight)
    pinv = np.linalg.pinv(model.design[:, model.flat] / unit[:, None])
    root = np.linalg.cholesky(pinv @ pinv.T) if model.flat.any() else np.zeros((0, 0))
    for number in np.unique(state):
        rows = np.flatnonzero(state == number)
        one = _decomposed(model, base, states[number : number + 1])
        variance = noise[rows, None] ** 2
        along = one.along[0] / (variance + one.values[0])
        along += np.sqrt(variance / (variance + one.values[0])) * rng.standard_normal(along.shape)
        own = _means(model, one.open)[0] + one.scale[0] * (along @ one.vectors[0].T)
        coefficients[np.ix_(rows, np.flatnonzero(~model.flat))] = own
        left = (model.y - model.offset - own @ model.design[:, ~model.flat].T) / unit
        error = noise[rows, None] * (rng.standard_normal((len(rows), len(root))) @ root.T)
        coefficients[np.ix_(rows, np.flatnonzero(model.flat))] = left @ pinv.T + error
    return states[state].astype(np.int8), coefficients, noise
