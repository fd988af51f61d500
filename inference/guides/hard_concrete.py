"""Hard concrete gates as a guide: draws in [0, 1] with gradients, and exact zeros (Louizos, Welling & Kingma 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from bayesprune.inference.guides.factors import Factor
from bayesprune.inference.guides.families import Family
from bayesprune.inference.guides.registry import family
from bayesprune.models.distributions.hard_concrete import hard_concrete, log_odds_of_open, trained_gate


class HardConcrete(TorchDistribution):
    """Gates in [0, 1] with atoms at both ends.

    Its `log_prob` is zero, as that of a Delta at its point: what is minimised is an expected penalty, with no entropy.

    Args:
        log_alpha: Location of the concrete variable's logit.
    """

    arg_constraints = {"log_alpha": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, log_alpha: Tensor, validate_args: bool | None = None) -> None:
        self.log_alpha = log_alpha
        super().__init__(log_alpha.shape, validate_args=validate_args)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape `sample_shape + batch_shape`, with gradient."""
        log_alpha = self.log_alpha.expand(self._extended_shape(sample_shape))
        return hard_concrete(log_alpha, torch.randn_like(log_alpha))

    def log_prob(self, value: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(value)

    def expand(self, batch_shape: Any, _instance: Any = None) -> HardConcrete:
        """Returns a distribution of the given batch shape."""
        return HardConcrete(self.log_alpha.expand(batch_shape), False)


@dataclass(frozen=True)
class HardConcreteFactor(Factor):
    """Hard concrete gates. As points they have no density: their term is the expectation of minus the log prior.

    Attributes:
        log_alpha: Location of the concrete variable's logit.
    """

    log_alpha: Tensor
    has_density: ClassVar[bool] = False

    @property
    def probability(self) -> Tensor:
        """Probability that the gate is not zero."""
        return log_odds_of_open(self.log_alpha).sigmoid()

    def distribution(self) -> HardConcrete:
        """The gates."""
        return HardConcrete(self.log_alpha)


@family("hardconcrete", supports=("unit",), has_density=False)
class HardConcreteFamily(Family):
    """Independent hard concrete gates; a starting value is sigmoid(log alpha)."""

    def build(self, start: Tensor) -> None:
        """Creates `log_alpha`."""
        self.log_alpha = nn.Parameter(torch.logit(start))

    def draw(self) -> dict[str, Factor]:
        """Draws every gate by one vector of noise."""
        drawn = zip(self.sites, self.pieces("log_alpha"), self.noise("log_alpha"), strict=True)
        return {site.name: HardConcreteFactor(hard_concrete(piece, noise), piece) for site, piece, noise in drawn}

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """A location: gates that run ahead of the weights close on those that only start on the wrong side of zero."""
        return {"location": [self.log_alpha]}

    def centres(self) -> dict[str, Tensor]:
        """The gates of a trained network: `trained_gate`."""
        cut = zip(self.sites, self.cut(self.log_alpha.detach()), strict=True)
        return {site.name: trained_gate(part) for site, part in cut}

    def log_odds(self) -> dict[str, Tensor]:
        """Log odds that a gate is not zero, in closed form."""
        cut = zip(self.sites, self.cut(self.log_alpha.detach()), strict=True)
        return {site.name: log_odds_of_open(part) for site, part in cut}

    def summaries(self) -> dict[str, float]:
        """The mean probability that a gate is not zero, of each site."""
        return {f"mean {name}": float(odds.sigmoid().mean()) for name, odds in self.log_odds().items()}
