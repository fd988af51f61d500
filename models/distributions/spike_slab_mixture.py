"""The mixture of two Normals that is left of a continuous spike and slab when its indicator is integrated out."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


class SpikeSlabMixture(TorchDistribution):
    """density Normal(0, slab_sd) + (1 - density) Normal(0, spike_sd) (George & McCulloch 1993).

    Args:
        density: Probability of the slab, strictly between 0 and 1.
        spike_sd: Standard deviation of the spike.
        slab_sd: Standard deviation of the slab; that of a spike is smaller.
    """

    arg_constraints = {
        "density": constraints.unit_interval,
        "spike_sd": constraints.positive,
        "slab_sd": constraints.positive,
    }
    support = constraints.real
    has_rsample = False

    def __init__(self, density: Any, spike_sd: Any, slab_sd: Any, validate_args: bool | None = None) -> None:
        self.density, self.spike_sd, self.slab_sd = broadcast_all(density, spike_sd, slab_sd)
        super().__init__(self.density.shape, validate_args=validate_args)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape `sample_shape + batch_shape`."""
        density = self.density.detach().expand(self._extended_shape(torch.Size(sample_shape)))
        sd = torch.where(torch.bernoulli(density) == 1, self.slab_sd.detach(), self.spike_sd.detach())
        return sd * torch.randn_like(density)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats.

        By Bayes' rule, log p(slab, value) - log p(slab | value): half the time of `torch.logaddexp` of the two parts
        with its gradient, and like it without underflow however narrow the spike.
        """
        squares = value.square()
        log_slab = self.density.log() - self.slab_sd.log() - _LOG_SQRT_2PI - 0.5 / self.slab_sd.square() * squares
        return log_slab - logsigmoid(self._log_odds(squares))

    def log_odds(self, value: Tensor) -> Tensor:
        """Log p(slab | value) - log p(spike | value) in nats."""
        return self._log_odds(value.square())

    def responsibility(self, value: Tensor) -> Tensor:
        """P(slab | value), in [0, 1]."""
        return self.log_odds(value).sigmoid()

    @property
    def mean(self) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.density)

    @property
    def variance(self) -> Tensor:
        """Average of the two parts' variances."""
        return self.density * self.slab_sd.square() + (1.0 - self.density) * self.spike_sd.square()

    def expand(self, batch_shape: Any, _instance: Any = None) -> SpikeSlabMixture:
        """Returns a distribution of the given batch shape."""
        density, spike_sd = self.density.expand(batch_shape), self.spike_sd.expand(batch_shape)
        return SpikeSlabMixture(density, spike_sd, self.slab_sd.expand(batch_shape), validate_args=False)

    def _log_odds(self, squares: Tensor) -> Tensor:
        at_zero = torch.logit(self.density) + self.spike_sd.log() - self.slab_sd.log()
        return at_zero + 0.5 * (self.spike_sd.square().reciprocal() - self.slab_sd.square().reciprocal()) * squares
