"""The evidence lower bound of a linear model whose edges have gates, by enumeration of every graph; from formulas.

Model: y = W x + noise of known sd. An edge (unit, input) is open with its own prior probability, the same for all of a
unit's outputs, which stand one gate after the other (rows a, b, a, b); an open weight is Normal(0, slab_sd), a closed
one zero. Guide: q(z) = Bernoulli(a), q(w | z = 1) = Normal(m, v), q(w | z = 0) = the prior.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bound:
    """In nats of all data: the expected log-likelihood, the divergence from the prior, and their difference."""

    log_likelihood: Tensor
    kl: Tensor

    @property
    def elbo(self) -> Tensor:
        """What is maximised."""
        return self.log_likelihood - self.kl


def graphs(edges: int) -> Tensor:
    """Every graph of so many edges, zeros and ones, `(2^edges, edges)`."""
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=edges)), dtype=torch.float64)


def enumerated_bound(
    x: Tensor,
    y: Tensor,
    noise_sd: float,
    slab_sd: float,
    prior: Tensor,
    a: Tensor,
    m: Tensor,
    v: Tensor,
    interleaved: bool = False,
) -> Bound:
    """The bound as a sum over all graphs.

    Args:
        x: `(n, in)`.
        y: `(n, gates x units)`.
        noise_sd: Sd of the noise.
        slab_sd: Sd of an open weight.
        prior: Probability of each edge, `(units, in)`.
        a: q(z = 1), `(units, in)`.
        m: Mean of q(w | z = 1), `(gates x units, in)`.
        v: Its variance.
        interleaved: Whether a unit's outputs stand one after the other (a, a, b, b), which is wrong.
    """
    units, inputs = a.shape
    gates = len(m) // units
    log_likelihood, kl = x.new_zeros(()), x.new_zeros(())
    for graph in graphs(units * inputs):
        z = graph.view(units, inputs)
        q = torch.where(z == 1, a, 1 - a).prod()
        p = torch.where(z == 1, prior, 1 - prior).prod()
        rows = range(gates * units)
        open_ = torch.stack([z[row // gates if interleaved else row % units] for row in rows])
        mean, variance = x @ (open_ * m).T, x.square() @ (open_ * v).T
        one = -0.5 * math.log(2 * math.pi * noise_sd**2) - ((y - mean).square() + variance) / (2 * noise_sd**2)
        slabs = 0.5 * (v / slab_sd**2 + m.square() / slab_sd**2 - 1 - (v / slab_sd**2).log())
        log_likelihood = log_likelihood + q * one.sum()
        kl = kl + q * (q.log() - p.log() + (open_ * slabs).sum())
    return Bound(log_likelihood, kl)
