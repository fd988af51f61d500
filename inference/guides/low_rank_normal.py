"""Normals that are correlated inside a site: their covariance is of low rank plus a diagonal.

q = Normal(m, U U' + diag(s^2)) over all entries of a site (Mishkin et al. 2018; Ong, Nott & Smith 2018). Independent
Normals have the standard deviations of a posterior in which all other weights are known: where inputs are correlated
these are too small, by a factor of sqrt(C_jj P_jj), C the posterior's covariance and P its inverse. Columns U take
up the directions in which the data leave most open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions.transforms import ReshapeTransform

from bayesprune.inference.guides.factors import HALF_LOG_2PIE, LOG_SQRT_2PI, Factor, NormalFactor
from bayesprune.inference.guides.families import LocatedFamily, draw_normals, starting_log_scale
from bayesprune.inference.guides.registry import family
from bayesprune.inference.guides.slices import Layout
from bayesprune.models.language.iid import Iid

__all__ = ["LowRankNormalFactor", "LowRankNormalFamily"]

START = 0.3
"""Length of a row of the loadings at the start, on average, as a share of the entry's own standard deviation."""


@dataclass(frozen=True)
class LowRankNormalFactor(Factor):
    """Normal(location, U U' + diag(exp(2 log_scale))) over the entries of a site.

    Attributes:
        location: Mean, of the site's shape.
        log_scale: Logarithm of the standard deviation that an entry has of its own, of the site's shape.
        loading: U, one row an entry, `(*shape, rank)`.
    """

    location: Tensor
    log_scale: Tensor
    loading: Tensor
    has_landing_term: ClassVar[bool] = True

    @property
    def variance(self) -> Tensor:
        """Variance of each entry, all others unknown, of the site's shape."""
        return (2.0 * self.log_scale).exp() + self.loading.square().sum(-1)

    def marginals(self) -> NormalFactor:
        """The entries as if they were independent, each with the standard deviation that it has here."""
        variance = self.variance
        log_sd = 0.5 * variance.log()
        sums = torch.stack([(self.location.square() + variance).sum(), log_sd.sum()])
        return NormalFactor(self.value, self.location, log_sd, sums)

    def total_correlation(self) -> Tensor:
        """KL(q || its marginals) in nats: by how much the entropy is less than that of independent entries."""
        halves = 0.5 * self.variance.log() - self.log_scale
        return halves.sum() - self._root()[1].diagonal().log().sum()

    def _root(self) -> tuple[Tensor, Tensor]:
        """A = diag(1 / s) U, `(entries, rank)`, and the Cholesky factor of the capacitance matrix I + A' A.

        Its determinant is that of the covariance over the product of s^2 (the matrix determinant lemma).
        """
        rank = self.loading.shape[-1]
        scaled = (self.loading * (-self.log_scale).exp().unsqueeze(-1)).reshape(-1, rank)
        capacitance = scaled.T @ scaled + torch.eye(rank, dtype=scaled.dtype, device=scaled.device)
        return scaled, torch.linalg.cholesky_ex(capacitance)[0]  # without a look at values: it is positive definite

    def distribution(self) -> Any:
        """The Normal over the site, whose entries are one event."""
        rows, entries = self.loading.shape[-1], self.location.numel()
        flat = dist.LowRankMultivariateNormal(
            self.location.reshape(-1), self.loading.reshape(-1, rows), (2.0 * self.log_scale).exp().reshape(-1)
        )
        return dist.TransformedDistribution(flat, [ReshapeTransform(torch.Size([entries]), self.location.shape)])

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, of the whole site."""
        scaled, root = self._root()
        standard = ((value - self.location) * (-self.log_scale).exp()).reshape(-1, 1)
        explained = torch.linalg.solve_triangular(root, scaled.T @ standard, upper=False)
        squares = standard.square().sum() - explained.square().sum()
        halves = self.log_scale.sum() + root.diagonal().log().sum()
        return -(0.5 * squares + halves + self.location.numel() * LOG_SQRT_2PI)

    def entropy(self) -> Tensor:
        """Entropy in nats, of the whole site."""
        halves = self.log_scale.sum() + self._root()[1].diagonal().log().sum()
        return halves + self.location.numel() * HALF_LOG_2PIE

    def held(self) -> Self:
        """The same q with parameters that take no gradient."""
        parameters = (self.location, self.log_scale, self.loading)
        location, log_scale, loading = (one.detach() for one in parameters)
        return replace(self, location=location, log_scale=log_scale, loading=loading)

    def landing_term(self, prior: Iid, value: Tensor) -> Tensor:
        """Log q - log p at a draw, with the parameters of q held fixed, in nats."""
        return self.held().log_prob(value) - prior.log_prob(value)


@family("lowrank", supports=("real",))
class LowRankNormalFamily(LocatedFamily):
    """Normals whose covariance inside a site is of low rank plus a diagonal; sites are independent of each other.

    For models with few weights and correlated inputs. In networks, at equal steps, independent Normals come further
    (docs/posteriors.md).

    Another rank is another family, by three lines of one's own::

        @family("lowrank32", supports=("real",))  # bayesprune.inference.guides.registry
        class Wider(LowRankNormalFamily):
            rank = 32

    Attributes:
        rank: Columns of U, of every site; default 8: as many numbers more a weight to be learned.
    """

    rank: ClassVar[int] = 8

    def build(self, start: Tensor) -> None:
        """Creates `location`, `log_scale` and `loading`."""
        self.location = nn.Parameter(start)
        self.log_scale = nn.Parameter(starting_log_scale(self, start))
        # At zero the loadings have no gradient. Numbers of their own: a guide that is built takes none of the fit's.
        generator = torch.Generator().manual_seed(0)
        random = torch.randn((len(start), self.rank), generator=generator, dtype=torch.float64).to(start)
        size = self.log_scale.detach().exp().unsqueeze(-1) * (START / math.sqrt(self.rank))
        self.loading = nn.Parameter((size * random).reshape(-1))

    def layout_of(self, parameter: str) -> Layout:
        """Of the loadings `rank` numbers an entry, else one."""
        return Layout(self.sites, (self.rank,)) if parameter == "loading" else self.layout

    def draw(self) -> dict[str, Factor]:
        """Draws every site with noise of each entry, and with `rank` numbers that its entries share."""
        factors: dict[str, Factor] = {}
        loadings = self.pieces("loading")
        rows = torch.cat([loading.reshape(-1, self.rank)[0] for loading in loadings])
        shared = torch.randn_like(rows).split(self.rank)
        for (site, own, location, log_scale, _), loading, noise in zip(
            draw_normals(self), loadings, shared, strict=True
        ):
            factors[site.name] = LowRankNormalFactor(own + loading @ noise, location, log_scale, loading)
        return factors

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """Log scales are spreads; loadings move in the weights' units."""
        return {"location": [self.location, self.loading], "spread": [self.log_scale]}

    def marginal_sds(self) -> dict[str, Tensor]:
        """Standard deviation of each entry, all others unknown, by name of site, in float64 and without gradients."""
        own = self.log_scale.detach().double().exp().square()
        variance = own + self.loading.detach().double().view(-1, self.rank).square().sum(-1)
        return self.layout.by_name(variance.sqrt())
