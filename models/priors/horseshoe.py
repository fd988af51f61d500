"""Horseshoe and regularised horseshoe priors, non-centred."""

from __future__ import annotations

import functools
import math

import pyro.distributions as dist
from torch import Tensor

from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import shrinkage_below
from bayesprune.models.language.knobs import Knob
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.ready_registry import ready


@ready("horseshoe", "half-Cauchy scales a weight and a layer, non-centred")
class Horseshoe(Hierarchy):
    """weight = tau lam z with z ~ Normal(0, 1), lam ~ HalfCauchy(1) a weight, tau ~ HalfCauchy(tau0) a layer.

    Carvalho, Polson & Scott 2010; non-centred, so that the density stays bounded where scales go to zero.

    Args:
        tau0: Scale of the layer's tau; default None: `expected_density` / (1 - `expected_density`) / sqrt(fan_in),
            the choice of Piironen & Vehtari 2017 (eq. 3.12) with the layer's own scale for the noise's.
        expected_density: Expected share of weights that are not shrunk (fraction of 1); default 0.1.
        per: Level of lam: ``"weight"`` (default), ``"output"``, ``"input"``, ``"kernel"``.
        by: Which shrinkage factor the inclusion event is about, ``"fisher"`` or ``"posterior"``; default None: by the
            model (see `shrinkage_below`).

    Raises:
        ValueError: If `tau0` is not positive or `expected_density` is not strictly between 0 and 1.
    """

    def __init__(
        self,
        tau0: float | None = None,
        expected_density: float = 0.1,
        per: str = "weight",
        by: str | None = None,
    ) -> None:
        _check(tau0, expected_density)
        scale = functools.partial(_tau0, tau0, expected_density)
        super().__init__(
            tau=Latent(lambda fan_in, tau0: dist.HalfCauchy(scale(fan_in) * tau0), "layer", init=_rms),
            lam=Latent(dist.HalfCauchy(1.0), per),
            z=Latent(dist.Normal(0.0, 1.0), "weight"),
            weight=lambda tau, lam, z: tau * lam * z,
            included=shrinkage_below(0.5, by),
            knobs={"tau0": Knob(more="denser")},
        )


@ready("regularised-horseshoe", "horseshoe with its largest scales bounded")
class RegularisedHorseshoe(Hierarchy):
    """Horseshoe whose largest scales are bounded by c: lam~^2 = c^2 lam^2 / (c^2 + tau^2 lam^2).

    Piironen & Vehtari 2017, eq. 2.8: c^2 ~ InverseGamma(nu / 2, nu s^2 / 2), weight = tau lam~ z.

    Args:
        tau0: As for `Horseshoe`.
        expected_density: As for `Horseshoe`; default 0.1.
        slab_sd: s, the scale of an unshrunk weight; default None: sqrt(2 / (expected_density fan_in)),
            He's scale for the network that is left.
        slab_df: nu, degrees of freedom of the slab's Student t; default 4.
        per: Level of lam; default ``"weight"``.
        by: As for `Horseshoe`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        tau0: float | None = None,
        expected_density: float = 0.1,
        slab_sd: float | None = None,
        slab_df: float = 4.0,
        per: str = "weight",
        by: str | None = None,
    ) -> None:
        _check(tau0, expected_density)
        if (slab_sd is not None and not slab_sd > 0) or not slab_df > 0:
            raise ValueError(f"RegularisedHorseshoe needs positive slab_sd and slab_df, not {slab_sd} and {slab_df}")

        scale = functools.partial(_tau0, tau0, expected_density)

        def slab_variance(fan_in: int) -> float:
            return 2.0 / (expected_density * fan_in) if slab_sd is None else slab_sd**2

        def weight(tau: Tensor, lam: Tensor, c2: Tensor, z: Tensor) -> Tensor:
            scale = tau * lam
            return scale * (c2 / (c2 + scale.square())).sqrt() * z

        super().__init__(
            tau=Latent(lambda fan_in, tau0: dist.HalfCauchy(scale(fan_in) * tau0), "layer", init=_rms),
            lam=Latent(dist.HalfCauchy(1.0), per),
            c2=Latent(lambda fan_in: dist.InverseGamma(slab_df / 2, slab_df / 2 * slab_variance(fan_in)), "layer"),
            z=Latent(dist.Normal(0.0, 1.0), "weight"),
            weight=weight,
            included=shrinkage_below(0.5, by),
            knobs={"tau0": Knob(more="denser")},
        )


def _rms(weight: Tensor) -> Tensor:
    """Starts tau at the layer's own scale, so that z and lam start near one."""
    return weight.square().mean().sqrt().clamp_min(1e-6)


def _tau0(tau0: float | None, expected_density: float, fan_in: int) -> float:
    return expected_density / (1.0 - expected_density) / math.sqrt(fan_in) if tau0 is None else tau0


def _check(tau0: float | None, expected_density: float) -> None:
    if tau0 is not None and not tau0 > 0:
        raise ValueError(f"tau0 must be positive, not {tau0}")
    if not 0.0 < expected_density < 1.0:
        raise ValueError(f"expected_density must be strictly between 0 and 1, not {expected_density}")
