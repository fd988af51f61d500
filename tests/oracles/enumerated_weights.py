"""Mean and variance of sums of spikes and slabs, by enumeration of all their gates: nothing but total expectation."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def enumerated_moments(
    x: Tensor, probability: Tensor, location: Tensor, sd: Tensor, group: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and variance of sum_j x_j z_g(j) w_j with z_g ~ Bernoulli(probability_g), w_j ~ Normal(location_j, sd_j).

    Args:
        x: `(batch, in)`.
        probability: Of each gate, `(gates,)`; at most ten or so.
        location: `(in,)`.
        sd: `(in,)`.
        group: Number of the gate of each weight, `(in,)`; default None: each has its own.

    Returns:
        Both `(batch,)`.
    """
    group = torch.arange(len(location)) if group is None else group
    mean, second = torch.zeros(len(x)).to(x), torch.zeros(len(x)).to(x)
    for gates in itertools.product((0.0, 1.0), repeat=len(probability)):
        z = torch.tensor(gates).to(x)
        weight = torch.where(z == 1.0, probability, 1.0 - probability).prod()
        centre = x @ (z[group] * location)
        mean = mean + weight * centre
        second = second + weight * (centre.square() + x.square() @ (z[group] * sd).square())
    return mean, second - mean.square()
