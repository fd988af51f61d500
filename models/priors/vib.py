"""Variational information bottleneck: noise a group, whose prior's scale is fitted along with it."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from bayesprune.models.checks.setting_types import Extent
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import relative_threshold
from bayesprune.models.language.latent import Latent
from bayesprune.models.language.ready_registry import ready
from bayesprune.models.priors.group_noise import START_SPREAD, check_level, check_slab, weight_decayed

IMPROPER = "the scale of the noise is the best one for each guide, so there is no one prior"


class FittedNormal(TorchDistribution):
    """Normal(0, xi) with xi at its best, counted `strength` times.

    Under a Normal guide xi^2 = E z^2, which only its registered term knows. The log density here is that of the best xi
    for one value, which is log-uniform. It cannot be sampled.

    Args:
        strength: Factor on the KL divergence.
    """

    arg_constraints = {"strength": constraints.positive}
    support = constraints.real
    has_rsample = False
    only_by_term = True  # the best xi is one for all draws of a guide

    def __init__(self, strength: Any, validate_args: bool | None = None) -> None:
        self.strength = torch.as_tensor(
            strength, dtype=None if torch.is_tensor(strength) else torch.get_default_dtype()
        )
        super().__init__(self.strength.shape, validate_args=validate_args)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Refuses.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{IMPROPER}, and it cannot be sampled: fit it with a guide in place of NUTS or prior draws")

    def log_prob(self, value: Tensor) -> Tensor:
        """Strength times the largest log density of a Normal(0, xi) at the value, where xi = |value|, in nats."""
        return self.strength * (-value.abs().log() - 0.5 * math.log(2.0 * math.pi * math.e))

    def expand(self, batch_shape: Any, _instance: Any = None) -> FittedNormal:
        """Returns a distribution of the given batch shape."""
        return FittedNormal(self.strength.expand(batch_shape), False)


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
        super().__init__(
            z=Latent(lambda: FittedNormal(strength), per, guide="normal", init=1.0, spread=START_SPREAD),
            w=weight_decayed(slab_sd),
            weight=lambda z, w: z * w,
            included=relative_threshold(0.1),
            improper=IMPROPER,
        )
