"""The kinds of guide factors on which a term can be checked: parameters at random, a draw, and log q - log p."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to

from bayesprune.inference.guides.factors import (
    BernoulliFactor,
    DeltaFactor,
    Factor,
    LogitNormalFactor,
    LogNormalFactor,
    NormalFactor,
)
from bayesprune.inference.guides.low_rank_normal import LowRankNormalFactor
from bayesprune.inference.guides.paired import Pair, SlabFactor
from bayesprune.inference.terms.random_priors import Leaves, normal_numbers
from bayesprune.models.language.tensor_prior import Site

__all__ = ["KINDS", "FactorKind"]


class FactorKind:
    """What is known of a class of factors and of those derived from it.

    Attributes:
        factor: The class.
        is_exact: Whether a term is compared with `expected` in place of an average over draws.
    """

    factor: ClassVar[type[Factor]]
    is_exact: ClassVar[bool] = False

    def parameters(self, shape: tuple[int, ...], support: Callable[[], Any], generator: torch.Generator) -> Leaves:
        """Random parameters.

        Args:
            shape: Of the site.
            support: Gives that of the prior.
            generator: The random numbers.
        """
        raise TypeError(f"{type(self).__name__} must define parameters")

    def make(self, kind: Any, guide: Leaves, noise: Any) -> Any:
        """A factor of a class derived from `factor`, at given parameters and standard normal noise."""
        raise TypeError(f"{type(self).__name__} must define make")

    def copies(self, kind: Any, guide: Leaves, noise: Tensor) -> Any:
        """A factor of n copies of the site, each drawn for itself: all tensors have n as their first dimension.

        By default what `make` gives: entries that do not depend on each other are as many entries more.
        """
        return self.make(kind, guide, noise)

    def log_ratio(self, q: Any, log_prior: Tensor) -> Tensor:
        """The sum of log q - log p at the factor's draw, by the density of its distribution, in nats.

        Args:
            q: The factor.
            log_prior: Log p of each entry of the draw.
        """
        return (q.distribution().log_prob(q.value) - log_prior).sum()

    def expected(self, guide: Leaves, shape: tuple[int, ...], log_prior: Callable[[Tensor], Tensor]) -> Tensor:
        """E_q[log q - log p] in nats where nothing has to be drawn.

        Args:
            guide: The factor's parameters.
            shape: Of the site.
            log_prior: Values to log p, entry by entry.
        """
        raise TypeError(f"{type(self).__name__} is compared with draws")


class _Normal(FactorKind):
    factor: ClassVar[type[Factor]] = NormalFactor
    centre = -0.4  # of the log scales

    def parameters(self, shape: tuple[int, ...], support: Callable[[], Any], generator: torch.Generator) -> Leaves:
        """Location and log scale."""
        return {
            "location": 0.5 * normal_numbers(shape, generator),
            "log_scale": 0.25 * normal_numbers(shape, generator) + self.centre,
        }

    def make(self, kind: Any, guide: Leaves, noise: Any, **more: Any) -> Any:
        """The factor with the sums that a family would hand it."""
        location, log_scale = guide["location"], guide["log_scale"]
        drawn = self.placed(location + log_scale.exp() * noise)
        sums = torch.stack([(location.square() + (2.0 * log_scale).exp()).sum(), log_scale.sum()])
        return kind(value=drawn, location=location, log_scale=log_scale, sums=sums, **more)

    def placed(self, drawn: Tensor) -> Tensor:
        """What is drawn on the real line, in the factor's support."""
        return drawn


class _LogNormal(_Normal):
    factor = LogNormalFactor
    centre = -1.0  # powers of a LogNormal of larger spread have averages that rest on a few draws

    def placed(self, drawn: Tensor) -> Tensor:
        """The exponential."""
        return drawn.exp()


class _LogitNormal(_Normal):
    factor = LogitNormalFactor

    def placed(self, drawn: Tensor) -> Tensor:
        """The sigmoid."""
        return drawn.sigmoid()


class _Slab(_Normal):
    factor = SlabFactor

    def parameters(self, shape: tuple[int, ...], support: Callable[[], Any], generator: torch.Generator) -> Leaves:
        """Those of a Normal, and one gate an output: the inclusion broadcasts against the slab."""
        gates = (*shape[:-1], 1) if shape else ()
        return super().parameters(shape, support, generator) | {"logit": normal_numbers(gates, generator)}

    def make(self, kind: Any, guide: Leaves, noise: Any, **more: Any) -> Any:
        """The slab with its gate."""
        logit, shape = guide["logit"], tuple(guide["location"].shape)
        gate = Site("gate", "gate", "tensor", tuple(logit.shape), "boolean", "output", None)
        slab = Site("slab", "slab", "tensor", shape, "real", "weight", None)
        return super().make(kind, guide, noise, inclusion=logit.sigmoid(), pair=Pair(gate, slab, (1, 1)))

    def log_ratio(self, q: Any, log_prior: Tensor) -> Tensor:
        """Where the gate is zero q is the prior; so a draw of the slab counts as often as it is included."""
        return (q.inclusion * (dist.Normal(q.location, q.scale).log_prob(q.value) - log_prior)).sum()


class _LowRank(FactorKind):
    """Drawn by the root of the whole covariance, where its family draws by noise of each entry and of each column."""

    factor = LowRankNormalFactor
    rank = 2

    def parameters(self, shape: tuple[int, ...], support: Callable[[], Any], generator: torch.Generator) -> Leaves:
        """Location and log scale as those of a Normal, and loadings of their size."""
        independent = _Normal().parameters(shape, support, generator)
        return independent | {"loading": 0.4 * normal_numbers((*shape, self.rank), generator)}

    def make(self, kind: Any, guide: Leaves, noise: Any) -> Any:
        """The factor at its centre."""
        return kind(value=guide["location"], **guide)

    def copies(self, kind: Any, guide: Leaves, noise: Tensor) -> Any:
        """Each copy with numbers of its own, which its entries share."""
        root = torch.linalg.cholesky(self._covariance(guide["log_scale"], guide["loading"]))
        drawn = (root @ noise.reshape(len(noise), -1, 1)).view_as(noise)
        return kind(value=guide["location"] + drawn, **guide)

    def log_ratio(self, q: Any, log_prior: Tensor) -> Tensor:
        """By the density of a Normal with the whole covariance, copy by copy."""
        rows = (part.reshape(len(part), -1) for part in (q.location, q.value))
        location, value = rows
        normal = dist.MultivariateNormal(location, self._covariance(q.log_scale, q.loading))
        return normal.log_prob(value).sum() - log_prior.sum()

    @staticmethod
    def _covariance(log_scale: Tensor, loading: Tensor) -> Tensor:
        """`(copies, entries, entries)`."""
        columns = loading.reshape(len(loading), -1, loading.shape[-1])
        return columns @ columns.mT + torch.diag_embed((2.0 * log_scale).exp().reshape(len(log_scale), -1))


class _Point(FactorKind):
    factor = DeltaFactor
    is_exact = True

    def parameters(self, shape: tuple[int, ...], support: Callable[[], Any], generator: torch.Generator) -> Leaves:
        """A value in the prior's support."""
        return {"value": biject_to(support())(normal_numbers(shape, generator))}

    def make(self, kind: Any, guide: Leaves, noise: Any) -> Any:
        """The point."""
        return kind(guide["value"])

    def expected(self, guide: Leaves, shape: tuple[int, ...], log_prior: Callable[[Tensor], Tensor]) -> Tensor:
        """Minus the log prior."""
        return -log_prior(guide["value"]).sum()


class _Gate(FactorKind):
    factor = BernoulliFactor
    is_exact = True

    def parameters(self, shape: tuple[int, ...], support: Callable[[], Any], generator: torch.Generator) -> Leaves:
        """Log odds."""
        return {"logit": 1.5 * normal_numbers(shape, generator)}

    def make(self, kind: Any, guide: Leaves, noise: Any) -> Any:
        """The gates, with their probabilities as values."""
        return kind(guide["logit"].sigmoid(), guide["logit"])

    def expected(self, guide: Leaves, shape: tuple[int, ...], log_prior: Callable[[Tensor], Tensor]) -> Tensor:
        """The sum over both values."""
        total = torch.zeros((), dtype=torch.float64)
        for number in (0.0, 1.0):
            value = torch.full(shape, number, dtype=torch.float64)
            log_q = dist.Bernoulli(logits=guide["logit"]).log_prob(value)
            total = total + (log_q.exp() * (log_q - log_prior(value))).sum()
        return total


KINDS: tuple[FactorKind, ...] = (_Slab(), _LogNormal(), _LogitNormal(), _Normal(), _LowRank(), _Point(), _Gate())
"""All kinds, the more particular class first."""
