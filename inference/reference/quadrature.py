"""Generalised linear models of very few coefficients: every state of the gates, each integrated on a grid.

Around the mode of a state's posterior the coefficients are put in units of its curvature, in which the trapezoidal rule
on a grid of two fifths of a unit is exact to rounding for a posterior near a Normal: its error falls exponentially with
the step. Three coefficients take 41^3 nodes.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy.special import expit, gammaln, logsumexp

from bayesprune.inference.reference.chains import Array, Chains
from bayesprune.inference.reference.linear_model import LinearModel

__all__ = ["DIMENSIONS", "integrated"]

DIMENSIONS = 3
"""Coefficients, at most."""
_REACH, _STEP = 8.0, 0.4
_ROWS = 2**22
"""Numbers of outputs that are worked on together."""
_LOG_2PI = float(np.log(2.0 * np.pi))


def integrated(model: LinearModel, draws: int = 2000, seed: int = 0, kl_weight: float = 1.0) -> Chains:
    """The posterior of a model of labels or counts with at most three coefficients.

    Args:
        model: The model.
        draws: Independent draws that are kept beside, of the nodes of the grid and uniform around them; default 2,000.
        seed: Of the draws.
        kl_weight: The likelihood counts to the power of one over it; default 1.

    Raises:
        ValueError: If there are more coefficients, or the posterior cannot be normalised: labels that the inputs tell
            apart, under a flat prior.
    """
    count, gates = len(model.sd), len(model.log_odds)
    assert count <= DIMENSIONS
    found = []
    for opened in itertools.product((False, True), repeat=gates):
        state = np.array(opened, dtype=bool)
        inside = model.open_at(state)
        prior = np.where(state, -np.logaddexp(0.0, -model.log_odds), -np.logaddexp(0.0, model.log_odds)).sum()
        points, density, cell = _grid(model, inside, kl_weight)
        found.append((state, inside, points, density + float(prior), cell))
    evidence = float(logsumexp([logsumexp(density) + cell for _, _, _, density, cell in found]))
    mean, second, inclusion = np.zeros(count), np.zeros(count), np.zeros(gates)
    shares = []
    for state, _, points, density, cell in found:
        weights = np.exp(density + cell - evidence)
        shares.append(weights.sum())
        inclusion += weights.sum() * state
        mean += weights @ points
        second += weights @ points**2
    rng = np.random.default_rng(seed)
    picked = rng.choice(len(found), size=draws, p=np.array(shares) / sum(shares))
    coefficients = np.zeros((draws, count))
    for number in np.unique(picked):
        rows, (_, inside, points, density, _) = np.flatnonzero(picked == number), found[number]
        weights = np.exp(density - density.max())
        at = rng.choice(len(points), size=len(rows), p=weights / weights.sum())
        root = _mode(model, inside, kl_weight)[1]
        around = rng.uniform(-0.5, 0.5, (len(rows), int(inside.sum()))) * _STEP
        coefficients[rows] = points[at]
        coefficients[np.ix_(rows, np.flatnonzero(inside))] += around @ root.T
    drawn = np.array([state for state, *_ in found], dtype=np.int8).reshape(len(found), gates)[picked]
    sd = np.sqrt(np.clip(second - mean**2, 0.0, None))
    return Chains(np.clip(inclusion, 0.0, 1.0), mean, sd, drawn[None], None, coefficients[None], None, None, evidence)


def _grid(model: LinearModel, inside: Array, kl_weight: float) -> tuple[Array, Array, float]:
    """Nodes `(m, K)`, the log joint there without the gates', and the log of a cell's volume."""
    mode, root = _mode(model, inside, kl_weight)
    own = np.flatnonzero(inside)
    axis = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
    units = np.array(list(itertools.product(axis, repeat=len(own)))).reshape(len(axis) ** len(own), len(own))
    points = np.zeros((len(units), len(inside)))
    points[:, own] = mode + units @ root.T
    size = max(1, _ROWS // max(1, len(model.y)))
    density = np.concatenate([
        _log_joint(model, points[start : start + size], inside, kl_weight) for start in range(0, len(points), size)
    ])  # fmt: skip
    edge = np.abs(units).max(1) > _REACH - _STEP / 2 if len(own) else np.zeros(len(units), dtype=bool)
    if len(own) and density[edge].max() > density.max() - 14.0:
        raise ValueError(
            "the posterior has no end within eight of its units, as where the inputs tell the labels apart: give the "
            "parameters without a prior one, or take method='gibbs'"
        )
    return points, density, len(own) * float(np.log(_STEP)) + float(np.log(np.abs(np.diag(root))).sum())


def _log_joint(model: LinearModel, points: Array, inside: Array, kl_weight: float) -> Array:
    """Log likelihood, to the power, and log density of the slabs that are in, `(m,)`."""
    outputs = points @ model.design.T + model.offset
    if model.likelihood == "bernoulli":
        each = model.y * outputs - np.logaddexp(0.0, outputs)
    else:
        each = model.y * outputs - np.exp(outputs) - gammaln(model.y + 1.0)
    own = np.flatnonzero(inside & ~model.flat)
    standard = (points[:, own] - model.mean[own]) / model.sd[own]
    found: Array = each.sum(1) / kl_weight - 0.5 * (standard**2).sum(1) - np.log(model.sd[own]).sum()
    return found - 0.5 * len(own) * _LOG_2PI


def _mode(model: LinearModel, inside: Array, kl_weight: float) -> tuple[Array, Array]:
    """Mode of the coefficients that are in, and a root of the inverse curvature there, by Newton's steps, halved."""
    own = np.flatnonzero(inside)
    design = model.design[:, own]
    inverse = np.where(model.flat[own], 0.0, 1.0 / np.where(model.flat[own], 1.0, model.sd[own]) ** 2)
    at = np.where(model.flat[own], 0.0, model.mean[own])
    points = np.zeros((1, len(inside)))

    def joint(values: Array) -> float:
        points[0, own] = values
        return float(_log_joint(model, points, inside, kl_weight)[0])

    for _ in range(200):
        outputs = np.clip(design @ at + model.offset, -30.0, 30.0)
        rate = expit(outputs) if model.likelihood == "bernoulli" else np.exp(outputs)
        curvature = rate * (1.0 - rate) if model.likelihood == "bernoulli" else rate
        gradient = design.T @ (model.y - rate) / kl_weight - inverse * (at - model.mean[own])
        hessian = (design.T * curvature) @ design / kl_weight + np.diag(inverse + 1e-12)
        step, size = np.linalg.solve(hessian, gradient), 1.0
        while joint(at + size * step) < joint(at) and size > 1e-9:
            size *= 0.5
        at = at + size * step
        if float(np.abs(gradient @ step)) < 1e-16:
            break
    return at, np.linalg.cholesky(np.linalg.inv(hessian)) if len(own) else np.zeros((0, 0))
