"""SWS: the adaptive lasso with one learned scale for a whole tensor."""

from __future__ import annotations

import math
from collections.abc import Callable

import pyro.distributions as dist

from bayesprune.models.checks.data_count import checked_data_size
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import relative_threshold
from bayesprune.models.language.knobs import Knob
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.ready_registry import ready


@ready("sws", "adaptive lasso with one learned scale a tensor, by its one constant kappa")
class SWS(Hierarchy):
    """weight ~ Laplace(0, square / xi), square ~ Gamma(size + 1, psi): one scale for all the weights of a tensor.

    Minus the log joint is, up to a constant, the penalty xi sum |w| / lam^2 + psi lam^2 with which HALO is compared
    ("SWS" in the authors' code; Seto, Wells & Zhang, arXiv 2008.10183), with square = lam^2 as the latent: the Gamma's
    square^size cancels the Laplace's normalisers. The least over the scale is 2 sqrt(kappa sum |w|), which depends on
    kappa = xi psi only, and so does the prior of the weights; here psi = size + 1, so that square has prior mean 1.

    The scale is a point of the guide even in ``guide="meanfield"``: given the weights its posterior is narrow, with a
    relative standard deviation of about 1 / sqrt(2 sqrt(kappa sum |w|)), and a LogNormal for it adds noise to the
    gradient (size log square cancels, but is in closed form in one term and drawn in the other).

    Args:
        kappa: xi psi in full-data nats; the weights' prior standard deviation is sqrt(2 (size + 1) (size + 2)) / kappa.
            Default None: size sqrt(fan_in) / 50, at which Laplace weights of He's scale cost 0.28 nats each.

    Raises:
        ValueError: If `kappa` is not positive.
    """

    def __init__(self, kappa: float | None = None) -> None:
        if kappa is not None and not kappa > 0:
            raise ValueError(f"SWS(kappa=...) must be positive, not {kappa}")

        def xi(size: int, fan_in: int) -> float:
            return (size * math.sqrt(fan_in) / 50.0 if kappa is None else kappa) / (size + 1.0)

        self._declare(xi, lambda size: size + 1.0)

    @classmethod
    @ready("sws-paper", "the same by per-datum constants xi and psi")
    def from_paper(cls, xi: float, psi: float, data_size: int | None = None) -> SWS:
        """The authors' objective: mean loss + xi sum |w| / lam^2 + psi lam^2, lam starting at 1.

        Their constants are per datum and are multiplied by `data_size` here; they have one lam for all penalised
        tensors, here each tensor has its own.

        Args:
            xi: Weight of sum |w| / lam^2 per datum; positive.
            psi: Weight of lam^2 per datum; positive.
            data_size: Number of training data; required.

        Raises:
            ValueError: If a constant is not positive or `data_size` is missing.
        """
        total = checked_data_size("SWS.from_paper", data_size)
        if not (xi > 0 and psi > 0):
            raise ValueError(f"SWS.from_paper needs xi > 0 and psi > 0, not {xi} and {psi}")
        self = cls.__new__(cls)
        total_xi, total_psi = xi * total, psi * total
        self._declare(lambda size, fan_in: total_xi, lambda size: total_psi)
        self.full_kl = True
        return self

    def _declare(self, xi: Callable[[int, int], float], psi: Callable[[int], float]) -> None:
        super().__init__(
            square=Latent(lambda size: dist.Gamma(size + 1.0, psi(size)), per="layer", guide="delta", init=1.0),
            weight=lambda square, size, fan_in, kappa: dist.Laplace(
                0.0, square / xi(size, fan_in) * kappa.reciprocal()
            ),
            included=relative_threshold(0.1),
            default_guide="map",
            knobs={"kappa": Knob()},
            budget="kappa",
        )
