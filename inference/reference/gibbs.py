"""A Gibbs sampler of regressions with gates: gates one at a time and in exchanges, the slabs integrated out.

Given the precision of each observation, coefficients are Normal, and a gate's log odds are its prior's and the change
of the marginal likelihood when its columns come in (George & McCulloch 1997; Smith & Kohn 1996). Precision matrix Q and
moment b are kept as one matrix [[Q, b], [b', 0]], swept on the columns that are in: what a column would change stands
on the diagonal then, and a flip is one sweep. Where inputs are alike, a gate that opens waits for another to close:
exchanges, which close one and open another that is proposed by its correlation with it, go there at once.

Of labels, Polya-Gamma variables make the logistic likelihood Normal (Polson, Scott & Windle 2013): they are the
precisions. A learned noise has a Gamma conditional. All chains go in step, from dispersed starts.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit

from bayesprune.inference.reference.chains import Array, Chains
from bayesprune.inference.reference.enumeration import check_proper
from bayesprune.inference.reference.linear_model import LinearModel
from bayesprune.inference.reference.polya_gamma import polya_gamma

__all__ = ["DRAWS", "WARMUP", "gibbs"]

DRAWS, WARMUP = 2000, 500
"""Draws a chain that are kept, and that are thrown away before."""
_FRESH = 20
"""Sweeps over the gates after which the matrix is made anew, where nothing else changes: rounding does not gather."""


class _Swept:
    """The swept matrices of all chains, `(chains, K + 1, K + 1)`, and what is in."""

    def __init__(self, precision: Array, moment: Array, inside: Array) -> None:
        chains, count = moment.shape
        self.matrix = np.zeros((chains, count + 1, count + 1))
        self.matrix[:, :count, :count] = precision
        self.matrix[:, :count, count] = self.matrix[:, count, :count] = moment
        self.inside = np.zeros_like(inside)
        for column in range(count):
            self.flip(np.flatnonzero(inside[:, column]), column)

    def change(self, chains: Array, column: int | Array) -> Array:
        """Log of what the marginal likelihood with a column has over that without, but for the slab's own constant."""
        diagonal = self.matrix[chains, column, column]
        last = self.matrix[chains, column, -1]
        inside = self.inside[chains, column]
        schur = np.where(inside, -1.0 / diagonal, diagonal)
        return -0.5 * np.log(schur) + 0.5 * np.where(inside, last**2 * schur, last**2 / schur)

    def flip(self, chains: Array, column: int | Array) -> None:
        """Brings a column in where it is out, and takes it out where it is in, of some chains."""
        if not len(chains):
            return
        row = self.matrix[chains, column, :]
        pivot = self.matrix[chains, column, column]
        sign = np.where(self.inside[chains, column], -1.0, 1.0)
        scaled = row / pivot[:, None]
        self.matrix[chains] -= row[:, :, None] * scaled[:, None, :]
        self.matrix[chains, column, :] = self.matrix[chains, :, column] = sign[:, None] * scaled
        self.matrix[chains, column, column] = -1.0 / pivot
        self.inside[chains, column] ^= True

    def toggled(self, chains: Array, columns: Array, constant: Array) -> Array:
        """Flips columns one after the other; log of marginal likelihood after over before.

        Args:
            chains: Numbers of the chains, `(n,)`.
            columns: Of a gate, `(m,)`, or for each chain its own, `(m, n)`.
            constant: Log of each slab's own constant, `(K,)`.
        """
        total = np.zeros(len(chains))
        for column in columns:
            inside = self.inside[chains, column]
            change = self.change(chains, column) + constant[column]
            total += np.where(inside, -change, change)
            self.flip(chains, column)
        return total

    def kept(self, chains: Array) -> tuple[Array, Array, Array]:
        """A copy of some chains, for `put_back`."""
        return chains, self.matrix[chains].copy(), self.inside[chains].copy()

    def put_back(self, kept: tuple[Array, Array, Array], which: Array) -> None:
        """Undoes what was done to some of the chains of a copy."""
        chains, matrix, inside = kept
        self.matrix[chains[which]], self.inside[chains[which]] = matrix[which], inside[which]


def gibbs(
    model: LinearModel,
    draws: int = DRAWS,
    warmup: int = WARMUP,
    chains: int = 4,
    seed: int = 0,
    kl_weight: float = 1.0,
) -> Chains:
    """Samples the posterior of a regression.

    Args:
        model: The regression, with Normal noise or labels.
        draws: Draws a chain, after the first ones; default 2,000.
        warmup: First draws of a chain, which are thrown away; default 500.
        chains: How many; default 4. The first starts with all gates closed, the second with all open, others at random.
        seed: Of all of it.
        kl_weight: The likelihood counts to the power of one over it; default 1, and 1 alone for labels.

    Raises:
        ValueError: If the posterior cannot be normalised.
    """
    check_proper(model)
    rng = np.random.default_rng(seed)
    count, switches = len(model.sd), len(model.log_odds)
    labels = model.likelihood == "bernoulli"
    design, residual = model.design, model.y - model.offset
    proper = ~model.flat
    inverse = np.where(proper, 1.0 / np.where(proper, model.sd, 1.0) ** 2, 0.0)
    pull = inverse * model.mean
    constant = np.where(proper, -np.log(np.where(proper, model.sd, 1.0)) - 0.5 * model.mean * pull, 0.0)
    columns = [model.columns_of(gate) for gate in range(switches)]
    likeness = _likeness(model, columns)
    gates = rng.random((chains, switches)) < rng.random((chains, 1))
    gates[0] = False
    gates[1 % chains] |= chains > 1
    every = np.arange(chains)
    noise, coefficients = np.full(chains, _first_noise(model)), np.zeros((chains, count))
    fixed = design.T * (1.0 / (model.unit**2 * kl_weight))
    gram, moment = fixed @ design, fixed @ residual
    swept: _Swept | None = None
    kept_gates = np.empty((chains, draws, switches), dtype=np.int8)
    kept_odds = np.empty((chains, draws, switches))
    kept_coefficients, kept_noise = np.empty((chains, draws, count)), np.empty((chains, draws))
    for step in range(warmup + draws):
        if labels:
            omega = polya_gamma(coefficients @ design.T + model.offset, rng)
            precision = np.stack([(design.T * one) @ design for one in omega])
            response = ((model.y - 0.5) - omega * model.offset) @ design
        else:
            precision, response = gram / noise[:, None, None] ** 2, moment / noise[:, None] ** 2
        precision = precision + np.diag(inverse)
        response = response + pull
        if swept is None or labels or model.learns_noise or step % _FRESH == 0:
            swept = _Swept(precision, response, model.open_at(gates))
        odds = np.empty((chains, switches))
        for gate, own in enumerate(columns):
            odds[:, gate] = _visited(swept, model, gates, gate, own, constant, every, rng)
        _exchanged(swept, model, gates, columns, constant, likeness, rng)
        coefficients = _slabs(precision, response, model.open_at(gates), rng)
        if model.learns_noise:
            left = ((residual - coefficients @ design.T) / model.unit) ** 2
            shape, rate = 0.5 * len(residual) / kl_weight, 0.5 * left.sum(1) / kl_weight
            noise = np.sqrt(rate / rng.gamma(shape, size=chains))
        if step >= warmup:
            at = step - warmup
            kept_gates[:, at], kept_odds[:, at], kept_coefficients[:, at] = gates, odds, coefficients
            kept_noise[:, at] = noise
    return Chains(
        inclusion=kept_odds.mean((0, 1)),
        mean=kept_coefficients.mean((0, 1)),
        sd=kept_coefficients.std((0, 1)),
        gates=kept_gates,
        conditional=kept_odds,
        coefficients=kept_coefficients,
        noise=kept_noise if model.learns_noise else None,
        noise_moments=(float(kept_noise.mean()), float(kept_noise.std())) if model.learns_noise else None,
        log_evidence=None,
    )


def _visited(
    swept: _Swept,
    model: LinearModel,
    gates: Array,
    gate: int,
    columns: Array,
    constant: Array,
    every: Array,
    rng: np.random.Generator,
) -> Array:
    """Draws one gate of all chains given all others, IN PLACE; its probability, `(chains,)`."""
    if len(columns) == 1:
        change = swept.change(every, int(columns[0])) + constant[columns[0]]
    else:
        kept = swept.kept(every)
        change = swept.toggled(every, columns, constant)
        change = np.where(gates[:, gate], -change, change)
    probability: Array = expit(model.log_odds[gate] + change)
    drawn = rng.random(len(every)) < probability
    flips = drawn != gates[:, gate]
    if len(columns) == 1:
        swept.flip(every[flips], int(columns[0]))
    else:
        swept.put_back(kept, ~flips)
    gates[:, gate] = drawn
    return probability


def _exchanged(
    swept: _Swept,
    model: LinearModel,
    gates: Array,
    columns: list[Array],
    constant: Array,
    likeness: Array,
    rng: np.random.Generator,
) -> None:
    """Closes a gate and opens another, IN PLACE, where Metropolis and Hastings accept; a few tries a chain."""
    for _ in range(1 + len(columns) // 2):
        chains = np.flatnonzero(gates.any(1) & ~gates.all(1))
        if not len(chains):
            return
        now = gates[chains]
        out = _picked(now.astype(np.float64), rng)
        shares = likeness[out] * ~now
        into = _picked(shares, rng)
        rows = np.arange(len(chains))
        back = likeness[into] * ~now
        there, again = shares[rows, into] / shares.sum(1), likeness[into, out]
        again = again / (back.sum(1) - back[rows, into] + again)  # its own place is open then, and that of `out` closed
        kept = swept.kept(chains)
        change = np.log(again / there) + model.log_odds[into] - model.log_odds[out]
        for gate in (out, into):
            for place in range(max(len(columns[number]) for number in gate)):
                has = np.array([place < len(columns[number]) for number in gate])
                column = np.array([columns[number][place] for number in gate[has]])
                change[has] += swept.toggled(chains[has], column[None], constant)
        accepted = np.log(rng.random(len(chains))) < change
        swept.put_back(kept, ~accepted)
        gates[chains[accepted], out[accepted]] = False
        gates[chains[accepted], into[accepted]] = True


def _picked(shares: Array, rng: np.random.Generator) -> Array:
    """One column of each row, with probabilities that are proportional to its numbers, `(rows,)`."""
    sums = shares.cumsum(1)
    above = sums > rng.random((len(shares), 1)) * sums[:, -1:]
    found: Array = above.argmax(1)
    return found


def _likeness(model: LinearModel, columns: list[Array]) -> Array:
    """How far two gates stand for each other, `(G, G)`, positive: the largest squared correlation of their columns."""
    flat = model.design[:, model.flat]
    design = model.design
    if flat.shape[1]:
        design = design - flat @ (np.linalg.pinv(flat) @ design)
    design = design / np.maximum(np.linalg.norm(design, axis=0), 1e-300)
    squares = (design.T @ design) ** 2
    found = np.array([[squares[np.ix_(one, other)].max() for other in columns] for one in columns])
    return found.reshape(len(columns), len(columns)) + 0.05


def _first_noise(model: LinearModel) -> float:
    """Where a learned noise starts: at the spread of the targets."""
    if not model.learns_noise:
        return 1.0
    return max(float(((model.y - model.offset) / model.unit).std()), 1e-12)


def _slabs(precision: Array, response: Array, inside: Array, rng: np.random.Generator) -> Array:
    """Draws of the coefficients that are in, `(chains, K)`, zeros elsewhere."""
    both = inside[:, :, None] & inside[:, None, :]
    matrix = np.where(both, precision, 0.0)
    diagonal = np.arange(matrix.shape[1])
    matrix[:, diagonal, diagonal] = np.where(inside, matrix[:, diagonal, diagonal], 1.0)
    root = np.linalg.cholesky(matrix)
    half = np.linalg.solve(root, (response * inside)[:, :, None])
    half += rng.standard_normal(half.shape)
    found: Array = np.linalg.solve(root.transpose(0, 2, 1), half)[:, :, 0] * inside
    return found
