"""What the evidence really is when a weight is removed: dense Gaussian algebra, and numeric integrals.

Model: y ~ N(X w, sigma^2 I), w_j ~ N(0, s_j^2) independent, sigma known. Nothing here uses the formula under test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm

Array = npt.NDArray[np.float64]


def log_marginal(x: Array, y: Array, noise_sd: float, prior_sds: Sequence[float] | Array) -> float:
    """Log p(y | x) in nats from the n x n covariance of y; a prior sd of zero leaves a feature out.

    Args:
        x: (n, p) design.
        y: (n,) response.
        noise_sd: sigma.
        prior_sds: (p,) prior sd of each weight.
    """
    scaled = x * np.asarray(prior_sds)
    covariance = noise_sd**2 * np.eye(len(y)) + scaled @ scaled.T
    return float(multivariate_normal(np.zeros(len(y)), covariance).logpdf(y))


def exact_changes(x: Array, y: Array, noise_sd: float, prior_sd: float, reduced_sd: float = 0.0) -> Array:
    """Log evidence of the model with weight j reduced less that of the full one, (p,), each from two marginals."""
    p = x.shape[1]
    full = log_marginal(x, y, noise_sd, np.full(p, prior_sd))
    changes = np.empty(p)
    for j in range(p):
        sds = np.full(p, prior_sd)
        sds[j] = reduced_sd
        changes[j] = log_marginal(x, y, noise_sd, sds) - full
    return changes


def posterior(x: Array, y: Array, noise_sd: float, prior_sd: float) -> tuple[Array, Array]:
    """Mean (p,) and covariance (p, p) of the weights."""
    covariance = np.linalg.inv(x.T @ x / noise_sd**2 + np.eye(x.shape[1]) / prior_sd**2)
    return covariance @ x.T @ y / noise_sd**2, covariance


def change_by_quadrature(location: float, sd: float, prior_sd: float, reduced_sd: float) -> float:
    """Log of the integral of q(w) N(w; 0, r^2) / N(w; 0, s^2), adaptively; r > 0. Nats."""

    weight = (1.0 / sd**2) / (1.0 / sd**2 + 1.0 / reduced_sd**2 - 1.0 / prior_sd**2)
    peak = weight * location

    def log_integrand(w: float) -> float:
        ratio = norm.logpdf(w, 0.0, reduced_sd) - norm.logpdf(w, 0.0, prior_sd)
        return float(norm.logpdf(w, location, sd) + ratio)

    height = log_integrand(peak)  # taken out of the integral, which can be far below the smallest float
    ends = 12.0 * max(sd, reduced_sd)
    near = 3.0 * min(sd, reduced_sd)
    value, _ = quad(
        lambda w: float(np.exp(log_integrand(w) - height)),
        peak - ends,
        peak + ends,
        points=[peak - near, peak, peak + near],
        epsabs=0.0,
        epsrel=1e-12,
        limit=500,
    )
    return height + float(np.log(value))


def fisher_by_enumeration(
    network: torch.nn.Module, x: torch.Tensor, labels: Callable[[int], Sequence[int]] | None = None
) -> dict[str, torch.Tensor]:
    """Diagonal Fisher information of one datum of a classifier: a loop over examples, labels and gradients.

    Args:
        network: Its outputs are logits (n, classes).
        x: (n, ...) inputs.
        labels: Which labels to count for example i, each with weight one (the empirical Fisher takes the observed
            one); default None: all of them with the network's own probabilities.
    """
    parameters = dict(network.named_parameters())
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for i in range(len(x)):
        probabilities = network(x[i : i + 1]).softmax(-1)[0].detach()
        for label in range(len(probabilities)) if labels is None else labels(i):
            log_prob = network(x[i : i + 1]).log_softmax(-1)[0, label]
            gradients = torch.autograd.grad(log_prob, list(parameters.values()))
            share = probabilities[label] if labels is None else 1.0
            for name, gradient in zip(parameters, gradients, strict=True):
                sums[name] += share * gradient.detach() ** 2
    return {name: total / len(x) for name, total in sums.items()}
