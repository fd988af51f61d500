"""Structured Bayesian pruning: log-uniform noise a group, cut off so that the prior is proper."""

from __future__ import annotations

import math

import torch

from bayesprune.models.checks.setting_types import Extent
from bayesprune.models.distributions.log_uniform import TruncatedLogUniform
from bayesprune.models.distributions.truncated_log_normal import TruncatedLogNormal
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import relative_threshold
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.ready_registry import ready
from bayesprune.models.priors.group_noise import FLAT, FLAT_SLAB, check_level, check_slab, weight_decayed

START_SPREAD = math.exp(-5.0)
"""Standard deviation of log theta at the start, of the code of Neklyudov et al."""


@ready("structured-bayesian-pruning", "log-uniform noise a row, column or kernel, cut off so that it is proper")
class StructuredBayesianPruning(Hierarchy):
    """weight = theta w with log theta ~ Uniform(low, high) a group; w ~ Normal(0, slab_sd) are points.

    Neklyudov, Molchanov, Ashukha & Vetrov 2017. q(theta) is a truncated log-Normal; the test-time value of the noise is
    E theta. A group whose signal-to-noise ratio E theta / sd(theta) is below 1 is removed in the paper, by
    ``criterion="dropout-rate"``.

    Args:
        low: Logarithm of the smallest theta; default -20.
        high: Logarithm of the largest; default 0.
        slab_sd: Standard deviation of w; default None: sqrt(2 / fan_in), He's scale; infinity is no decay (improper).
        per: Level of theta: ``"output"`` (default), ``"input"`` or ``"kernel"``.

    Raises:
        ValueError: If an argument is out of range.
    """

    noise = "theta"

    def __init__(self, low: float = -20.0, high: float = 0.0, slab_sd: Extent = None, per: str = "output") -> None:
        if not -60.0 <= low < high <= 60.0:
            raise ValueError(
                f"StructuredBayesianPruning needs logarithms -60 <= low < high <= 60, not {low} and {high}"
            )
        check_slab("StructuredBayesianPruning", slab_sd)
        check_level("StructuredBayesianPruning(per=...)", per)
        start = min(max(0.0, low), high)
        at = torch.tensor([start, math.log(START_SPREAD)], dtype=torch.float64)
        first = TruncatedLogNormal(at[0], at[1], low, high)
        super().__init__(
            theta=Latent(
                lambda: TruncatedLogUniform(low, high),
                per,
                guide="truncatedlognormal",
                init=math.exp(start),
                spread=START_SPREAD,
            ),
            w=weight_decayed(slab_sd, float(first.mean)),
            weight=lambda theta, w: theta * w,
            included=relative_threshold(0.1),
            improper=FLAT_SLAB if slab_sd == FLAT else None,
        )
