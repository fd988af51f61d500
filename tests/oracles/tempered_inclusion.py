"""Spike and slab of one weight, its Bayes factor and a sparse mean-field ELBO: by quadrature and by plain loops."""

from __future__ import annotations

from math import inf, log, sqrt

import numpy as np
import torch
from scipy import integrate, optimize, stats
from torch.nn.functional import cross_entropy


def inclusion(weight, density, spike_sd, slab_sd):
    """P(slab | weight), by Bayes' rule with scipy's densities."""
    slab = log(density) + stats.norm.logpdf(weight, 0.0, slab_sd)
    spike = log(1.0 - density) + stats.norm.logpdf(weight, 0.0, spike_sd)
    return 1.0 / (1.0 + np.exp(spike - slab))


def crossing(density, spike_sd, slab_sd):
    """The positive weight of probability one half, found by bisection."""
    return optimize.brentq(lambda w: inclusion(w, density, spike_sd, slab_sd) - 0.5, 1e-12, 40.0 * spike_sd, xtol=1e-14)


def log_bayes_factor(gradient, curvature, slab_sd):
    """Log of the integral of Normal(w; 0, slab_sd) exp(g w - h w^2 / 2), the integrand scaled to 1 at its mode."""
    precision = curvature + slab_sd**-2
    mode, width = gradient / precision, precision**-0.5

    def exponent(w):
        return gradient * w - 0.5 * curvature * w**2 + stats.norm.logpdf(w, 0.0, slab_sd)

    highest = exponent(mode)
    found, error = integrate.quad(
        lambda w: np.exp(exponent(w) - highest), mode - 12 * width, mode + 12 * width, epsabs=0.0, epsrel=1e-12
    )
    assert error < 1e-9 * found
    return highest + log(found)


def size_to_noise(mean, sd):
    """E|w| / sd |w| of a Normal, by quadrature on both sides of zero (Li et al. 2024)."""

    def moment(power):
        def mass(w):
            return abs(w) ** power * stats.norm.pdf(w, mean, sd)

        far = abs(mean) + 12.0 * sd
        return sum(integrate.quad(mass, *ends, epsabs=0.0, epsrel=1e-12)[0] for ends in ((-far, 0.0), (0.0, far)))

    first, second = moment(1), moment(2)
    return first / sqrt(second - first**2)


def squares_one_by_one(network, likelihood, x, y, name):
    """Sum over examples of the squared gradient of log p(y | x) in a tensor, one backward pass an example."""
    total = torch.zeros_like(network.get_parameter(name))
    for one, target in zip(x, y, strict=True):
        network.zero_grad()
        likelihood.log_prob(network(one[None]), target[None]).sum().backward()
        total += network.get_parameter(name).grad ** 2
    return total


def sparse_elbo(layers, x, y, data_size, draws):
    """The ELBO of a network of ReLUs whose only weights are listed one by one; nothing else exists.

    Args:
        layers: Of each layer its shape `(out, in)`, its bias `(out,)`, the prior sd of a weight, and its active weights
            as ``(row, column, mean, sd)``.
        x: Inputs.
        y: Labels.
        data_size: Number of data.
        draws: Of each draw, of each layer, the standard normal numbers of its active weights, in that order.

    Returns:
        Nats of all the data, the mean over draws, and its KL term.
    """
    kl = 0.0
    for _, _, prior_sd, active in layers:
        for _, _, mean, sd in active:
            kl += log(prior_sd / sd) + (sd**2 + mean**2) / (2.0 * prior_sd**2) - 0.5
    values = []
    for noise in draws:
        out = x
        for number, ((rows, columns), bias, _, active) in enumerate(layers):
            weight = torch.zeros(rows, columns, dtype=torch.float64)
            for (row, column, mean, sd), eps in zip(active, noise[number], strict=True):
                weight[row, column] = mean + sd * eps
            out = (out if number == 0 else out.clamp_min(0.0)) @ weight.T + bias
        values.append(-data_size * float(cross_entropy(out, y)) - kl)
    assert kl < inf
    return sum(values) / len(values), kl
