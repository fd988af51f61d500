"""What priors with one noise a group share: levels, the spread to start from, weights that are points."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist

from bayesprune.models.checks.setting_types import Extent
from bayesprune.models.distributions.power_density import PowerDensity
from bayesprune.models.language.latent import Latent

GROUP_LEVELS = ("output", "input", "kernel")
START_SPREAD = math.exp(-4.5)
"""Standard deviation of the noise at the start: its dropout rate log alpha is -9, as in the code of
Louizos, Ullrich & Welling 2017 and of Dai, Zhu, Guo & Wipf 2018."""


def check_level(what: str, level: str, levels: tuple[str, ...] = GROUP_LEVELS) -> None:
    """Refuses a level that is not one of `levels`.

    Args:
        what: The argument, for the error message: ``"VIB(per=...)"``.
        level: What it was given.
        levels: What it takes; default `GROUP_LEVELS`.

    Raises:
        ValueError: If it is not.
    """
    if level not in levels:
        raise ValueError(f"{what} takes one of {', '.join(levels)}, not {level!r}")


FLAT = "inf"
"""A slab without decay as files have it, which hold finite numbers only."""
FLAT_SLAB = "slab_sd=inf leaves the weights a flat density"


def check_slab(prior: str, slab_sd: Extent) -> None:
    """Refuses a standard deviation of weights that are points.

    Args:
        prior: Name of the prior, for the error message.
        slab_sd: What it was given: a number, None for He's scale, or `FLAT`.

    Raises:
        ValueError: If it is not positive.
    """
    if slab_sd is not None and slab_sd != FLAT and not float(slab_sd) > 0:
        raise ValueError(f"{prior}(slab_sd=...) must be positive, or inf for no decay, not {slab_sd}")


def weight_decayed(slab_sd: Extent, noise: float = 1.0) -> Latent:
    """The latent of weights that are points: w ~ Normal(0, slab_sd), from the network's weights divided by `noise`.

    Args:
        slab_sd: Standard deviation; None: sqrt(2 / fan_in), He's scale, or `FLAT`.
        noise: Test-time value of the noise that multiplies them, at the start; default 1.
    """

    def decay(fan_in: int) -> Any:
        if slab_sd == FLAT:
            return PowerDensity()
        return dist.Normal(0.0, math.sqrt(2.0 / fan_in) if slab_sd is None else float(slab_sd))

    return Latent(decay, guide="delta", init=lambda weight: weight / noise)
