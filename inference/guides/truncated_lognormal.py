"""Truncated log-Normals as a guide, for positive sites between two ends (Neklyudov et al. 2017)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bayesprune.inference.guides.factors import Factor
from bayesprune.inference.guides.families import LocatedFamily, starting_log_scale
from bayesprune.inference.guides.registry import family
from bayesprune.models.distributions.truncated_log_normal import TruncatedLogNormal


@dataclass(frozen=True)
class TruncatedLogNormalFactor(Factor):
    """exp of a Normal(location, exp(log_scale)) that is cut off at the site's ends.

    Attributes:
        location: Centre of the Normal.
        log_scale: Logarithm of its scale.
        logarithm: The drawn logarithm of the value.
        ends: Logarithms of the site's ends.
    """

    location: Tensor
    log_scale: Tensor
    logarithm: Tensor
    ends: tuple[float, float]

    @property
    def log_value(self) -> Tensor:
        """Logarithm of the drawn value."""
        return self.logarithm

    def distribution(self) -> TruncatedLogNormal:
        """The truncated log-Normal."""
        return TruncatedLogNormal(self.location, self.log_scale, *self.ends)


@family("truncatedlognormal", supports=("interval",))
class TruncatedLogNormalFamily(LocatedFamily):
    """Independent truncated log-Normals; the centre of the Normal may lie beyond the ends."""

    def build(self, start: Tensor) -> None:
        """Creates `location` and `log_scale`, those of the logarithm."""
        location = start.log()
        self.location = nn.Parameter(location)
        self.log_scale = nn.Parameter(starting_log_scale(self, location))

    def draw(self) -> dict[str, Factor]:
        """Draws every site by one vector of noise."""
        factors: dict[str, Factor] = {}
        for q, noise, site in zip(self._distributions(), self.noise("location"), self.sites, strict=True):
            logarithm = q.logarithm_at(noise)
            factors[site.name] = TruncatedLogNormalFactor(
                logarithm.exp(), q.location, q.log_scale, logarithm, (q.low, q.high)
            )
        return factors

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Both are locations, as those of a log-Normal are."""
        return {"location": [self.location, self.log_scale]}

    @torch.no_grad()
    def centres(self) -> dict[str, Tensor]:
        """E of every site, the test-time value of the paper."""
        return {site.name: q.mean for site, q in zip(self.sites, self._distributions(), strict=True)}

    def _distributions(self) -> list[TruncatedLogNormal]:
        found = []
        for site, location, log_scale in zip(
            self.sites, self.pieces("location"), self.pieces("log_scale"), strict=True
        ):
            assert site.bounds is not None  # else the site's support is no interval, and the guide was refused
            low, high = site.bounds
            found.append(TruncatedLogNormal(location, log_scale, math.log(low), math.log(high)))
        return found
