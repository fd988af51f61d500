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
from scipy.stats import gamma
from torch import Tensor

from bayesprune.models.checks.data_count import checked_data_size
from bayesprune.models.distributions.power_density import PowerDensity
from bayesprune.models.distributions.signed_gamma import SignedGamma
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import relative_threshold, shrinkage_below
from bayesprune.models.language.knobs import Knob
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.ready_registry import ready

STRENGTH = {"kappa": Knob(low=1e-4, high=1e4, above=1e-3)}
"""What `Budget` moves: a factor on kappa; by MAP the weights that it shrinks end below 1e-3."""


@ready("halo", "hierarchical adaptive lasso, by its one constant kappa")
class HALO(Hierarchy):
    """weight ~ Laplace(0, lam^2 / xi), lam ~ Gamma(3, psi), one lam a weight, with psi = 3 and xi = kappa / 9.

    Give one of the three arguments; they are ways of stating the one number that matters, kappa.

    Args:
        kappa: xi psi^2 in full-data nats; 0 is no penalty: a flat density of the weights, which are then points.
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
        if kappa is not None and kappa < 0:
            raise ValueError(f"HALO(kappa=...) must not be negative, not {kappa}")
        if prior_sd is not None and not prior_sd > 0:
            raise ValueError(f"HALO(prior_sd=...) must be positive, not {prior_sd}")
        if expected_density is not None and not 0.0 < expected_density < 1.0:
            raise ValueError(f"HALO(expected_density=...) must be strictly between 0 and 1, not {expected_density}")

        def xi(fan_in: int) -> float:
            return kappa_of(fan_in, kappa, prior_sd, expected_density) / 9.0

        if kappa == 0:
            self._declare(0.0, 3.0, signed=False)
        else:
            super().__init__(
                lam=Latent(lambda: dist.Gamma(3.0, 3.0), per="weight"),
                weight=lambda lam, fan_in, kappa: dist.Laplace(0.0, lam.square() / xi(fan_in) * kappa.reciprocal()),
                included=shrinkage_below(0.5),
                default_guide="map",
                knobs=STRENGTH,
                budget="kappa",
            )

    @classmethod
    @ready("halo-paper", "the same by the authors' per-datum constants xi, psi, weight_decay")
    def from_paper(
        cls,
        xi: float,
        psi: float,
        weight_decay: float = 0.0,
        data_size: int | None = None,
        signed: bool = True,
        lam_start: float = 1.0,
    ) -> HALO:
        """The authors' objective: mean loss + xi sum |w| / lam^2 + psi sum |lam|, with weight decay on both.

        The constants of the paper are per datum; they are multiplied by `data_size` here. Weight decay acts on lam as
        well (at the published setting that is what drives lam). A fit follows the authors' updates to rounding if it
        has the settings of `paper_fit`, and if parameters that only decay have `Gaussian.from_weight_decay`: one
        without a prior does not decay, and `fit` by itself lowers the learning rate at the end::

            bnn = bp.BayesianNetwork(network, {
                "*.weight": bp.HALO.from_paper(1e-8, 1e-8, weight_decay=1e-4, data_size=n),
                "*.bias": bp.Gaussian.from_weight_decay(1e-4, data_size=n),
            }, data_size=n)
            fit = bp.fit(bnn, data, epochs=160, **bp.HALO.paper_fit())

        Where a constant is 0 its part of the penalty is absent, and the density of what nothing else holds is flat:
        the prior is then improper, and those values are points under every guide. With xi = 0 the weights have their
        decay only. With psi = 0 and weight decay mu the best lam leaves the penalty sqrt(2 xi mu |w|); with neither,
        lam grows without end and the penalty goes to zero.

        Args:
            xi: Weight of |w| / lam^2 per datum; zero or positive.
            psi: Weight of |lam| per datum; zero or positive.
            weight_decay: Per datum, as an SGD flag would have it, on w and on lam; default 0.
            data_size: Number of training data; required.
            signed: Whether lam may turn negative, as in the authors' code (default); False keeps it positive, by
                its logarithm.
            lam_start: Where every lam starts, from 1e-6 to 1e6; default 1, the authors'.

        Returns:
            The hierarchy; with weight decay it is unnormalised and cannot be simulated.

        Raises:
            ValueError: If a constant is out of range or `data_size` is missing.
        """
        total = checked_data_size("HALO.from_paper", data_size)
        for name, value in {"xi": xi, "psi": psi, "weight_decay": weight_decay}.items():
            if value < 0:
                raise ValueError(f"HALO.from_paper needs a {name} that is not negative, not {value}")
        if not 1e-6 <= lam_start <= 1e6:  # 1 / lam^3 is a number
            raise ValueError(f"HALO.from_paper needs a lam_start from 1e-6 to 1e6, not {lam_start}")
        self = cls.__new__(cls)
        self._declare(xi * total, psi * total, weight_decay * total, signed, lam_start)
        self.full_kl = True
        return self

    @staticmethod
    def paper_fit(learning_rate: float = 0.1) -> dict[str, Any]:
        """Arguments of `fit` with which `from_paper` is trained as its authors train.

        SGD with momentum 0.9 and one learning rate for weights and lam, batches of 64, all of them points, the penalty
        there in full from the first step on. The rate stays what it is; the authors divide it by ten after a half and
        three quarters of the epochs, which is ``schedule=steps([0.5, 0.75])`` of
        `bayesprune.inference.rules.schedules`.

        Args:
            learning_rate: Positive; default 0.1, the authors'.
        """
        return {
            "guide": "map",
            "optimizer": "sgd",
            "learning_rate": learning_rate,
            "schedule": "constant",
            "kl_weight": 1.0,
            "kl_warmup": 0.0,
            "batch_size": 64,
        }

    def _declare(
        self, xi: float, psi: float, decay: float = 0.0, signed: bool = True, lam_start: float | None = None
    ) -> None:
        """Declares log density -xi |w| / lam^2 - psi |lam| - decay (w^2 + lam^2) / 2, all in full-data nats."""
        # A Laplace brings 1 / lam^2 along, which the lam^2 of its hyper-prior cancels; a flat weight brings nothing.
        power = 2.0 if xi else 0.0

        def hyper() -> Any:
            if not psi:
                return PowerDensity(power, positive=not signed)
            if xi:
                return (SignedGamma if signed else dist.Gamma)(3.0, psi)
            return dist.Laplace(0.0, 1.0 / psi) if signed else dist.Exponential(psi)

        def factor(lam: Tensor, weight: Tensor) -> Tensor:
            return -0.5 * decay * (lam.square().sum() + weight.square().sum())

        flat = [name for name, constant in (("the weights", xi), ("lam", psi)) if not constant and not decay]
        Hierarchy.__init__(
            self,
            lam=Latent(hyper, per="weight", init=lam_start, guide="delta" if "lam" in flat else None),
            weight=(
                (lambda lam, kappa: dist.Laplace(0.0, lam.square() / xi * kappa.reciprocal()))
                if xi
                else Latent(lambda: PowerDensity(), guide="delta" if "the weights" in flat else None)
            ),
            factor=factor if decay else None,
            included=shrinkage_below(0.5) if xi else relative_threshold(0.1),
            default_guide="map",
            knobs=STRENGTH if xi else None,
            budget="kappa" if xi else None,
            improper=f"without a penalty on them, the density of {' and '.join(flat)} is flat" if flat else None,
        )


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
