"""Laplace prior: the lasso."""

from __future__ import annotations

import math

import pyro.distributions as dist

from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import relative_threshold
from bayesprune.models.language.knobs import Knob
from bayesprune.models.language.ready_registry import ready


@ready("laplace", "weight ~ Laplace(0, scale): the lasso")
class Laplace(Hierarchy):
    """weight ~ Laplace(0, scale): the Bayesian lasso (Tibshirani 1996; Park & Casella 2008).

    By MAP it is the penalty |weight| / scale in full-data nats.

    Args:
        scale: Scale of the distribution; its standard deviation is sqrt(2) times that. Default None: the sd is
            sqrt(2 / fan_in), He's scale.

    Raises:
        ValueError: If `scale` is not positive.
    """

    def __init__(self, scale: float | None = None) -> None:
        if scale is not None and not scale > 0:
            raise ValueError(f"Laplace(scale=...) must be positive, not {scale}")
        super().__init__(
            weight=lambda fan_in, strength: dist.Laplace(
                0.0, (math.sqrt(1.0 / fan_in) if scale is None else scale) * strength.reciprocal()
            ),
            included=relative_threshold(0.1),
            knobs={"strength": Knob()},
            budget="strength",
        )
