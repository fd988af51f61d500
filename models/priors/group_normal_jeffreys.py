"""Group normal-Jeffreys prior: a log-uniform scale a group."""

from __future__ import annotations

import pyro.distributions as dist

from bayesprune.models.distributions.log_uniform import IMPROPER, LogUniform
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import relative_threshold
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.ready_registry import ready
from bayesprune.models.priors.group_noise import START_SPREAD, check_level


@ready("group-normal-jeffreys", "log-uniform noise a row, column or kernel (improper)")
class GroupNormalJeffreys(Hierarchy):
    """z ~ LogUniform a group, w ~ Normal(0, 1), weight = z w (Louizos, Ullrich & Welling 2017).

    Improper: no simulation, and no MAP, so z has a Normal guide whatever the fit asks for. A group whose dropout rate
    alpha = var(z) / mean(z)^2 is large goes, by ``criterion="dropout-rate"``.

    Args:
        per: Level of z: ``"output"`` (default), ``"input"`` or ``"kernel"``.

    Raises:
        ValueError: If the level is another.
    """

    noise = "z"

    def __init__(self, per: str = "output") -> None:
        check_level("GroupNormalJeffreys(per=...)", per)
        super().__init__(
            z=Latent(LogUniform(), per, guide="normal", init=1.0, spread=START_SPREAD),
            w=Latent(dist.Normal(0.0, 1.0), init=lambda weight: weight),
            weight=lambda z, w: z * w,
            included=relative_threshold(0.1),
            improper=IMPROPER,
        )
