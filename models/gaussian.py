"""Gaussian prior: weight decay as a model."""

from __future__ import annotations

import math

import pyro.distributions as dist

from bayesprune.models.hierarchy import Hierarchy
from bayesprune.models.inclusion import relative_threshold


class Gaussian(Hierarchy):
    """weight ~ Normal(0, sd).

    Args:
        sd: Standard deviation of a weight; default None: sqrt(2 / fan_in), He's scale.

    Raises:
        ValueError: If `sd` is not positive.
    """

    def __init__(self, sd: float | None = None) -> None:
        if sd is not None and not sd > 0:
            raise ValueError(f"Gaussian(sd=...) must be positive, not {sd}")
        super().__init__(
            weight=lambda fan_in: dist.Normal(0.0, math.sqrt(2.0 / fan_in) if sd is None else sd),
            included=relative_threshold(0.1),
        )
        self.config = {"name": "Gaussian", "arguments": {"sd": sd}}
