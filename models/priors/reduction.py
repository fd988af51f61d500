"""The prior of Bayesian model reduction: a Gaussian, with the comparison of models as its inclusion event."""

from __future__ import annotations

import math

import pyro.distributions as dist

from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import reduced_to_zero
from bayesprune.models.language.ready_registry import ready


@ready("reduction", "Normal(0, sd), with PIPs by Bayesian model reduction; --weights needs no fit")
class Reduction(Hierarchy):
    """weight ~ Normal(0, sd), included where the evidence prefers the model that has it (Friston & Penny 2011).

    The full model is fitted, or put around a trained network by `laplace_around`; every model that lacks a weight, or a
    group, is then compared in closed form. Under a mean-field guide that is the posterior of spike and slab with this
    slab, the models' evidences being taken from the one fit.

    Args:
        expected_density: Prior probability that a weight, or a group, is in the network; default 0.1.
        sd: Standard deviation of a weight; default None: sqrt(2 / fan_in), He's scale. One that is much wider than
            the weights asks for their removal (Lindley's paradox).
        level: What is taken out as one: ``"weight"`` (default), ``"kernel"``, ``"output"`` or ``"input"``.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, expected_density: float = 0.1, sd: float | None = None, level: str = "weight") -> None:
        if sd is not None and not sd > 0:
            raise ValueError(f"Reduction(sd=...) must be positive, not {sd}")
        super().__init__(
            weight=lambda fan_in: dist.Normal(0.0, math.sqrt(2.0 / fan_in) if sd is None else sd),
            included=reduced_to_zero(expected_density, level),
        )
