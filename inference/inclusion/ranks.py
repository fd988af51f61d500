"""Learned ranks: how many components a matrix is the sum of, and the probability of each not to be zero."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bayesprune.inference.fitted import Fitted
from bayesprune.inference.guides.factors import DeltaFactor, Factor, NormalFactor
from bayesprune.inference.inclusion.event_rule import EventRule, event_rule
from bayesprune.inference.restart import Restart
from bayesprune.models.language.inclusion import SomeComponent
from bayesprune.models.language.tensor_prior import TensorPrior

__all__ = ["LearnedRank", "SomeComponentRule", "ranks"]

_NODES = 101
"""Nodes of the Gauss-Hermite rule over the threshold's latent."""


@dataclass(frozen=True)
class LearnedRank:
    """The rank of one matrix.

    Attributes:
        rank: Components whose probability not to be zero exceeds 1/2; of points, those that are not zero.
        of: How many there are.
        kept: Probability of each not to be zero, `(of,)`; zeros and ones of points.
        expected: Expected rank, the sum of `kept`.
        folds: Whether two thin layers of this rank hold fewer weights than the matrix: rank (out + in) < out in.
    """

    rank: int
    of: int
    kept: np.ndarray
    expected: float
    folds: bool

    def __str__(self) -> str:
        return f"{self.rank} of {self.of} ({self.expected:.1f} expected)"


def ranks(fit: Fitted, restart: int = 0) -> dict[str, LearnedRank]:
    """Ranks of the matrices under `LowRank`, or another prior whose event is `some_component`, by name of tensor.

    Args:
        fit: The fit.
        restart: Which restart; default the first.

    Returns:
        The rank of each.

    Raises:
        ValueError: If there is no such prior, or its guide is neither points nor Normals.
    """
    one, found = fit.restart(restart), {}
    for name, prior in one.model.priors.items():
        if isinstance(prior.hierarchy.included, SomeComponent):
            each, _ = _probabilities(one, prior)
            rank, (rows, columns) = int((each > 0.5).sum()), prior.shape[:2]
            cheaper = rank * (rows + columns) < rows * columns
            found[name] = LearnedRank(rank, len(each), each.cpu().numpy(), float(each.sum()), cheaper)
    if not found:
        raise ValueError("no prior of this fit has components of rank one: declare LowRank() on matrices")
    return found


@event_rule(SomeComponent)
class SomeComponentRule(EventRule):
    """Of matrices that are sums of components: all their weights have the probability that one of these is left."""

    of_point = True
    meaning = (
        "under a prior on components all weights of a matrix have one probability, that it is not zero as a whole: "
        "ask bayesprune.ranks(fit) for its rank"
    )

    def included(self, one: Restart, prior: TensorPrior, values: dict[str, Tensor], weight: Tensor) -> Tensor:
        """Where the drawn weight is not zero."""
        return weight != 0

    def probabilities(self, fit: Fitted, restart: int, priors: list[TensorPrior], draws: int) -> dict[str, Tensor]:
        """By quadrature over the threshold; of points zeros and ones."""
        one = fit.restart(restart)
        return {prior.name: _probabilities(one, prior)[1].expand(prior.shape) for prior in priors}


@torch.no_grad()
def _probabilities(one: Restart, prior: TensorPrior) -> tuple[Tensor, Tensor]:
    """P(|m_k| > threshold) of each component, `(rank,)`, and that there is one, `()`.

    The components are independent given the latent that the threshold is a function of, over which Gauss-Hermite
    quadrature goes.
    """
    event = prior.hierarchy.included
    assert isinstance(event, SomeComponent)
    (below,) = prior.hierarchy.parents[event.threshold]
    factors, centre = one.guide.draw(), one.guide.means()
    size, latent = (_closed(factors[prior.sites[name].name], name, prior) for name in (event.raw, below))
    nodes, shares = _nodes(latent)
    each, none = torch.zeros_like(size.value), torch.zeros_like(size.value.sum())
    for at, share in zip(nodes, shares, strict=True):
        kept = _beyond(size, _threshold_at(prior, event.threshold, below, at, centre))
        each += share * kept
        none += share * (1.0 - kept).prod()
    return each.clamp(0.0, 1.0), (1.0 - none).clamp(0.0, 1.0)  # shares add up to one but for rounding


def _closed(factor: Factor, latent: str, prior: TensorPrior) -> DeltaFactor | NormalFactor:
    """The factor, if it is a point or a Normal."""
    if not isinstance(factor, (DeltaFactor, NormalFactor)):
        raise ValueError(
            f"the guide of {latent} on {prior.name} is neither a point nor a Normal, so that its rank has no closed "
            "form: fit with guide='map' or 'meanfield'"
        )
    return factor


def _nodes(factor: DeltaFactor | NormalFactor) -> tuple[list[Tensor], list[float]]:
    """Values of the threshold's latent and their weights, which sum to one."""
    if isinstance(factor, DeltaFactor):
        return [factor.value], [1.0]
    at, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    scale = factor.log_scale.exp()
    return [factor.location + float(x) * scale for x in at], list(weights / weights.sum())


def _threshold_at(prior: TensorPrior, node: str, latent: str, value: Tensor, centre: dict[str, Tensor]) -> Tensor:
    own = {**centre, prior.sites[latent].name: value}
    return prior.run(lambda site, _: own[site], value, {})[1][node]


def _beyond(factor: DeltaFactor | NormalFactor, threshold: Tensor) -> Tensor:
    """P(|m| > threshold), of the shape of m."""
    if isinstance(factor, DeltaFactor):
        return (factor.value.abs() > threshold).to(factor.value)
    normal = torch.distributions.Normal(factor.location, factor.log_scale.exp())
    return normal.cdf(-threshold) + 1.0 - normal.cdf(threshold)
