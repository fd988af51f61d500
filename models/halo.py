"""HALO: the hierarchical adaptive lasso as a hierarchy of proper priors.

Source: Seto, Wells & Zhang, "HALO: Learning to Prune Neural Networks with Shrinkage", arXiv 2008.10183. The
penalty of the authors' code, xi sum |w| / lam^2 + psi sum |lam|, is minus the log joint, up to a constant, of

    weight ~ Laplace(0, lam^2 / xi),    lam ~ Gamma(3, psi)

since the lam^2 of Gamma(3) cancels the normaliser of the Laplace (an Exponential hyper-prior would leave a term
that is unbounded at lam -> 0). The marginal prior of a weight depends on kappa = xi psi^2 only:
E|w| = 12 / kappa, E w^2 = 720 / kappa^2.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from scipy.stats import gamma
from torch import Tensor
from torch.distributions import constraints

from bayesprune.models.hierarchy import Hierarchy, Latent
from bayesprune.models.inclusion import shrinkage_below


class SignedGamma(TorchDistribution):
    """A Gamma variable with a random sign: density Gamma(|value|; concentration, rate) / 2 on the real line.

    Args:
        concentration: Shape of the Gamma.
        rate: Rate of the Gamma.
    """

    arg_constraints = {"concentration": constraints.positive, "rate": constraints.positive}
    support = constraints.real
    has_rsample = False

    def __init__(self, concentration: Any, rate: Any, validate_args: bool | None = None) -> None:
        self.concentration, self.rate = torch.distributions.utils.broadcast_all(concentration, rate)
        super().__init__(self.concentration.shape, validate_args=validate_args)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of shape `sample_shape + batch_shape`."""
        size = dist.Gamma(self.concentration, self.rate).sample(torch.Size(sample_shape))
        return size * torch.randint_like(size, 2).mul(2).sub(1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats."""
        normaliser = self.concentration * self.rate.log() - torch.lgamma(self.concentration) - math.log(2.0)
        return normaliser + (self.concentration - 1) * value.abs().log() - self.rate * value.abs()

    @property
    def mean(self) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.rate)

    @property
    def variance(self) -> Tensor:
        """Second moment of the Gamma."""
        return self.concentration * (self.concentration + 1) / self.rate**2

    def expand(self, batch_shape: Any, _instance: Any = None) -> SignedGamma:
        """Returns a distribution of the given batch shape."""
        return SignedGamma(self.concentration.expand(batch_shape), self.rate.expand(batch_shape), False)


class HALO(Hierarchy):
    """weight ~ Laplace(0, lam^2 / xi), lam ~ Gamma(3, psi), one lam a weight, with psi = 3 and xi = kappa / 9.

    Give one of the three arguments; they are ways of stating the one number that matters, kappa.

    Args:
        kappa: xi psi^2 in full-data nats.
        prior_sd: Marginal prior standard deviation of a weight: kappa = sqrt(720) / prior_sd.
        expected_density: Prior probability (fraction of 1) that a weight's prior sd given its scale lam exceeds
            sqrt(2 / (expected_density fan_in)), He's scale for the network that is left; kappa is then set for each
            tensor. Default, with none given: 0.1.

    Raises:
        ValueError: If more than one is given, or one is out of its range.
    """

    def __init__(
        self, kappa: float | None = None, prior_sd: float | None = None, expected_density: float | None = None
    ) -> None:
        given = {"kappa": kappa, "prior_sd": prior_sd, "expected_density": expected_density}
        named = [name for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise ValueError(f"HALO takes one of kappa, prior_sd and expected_density, not {' and '.join(named)}")
        for name in ("kappa", "prior_sd"):
            if given[name] is not None and not given[name] > 0:  # type: ignore[operator]
                raise ValueError(f"HALO({name}=...) must be positive, not {given[name]}")
        if expected_density is not None and not 0.0 < expected_density < 1.0:
            raise ValueError(f"HALO(expected_density=...) must be strictly between 0 and 1, not {expected_density}")

        def xi(fan_in: int) -> float:
            return kappa_of(fan_in, kappa, prior_sd, expected_density) / 9.0

        super().__init__(
            lam=Latent(lambda: dist.Gamma(3.0, 3.0), per="weight"),
            weight=lambda lam, fan_in: dist.Laplace(0.0, lam.square() / xi(fan_in)),
            included=shrinkage_below(0.5),
            default_guide="map",
        )
        self.config = {"name": "HALO", "arguments": given}

    @classmethod
    def from_paper(
        cls,
        xi: float,
        psi: float,
        weight_decay: float = 0.0,
        data_size: int | None = None,
        signed: bool = True,
    ) -> HALO:
        """The authors' objective: mean loss + xi sum |w| / lam^2 + psi sum |lam|, with weight decay on both.

        The constants of the paper are per datum; they are multiplied by `data_size` here. Fitted by
        ``guide="map"`` with SGD it follows the authors' update to rounding: lam is a free real number that starts
        at 1, and weight decay acts on it as well (at the published setting that is what drives lam).

        Args:
            xi: Weight of |w| / lam^2 per datum; positive.
            psi: Weight of |lam| per datum; positive.
            weight_decay: Per datum, as an SGD flag would have it, on w and on lam; default 0.
            data_size: Number of training data; required.
            signed: Whether lam may turn negative, as in the authors' code (default); False keeps it positive, by
                its logarithm.

        Returns:
            The hierarchy; with weight decay it is unnormalised and cannot be simulated.

        Raises:
            ValueError: If a constant is out of range or `data_size` is missing.
        """
        if data_size is None or data_size < 1:
            raise ValueError(
                "HALO.from_paper needs data_size=, the number of training data: its constants are per datum"
            )
        if not (xi > 0 and psi > 0 and weight_decay >= 0):
            raise ValueError(
                f"HALO.from_paper needs xi > 0, psi > 0 and weight_decay >= 0, not {xi}, {psi} and {weight_decay}"
            )
        self = cls.__new__(cls)
        total_xi, total_psi, decay = xi * data_size, psi * data_size, weight_decay * data_size

        def factor(lam: Tensor, weight: Tensor) -> Tensor:
            return -0.5 * decay * (lam.square().sum() + weight.square().sum())

        hyper = SignedGamma if signed else dist.Gamma
        Hierarchy.__init__(
            self,
            lam=Latent(lambda: hyper(3.0, total_psi), per="weight", init=1.0),
            weight=lambda lam: dist.Laplace(0.0, lam.square() / total_xi),
            factor=factor if weight_decay else None,
            included=shrinkage_below(0.5),
            default_guide="map",
        )
        arguments = {
            "xi": xi,
            "psi": psi,
            "weight_decay": weight_decay,
            "data_size": data_size,
            "signed": signed,
        }
        self.config = {"name": "HALO.from_paper", "arguments": arguments}
        self.full_kl = True
        return self


@functools.cache
def kappa_of(
    fan_in: int,
    kappa: float | None = None,
    prior_sd: float | None = None,
    expected_density: float | None = None,
) -> float:
    """Returns kappa = xi psi^2 for whichever of the three arguments of `HALO` is given (default density 0.1).

    Given lam = u / psi with u ~ Gamma(3, 1), the weight's prior sd is sqrt(2) u^2 / kappa; it exceeds
    sqrt(2 / (d fan_in)) with probability d where kappa = q^2 sqrt(d fan_in), q the upper quantile.
    """
    if kappa is not None:
        return kappa
    if prior_sd is not None:
        return math.sqrt(720.0) / prior_sd
    density = 0.1 if expected_density is None else expected_density
    return float(gamma.isf(density, a=3.0)) ** 2 * math.sqrt(density * fan_in)
