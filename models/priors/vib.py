"""Variational information bottleneck: noise a group, whose prior's scale is fitted along with it."""

from __future__ import annotations

from torch import Tensor

from bayesprune.models.checks.setting_types import Extent
from bayesprune.models.distributions.fitted_normal import IMPROPER, FittedNormal
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import relative_threshold
from bayesprune.models.language.knobs import Knob
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.ready_registry import ready
from bayesprune.models.priors.group_noise import START_SPREAD, check_level, check_slab, weight_decayed


@ready("vib", "variational information bottleneck: noise a group, its prior's scale fitted")
class VIB(Hierarchy):
    """weight = z w with z ~ Normal(0, xi) a group, xi fitted in closed form; w ~ Normal(0, slab_sd) are points.

    Dai, Zhu, Guo & Wipf 2018: with q(z) = Normal(m, s) the best xi^2 is m^2 + s^2 and the KL divergence
    log(1 + m^2 / s^2) / 2. A group whose dropout rate alpha = s^2 / m^2 is large goes, by ``criterion="dropout-rate"``.

    Args:
        strength: Factor on the KL divergence; default 1, the evidence bound. The paper's gamma per datum is strength /
            data_size. Another than 1 is a tempered objective.
        slab_sd: Standard deviation of w; default None: sqrt(2 / fan_in), He's scale; infinity is no decay.
        per: Level of z: ``"output"`` (default), ``"input"`` or ``"kernel"``.

    Raises:
        ValueError: If an argument is out of range.
    """

    noise = "z"

    def __init__(self, strength: float = 1.0, slab_sd: Extent = None, per: str = "output") -> None:
        if not strength > 0:
            raise ValueError(f"VIB(strength=...) must be positive, not {strength}")
        check_slab("VIB", slab_sd)
        check_level("VIB(per=...)", per)
        declared = strength

        def price(strength: Tensor) -> FittedNormal:
            return FittedNormal(declared * strength)

        super().__init__(
            z=Latent(price, per, guide="normal", init=1.0, spread=START_SPREAD),
            w=weight_decayed(slab_sd),
            weight=lambda z, w: z * w,
            included=relative_threshold(0.1),
            knobs={"strength": Knob()},
            improper=IMPROPER,
        )
