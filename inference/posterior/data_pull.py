"""What the data say of each weight, read off the guide: a precision and a pull, and the nats that they amount to.

The diagonal Fisher information at the fit measures how sharply the data define a weight where the fit stands. In a
network that fits its data it vanishes, because the loss is flat there, and yet the data have moved the weight: what is
flat is the end of the way. The guide's Normal of a weight balances the prior against the data,

    1 / v = E[1 / s^2] + P    and    m / v = a        (the gradients of the ELBO by v and m are zero),

so that P, the data's precision averaged over q, and a, their pull, follow from m and v: the data count as the factor
exp(a w - P w^2 / 2). Given a scale s the weight is then Normal with the variance s^2 k, k = 1 / (1 + P s^2) (the
textbook's kappa), and the mean a s^2 k, against Normal(0, s^2) before the data. What they have said of it is

    I = KL = (k + a^2 s^2 k^2 - 1 - log k) / 2 nats.

The shrinkage factor by the posterior is exp(-2 I). In a conjugate Normal model P is data_size F exactly, and the mean
of I over data sets is -log(k) / 2: its geometric mean is k itself. Where the curvature vanishes (P = 0, k = 1) and the
mean does not, k says "shrunk" of a weight that the data hold far from zero by their slope; I counts both. A tempered
fit (KL weight w) has the posterior of the data counted 1 / w times, and so have P and a.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesprune.inference.guides.guide import normals
from bayesprune.inference.guides.seeded import seeded
from bayesprune.inference.restart import Restart
from bayesprune.models.language.iid import Iid
from bayesprune.models.language.latent import WEIGHT
from bayesprune.models.language.tensor_prior import TensorPrior

__all__ = ["DataPull", "data_pulls", "factor_by_posterior", "information"]

DRAWS = 200
"""Draws of the scales over which the prior's share of the guide's balance is averaged."""
LEAST_VARIANCE = 1e-30
"""Scales that have underflowed count as this, so that nothing overflows in float32."""


@dataclass(frozen=True)
class DataPull:
    """The data as the factor exp(pull w - precision w^2 / 2) of each weight.

    Attributes:
        precision: P, at least 0, `(out, in, ...)`.
        pull: a, `(out, in, ...)`.
    """

    precision: Tensor
    pull: Tensor


def information(pull: DataPull, sd: Tensor) -> Tensor:
    """Nats that the data give about each weight: KL of its posterior from its prior, both given its scale.

    Args:
        pull: What the data say.
        sd: s, prior standard deviation of the weight given its scales.
    """
    gain = pull.precision * sd.square()
    mean = pull.pull * sd / (1.0 + gain)
    return 0.5 * (mean.square() + torch.log1p(gain) - gain / (1.0 + gain))


def factor_by_posterior(pull: DataPull, sd: Tensor) -> Tensor:
    """exp(-2 I), I the `information`: 1 where the data say nothing, on average kappa in a conjugate Normal model."""
    return torch.exp(-2.0 * information(pull, sd))


def data_pulls(one: Restart, priors: list[TensorPrior]) -> dict[str, DataPull]:
    """Reads off the guide what the data say of the weights of these tensors.

    Args:
        one: The restart.
        priors: Scale mixtures whose weights, or whose standard Normal latents, the guide holds as Normals.

    """
    centred = {prior.name: prior.weight_is_latent for prior in priors}
    sites = {prior.name: prior.sites[WEIGHT if centred[prior.name] else str(prior.standard_normal)] for prior in priors}
    q = normals(one.guide)
    sums = {prior.name: _Sums(prior, *q[sites[prior.name].name]) for prior in priors}
    with torch.no_grad(), seeded(one.guide, one.seed):
        for _ in range(DRAWS):
            values = one.guide.sample()
            for prior in priors:
                sums[prior.name].add({latent: values[site.name] for latent, site in prior.sites.items()})
    return {name: found.pull() for name, found in sums.items()}


class _Sums:
    """The prior's share of the balance of one tensor, summed over draws of the scales, in float64.

    Args:
        prior: The prior.
        mean: m of the weights, or of their standard Normal latents.
        sd: Their standard deviation, sqrt(v).
    """

    def __init__(self, prior: TensorPrior, mean: Tensor, sd: Tensor) -> None:
        self.prior, self.mean, self.sd = prior, mean, sd
        self.first, self.second = torch.zeros_like(mean), torch.zeros_like(mean)

    def add(self, values: dict[str, Tensor]) -> None:
        """One draw of the scales, by latent.

        A weight given its scales counts as a Normal of its standard deviation, but for a Laplace, whose mean curvature
        2 Normal(0 | m, v) / b and slope erf(m / sqrt(2 v)) / b over q are known, and are others.
        """
        s = self.prior.conditional_sd(values).double()
        if not self.prior.weight_is_latent:
            self.first += s / DRAWS
            self.second += s.square() / DRAWS
        elif isinstance(_prior_of(self.prior, WEIGHT, values).base_dist, torch.distributions.Laplace):
            b, standard = s / math.sqrt(2.0), self.mean / self.sd
            self.first += torch.erf(standard / math.sqrt(2.0)) / b / DRAWS
            self.second += math.sqrt(2.0 / math.pi) * torch.exp(-0.5 * standard.square()) / (b * self.sd) / DRAWS
        else:
            self.first += self.mean / s.square() / DRAWS
            self.second += s.pow(-2) / DRAWS
        self.last = values

    def pull(self) -> DataPull:
        """What is left for the data, in the dtype of the weights."""
        if self.prior.weight_is_latent:
            precision = (self.sd.pow(-2) - self.second).clamp_min(0.0)
            return self._stored(precision, self.first + precision * self.mean)
        fn = _prior_of(self.prior, str(self.prior.standard_normal), self.last)
        mean, sd = ((part - at) / fn.stddev for part, at in ((self.mean, fn.mean), (self.sd, 0.0)))
        precision = (sd.pow(-2) - 1.0).clamp_min(0.0)  # wider than the prior is noise of the training, no information
        second, first = self.second.clamp_min(LEAST_VARIANCE), self.first.clamp_min(math.sqrt(LEAST_VARIANCE))
        return self._stored(precision / second, mean * (1.0 + precision) / first)

    def _stored(self, precision: Tensor, pull: Tensor) -> DataPull:
        dtype = next(iter(self.last.values())).dtype
        return DataPull(precision.to(dtype), pull.to(dtype))


def _prior_of(prior: TensorPrior, latent: str, values: dict[str, Tensor]) -> Iid:
    """The distribution of one latent at values of the others."""
    found: dict[str, Iid] = {}
    by_site = {site.name: values[name] for name, site in prior.sites.items()}

    def look(site: str, fn: Iid) -> Tensor:
        found[site] = fn
        return by_site[site]

    prior.run(look, next(iter(values.values())), {})
    return found[prior.sites[latent].name]
