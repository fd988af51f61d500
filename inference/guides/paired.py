"""The paired guide q(z) q(slab | z) of spike and slab.

Titsias & Lazaro-Gredilla 2011. q(z) = Bernoulli(a), q(slab | z = 1) = Normal(m, v), q(slab | z = 0) = the slab's
prior, so that a weight left out adds nothing but its gate to the KL divergence:

    KL = KL(Bernoulli(a) || Bernoulli(lambda)) + a KL(Normal(m, v) || slab prior)

It is exact for orthogonal regression, where a guide that does not condition the slab on the gate is far off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from bayesprune.inference.guides.factors import Factor, NormalFactor
from bayesprune.inference.guides.families import (
    GatedFamily,
    LocatedFamily,
    draw_normals,
    mean_probabilities,
    starting_log_scale,
)
from bayesprune.inference.guides.registry import family
from bayesprune.inference.guides.slices import Layout
from bayesprune.models.language.iid import Iid
from bayesprune.models.language.levels import repeated
from bayesprune.models.language.tensor_prior import Site


@dataclass(frozen=True)
class Pair:
    """The sites of one spike and slab: the gate, the slab, and how the gate spreads over the slab."""

    gate: Site
    slab: Site
    block: tuple[int, int]
    gates: int = 1

    def spread(self, gate: Tensor) -> Tensor:
        """One entry a gate to a tensor that broadcasts against the slab."""
        return repeated(gate, self.gate.per, self.slab.shape, self.block, self.gates)


@dataclass(frozen=True)
class SlabFactor(NormalFactor):
    """q(slab | z): Normal(location, scale) where z is one, the slab's prior where it is zero.

    Attributes:
        inclusion: q(z = 1) of each slab entry (broadcasts against the slab).
        pair: The sites.
    """

    inclusion: Tensor
    pair: Pair

    def conditioned(self, values: Mapping[str, Tensor], prior: Iid) -> dist.TorchDistribution:
        """q(slab | z) as a Pyro distribution over the site; the drawn gates (zeros and ones) are among the values."""
        gate = values[self.pair.gate.name]
        return GatedSlab(self.distribution(), prior.base_dist, self.pair.spread(gate) > 0.5)

    def term_from_draw(self, prior: Iid, value: Tensor) -> Tensor:
        """A E[log q(w | z = 1) - log p(w)]: the gate's average is exact, the slab's is from the draw."""
        entries = self.distribution().log_prob(value) - prior.base_dist.log_prob(value)
        return (self.inclusion * entries).sum()

    def landing_term(self, prior: Iid, value: Tensor) -> Tensor:
        """As `term_from_draw`, with location and scale held fixed; the inclusion keeps its gradient."""
        return self.held().term_from_draw(prior, value)


class GatedSlab(dist.TorchDistribution):
    """Entry-wise choice between two univariate distributions: `included` where `on`, else `excluded`."""

    arg_constraints: dict[str, Any] = {}
    has_rsample = False

    def __init__(self, included: dist.TorchDistribution, excluded: dist.TorchDistribution, on: Tensor) -> None:
        shape = included.batch_shape
        self.included, self.excluded, self.on = included, excluded.expand(shape), on.expand(shape)
        super().__init__(shape, validate_args=False)

    @property
    def support(self) -> Any:
        """That of the included distribution."""
        return self.included.support

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws of shape `sample_shape + batch_shape`."""
        size = torch.Size(sample_shape)
        return torch.where(self.on, self.included.sample(size), self.excluded.sample(size))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, entry by entry."""
        return torch.where(self.on, self.included.log_prob(value), self.excluded.log_prob(value))


@family("paired", supports=())
class PairedFamily(GatedFamily, LocatedFamily):
    """Gates and slabs of every spike and slab in the network; its `sites` are the slabs."""

    def __init__(self, pairs: Sequence[Pair], starts: dict[str, Tensor]) -> None:
        super().__init__([pair.slab for pair in pairs], starts)
        self.pairs = tuple(pairs)
        gates = [starts[pair.gate.name].detach().expand(pair.gate.shape).reshape(-1) for pair in pairs]
        self.begin_gates(Layout(pair.gate for pair in pairs), torch.cat(gates))

    def build(self, start: Tensor) -> None:
        """Creates `location` and `log_scale` of the slabs."""
        self.location = nn.Parameter(start)
        self.log_scale = nn.Parameter(starting_log_scale(self, start))

    def draw(self) -> dict[str, Factor]:
        """Draws the slabs as if included; the gates are left to the gate estimator."""
        factors: dict[str, Factor] = {}
        for pair, slab, gate in zip(self.pairs, draw_normals(self), self.gate_factors(), strict=True):
            _, value, location, log_scale, sums = slab
            factors[pair.gate.name] = gate
            factors[pair.slab.name] = SlabFactor(value, location, log_scale, sums, pair.spread(gate.probability), pair)
        return factors

    def layout_of(self, parameter: str) -> Layout:
        """The gates for `logit`, else the slabs."""
        return self.gate_layout if parameter == "logit" else self.layout

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Slab locations move in the weights' units, log scales and log odds as spreads."""
        return {"location": [self.location], "spread": [self.log_scale, *self.gate_logits()]}

    def summaries(self) -> dict[str, float]:
        """The mean probability of each site of gates, and the slabs' locations."""
        return mean_probabilities(self.gate_layout, self.logit) | super().summaries()
