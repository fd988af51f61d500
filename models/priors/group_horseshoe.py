"""Group horseshoe, its half-Cauchy scales taken apart into Gamma and inverse-Gamma factors."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor

from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import relative_threshold
from bayesprune.models.language.knobs import Knob
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.ready_registry import ready
from bayesprune.models.priors.group_noise import check_level


@ready("group-horseshoe", "half-Cauchy scales a group and a layer, all KLs in closed form")
class GroupHorseshoe(Hierarchy):
    """weight = s z w with z ~ HalfCauchy(1) a group, s ~ HalfCauchy(tau0) a layer and w ~ Normal(0, 1).

    Louizos, Ullrich & Welling 2017: s = sqrt(s_a s_b) with s_a ~ Gamma(1/2, 1 / tau0^2) and
    s_b ~ InverseGamma(1/2, 1), z likewise, which makes every KL divergence from a LogNormal guide closed.
    ``Horseshoe(per="output")`` is the same prior with z and s whole: one LogNormal in place of two multiplied, with a
    term that is in part from the draw.

    Args:
        tau0: Scale of the layer's s; default 1.
        per: Level of z: ``"output"`` (default), ``"input"`` or ``"kernel"``.

    Raises:
        ValueError: If `tau0` is not positive or the level is another.
    """

    def __init__(self, tau0: float = 1.0, per: str = "output") -> None:
        if not tau0 > 0:
            raise ValueError(f"GroupHorseshoe(tau0=...) must be positive, not {tau0}")
        check_level("GroupHorseshoe(per=...)", per)

        scale = tau0

        def weight(s_a: Tensor, s_b: Tensor, z_a: Tensor, z_b: Tensor, w: Tensor) -> Tensor:
            return (s_a * s_b).sqrt() * (z_a * z_b).sqrt() * w

        super().__init__(
            # s = 1 at the start: the heavy tail of s_b bears what is far from it.
            s_a=Latent(lambda tau0: dist.Gamma(0.5, scale**-2 * tau0**-2), "layer", init=scale**2),
            s_b=Latent(lambda: dist.InverseGamma(0.5, 1.0), "layer", init=scale**-2),
            z_a=Latent(lambda: dist.Gamma(0.5, 1.0), per, init=1.0),
            z_b=Latent(lambda: dist.InverseGamma(0.5, 1.0), per, init=1.0),
            w=Latent(dist.Normal(0.0, 1.0)),
            weight=weight,
            included=relative_threshold(0.1),
            knobs={"tau0": Knob(more="denser")},
        )
