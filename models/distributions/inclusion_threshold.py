"""Where a weight passes from spike to slab: the size from which on it is included, and the density that implies one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["implied_density", "inclusion_threshold"]

Number = float | Tensor


def inclusion_threshold(density: Number, spike_sd: Number, slab_sd: Number) -> Tensor:
    """The size tau of a weight at which its probability of the slab, given the weight, is one half.

    tau^2 = log((1 - density) / density slab_sd / spike_sd) / (1 / (2 spike_sd^2) - 1 / (2 slab_sd^2)), of the mixture
    density Normal(0, slab_sd) + (1 - density) Normal(0, spike_sd) (George & McCulloch 1993, equation 6). Keeping the
    weights above it is the median-probability model of the mixture given the weights (Barbieri & Berger 2004).

    Args:
        density: Prior probability of the slab, strictly between 0 and 1.
        spike_sd: Standard deviation of the spike.
        slab_sd: That of the slab, larger.

    Returns:
        Of the arguments' common shape, float64. Zero where every weight is rather of the slab, however small: from a
        density of slab_sd / (slab_sd + spike_sd) on.

    Raises:
        ValueError: If an argument is out of range.
    """
    prior, width, excess = _checked(spike_sd, slab_sd, density)
    return ((width - torch.logit(prior)).clamp_min(0.0) / excess).sqrt()


def implied_density(threshold: Number, spike_sd: Number, slab_sd: Number) -> Tensor:
    """The prior probability of the slab under which a weight of that size is included with probability one half.

    logit(density) = log(slab_sd / spike_sd) - tau^2 (1 / (2 spike_sd^2) - 1 / (2 slab_sd^2)), the inverse of
    `inclusion_threshold`: what magnitude pruning down to a threshold says of the prior. It is no posterior share of
    weights: a threshold of many spike_sd implies a density that is zero for all practical purposes.

    Args:
        threshold: tau, at least zero.
        spike_sd: Standard deviation of the spike.
        slab_sd: That of the slab, larger.

    Returns:
        Of the arguments' common shape, float64, in (0, 1).

    Raises:
        ValueError: If an argument is out of range.
    """
    _, width, excess = _checked(spike_sd, slab_sd)
    tau = torch.as_tensor(threshold, dtype=torch.float64)
    if not bool((tau >= 0.0).all()) or not bool(tau.isfinite().all()):
        raise ValueError(f"implied_density takes thresholds of at least zero, not {_said(tau.min())}")
    return (width - tau.square() * excess).sigmoid()


def _checked(spike_sd: Number, slab_sd: Number, density: Number = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """The density, log(slab_sd / spike_sd) and 1 / (2 spike_sd^2) - 1 / (2 slab_sd^2), float64."""
    prior, spike, slab = (torch.as_tensor(one, dtype=torch.float64) for one in (density, spike_sd, slab_sd))
    if not bool(((0.0 < spike) & (spike < slab) & (slab < math.inf)).all()):
        raise ValueError(
            f"a spike is narrower than its slab: expected 0 < spike_sd < slab_sd, not {_said(spike.max())} and "
            f"{_said(slab.min())}"
        )
    if not bool(((0.0 < prior) & (prior < 1.0)).all()):
        raise ValueError(f"a density of the slab is strictly between 0 and 1, not {_said(prior.max())}")
    return prior, (slab / spike).log(), 0.5 * (spike.square().reciprocal() - slab.square().reciprocal())


def _said(number: Tensor) -> str:
    return f"{float(number):g}"
