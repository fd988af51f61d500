"""A distribution over one site: entries of one shape, independent given the distribution's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from bayesprune.models.language.gate_support import GateSupport


class Iid(dist.Independent):
    """Entries of shape `shape` that are independent given the parameters of `base`.

    It is `base.expand(shape).to_event()`, but its parameters are not expanded first: the log density of a
    Normal with one scale takes one logarithm, not one for each of 235,200 weights.

    Args:
        base: A univariate Pyro distribution whose batch shape broadcasts to `shape`.
        shape: Shape of one draw.
        batch_shape: Leading independent copies (Pyro's plates ask for them); default none.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, base: Any, shape: Sequence[int], batch_shape: Sequence[int] = ()) -> None:
        # The base is not expanded, so Independent's own constructor (which would ask for that) is passed over;
        # being one of its kind lets Pyro's graph drawing and tests look through to the base.
        self.base_dist = base
        self.reinterpreted_batch_ndims = len(shape)
        torch.distributions.Distribution.__init__(self, torch.Size(batch_shape), torch.Size(shape), validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws carry gradients to the parameters of the base."""
        return bool(self.base_dist.has_rsample)

    @property
    def support(self) -> Any:
        """The base's support in every entry."""
        support, dimensions = self.base_dist.support, len(self.event_shape)
        if support is constraints.boolean:
            return GateSupport(support, dimensions)
        return constraints.independent(support, dimensions)

    def _expanded(self) -> Any:
        return self.base_dist.expand(self.batch_shape + self.event_shape)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape `sample_shape + batch_shape + shape`, without gradient."""
        return self._expanded().sample(torch.Size(sample_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape `sample_shape + batch_shape + shape`, with gradient."""
        return self._expanded().rsample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, summed over the entries of one draw."""
        entries = self.base_dist.log_prob(value)
        return entries.sum(dim=tuple(range(-len(self.event_shape), 0))) if self.event_shape else entries

    @property
    def mean(self) -> Tensor:
        """Mean of every entry."""
        return self.base_dist.mean.expand(self.batch_shape + self.event_shape)

    @property
    def variance(self) -> Tensor:
        """Variance of every entry."""
        return self.base_dist.variance.expand(self.batch_shape + self.event_shape)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Iid:
        """Returns independent copies, `batch_shape` of them."""
        return Iid(self.base_dist, self.event_shape, batch_shape)

    def __repr__(self) -> str:
        return f"Iid({self.base_dist}, shape={tuple(self.event_shape)})"
