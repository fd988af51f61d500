"""Whether a maximum a posteriori exists: the log joint is probed along scales -> 0."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import pyro
import torch
from torch import Tensor

from bayesprune.inference.guides.registry import is_point
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.iid import Iid
from bayesprune.models.language.latent import WEIGHT
from bayesprune.models.language.tensor_prior import TensorPrior

DECADES = (4, 8, 12)
"""Powers of ten by which scales are shrunk."""
LARGEST = 32
"""Rows and columns of the tensor that is probed, at most."""
MOST_SCALES = 6
"""Subsets of at most this many scales are all tried; of more, single ones and all together."""


def check_map_exists(model: BayesianNetwork, family_of: Mapping[str, str]) -> None:
    """Refuses points for a prior whose log joint grows without bound as its scales, or a weight, go to zero.

    Every set of positive latents that the guide makes points of is shrunk towards zero together with the weights.
    A log joint that gains a constant amount a decade, however small the scale, has no maximum: this is so for the
    horseshoe and for every scale mixture with free scales whose weights are drawn given their scale.

    Args:
        model: The model.
        family_of: Guide family of each site.

    Raises:
        ValueError: If the MAP does not exist; the sentence names the scales and the remedy.
    """
    for prior in model.priors.values():
        scales = [s for s in prior.scales if is_point(family_of[prior.sites[s].name])]
        points = [
            latent for latent, site in prior.sites.items() if site.support == "real" and is_point(family_of[site.name])
        ]
        for latent in points:
            if _is_infinite_at_zero(prior, latent):
                raise ValueError(
                    f"{prior.sites[latent].name} has no MAP: its prior density is infinite at zero; leave {latent} its "
                    "Normal guide"
                )
        for subset in _subsets(scales):
            if _grows_without_bound(prior, subset, points):
                raise ValueError(
                    f"{prior.name} has no MAP: its log joint grows without bound as {' and '.join(subset)} -> 0 "
                    "with the weights; fit with guide='meanfield', which keeps the scales variational, or use the "
                    "marginal prior of the weights"
                )


def _is_infinite_at_zero(prior: TensorPrior, latent: str) -> bool:
    """Whether a real latent's own log density is infinite at zero, as that of a log-uniform weight is."""
    found: list[float] = []

    def given(site: str, fn: Iid) -> Tensor:
        at_zero = site == prior.sites[latent].name
        value = torch.full(fn.event_shape, 0.0 if at_zero else 0.5, dtype=torch.float64)
        if at_zero:
            found.append(float(fn.log_prob(value)))
        return value

    with pyro.validation_enabled(False):  # a latent at zero may be another's scale
        prior.run(given, torch.empty(0, dtype=torch.float64), {})
    return found[0] == math.inf


def _subsets(scales: list[str]) -> list[tuple[str, ...]]:
    if len(scales) > MOST_SCALES:
        return [*((s,) for s in scales), tuple(scales)]
    return [c for size in range(1, len(scales) + 1) for c in itertools.combinations(scales, size)]


def _grows_without_bound(prior: TensorPrior, shrunk: tuple[str, ...], points: list[str]) -> bool:
    """Probes the hierarchy on a tensor of the same shape, cut to `LARGEST`.

    A scale's hyper-prior stands against all the weights that share it, so a copy of a few weights would not do.
    """
    shape = tuple(min(LARGEST, n) for n in prior.shape)
    probe = TensorPrior("probe", prior.hierarchy, shape, int(prior.reserved["data_size"]))
    probe.reserved = dict(prior.reserved)
    like = torch.empty(0, dtype=torch.float64)
    heights = []
    for decade in DECADES:
        values: dict[str, Tensor] = {}
        for latent, site in probe.sites.items():
            size = 10.0**-decade if latent in shrunk else 1.0
            if latent in points:
                size = 0.0 if latent == WEIGHT or latent == probe.standard_normal else 1.0
            values[latent] = torch.full(site.shape, size if site.support != "unit" else 0.5, dtype=like.dtype)
        heights.append(sum(float(term) for term in probe.evaluate(values, like)[1].values()))
    if any(math.isnan(h) for h in heights):
        return False
    gains = [
        (b - a) / ((second - first) * math.log(10.0))
        for (a, b), (first, second) in zip(itertools.pairwise(heights), itertools.pairwise(DECADES), strict=True)
    ]
    return heights[-1] == math.inf or min(gains) > 0.1


__all__ = ["check_map_exists"]
