"""Gaussian prior: weight decay as a model."""

from __future__ import annotations

import math

import pyro.distributions as dist

from bayesprune.models.checks.data_count import checked_data_size
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import relative_threshold
from bayesprune.models.language.ready_registry import ready


@ready("gaussian", "weight ~ Normal(0, sd): weight decay")
class Gaussian(Hierarchy):
    """weight ~ Normal(0, sd).

    Args:
        sd: Standard deviation of a weight; default None: sqrt(2 / fan_in), He's scale.

    Raises:
        ValueError: If `sd` is not positive.
    """

    def __init__(self, sd: float | None = None) -> None:
        if sd is not None and not sd > 0:
            raise ValueError(f"Gaussian(sd=...) must be positive, not {sd}")
        self._declare(sd, "meanfield")

    @classmethod
    @ready("weight-decay", "the same by MAP, by an optimizer's per-datum weight_decay")
    def from_weight_decay(cls, weight_decay: float, data_size: int | None = None) -> Gaussian:
        """By the weight decay of an optimizer on a mean loss: sd = 1 / sqrt(weight_decay data_size).

        By MAP, its default guide, the gradient per datum is weight_decay times the weight, as `torch.optim.SGD` adds
        it; under ``guide="meanfield"`` it is the same prior. It suits biases and other parameters that decay in a
        paper's training without having the paper's penalty. On weights it states constants that a fit does not temper
        by itself, as other priors of a paper do.

        Args:
            weight_decay: Per datum, positive.
            data_size: Number of training data; required.

        Raises:
            ValueError: If `weight_decay` is not positive, or `data_size` is missing.
        """
        total = checked_data_size("Gaussian.from_weight_decay", data_size)
        if not weight_decay > 0:
            raise ValueError(
                f"Gaussian.from_weight_decay needs a positive weight_decay, not {weight_decay}: a parameter without a "
                "prior has no decay"
            )
        self = cls.__new__(cls)
        self._declare(1.0 / math.sqrt(weight_decay * total), "map")
        self.full_kl = True
        return self

    @classmethod
    @ready("sparse-gaussian", "the same, at He's scale for the network that is left of sparse training")
    def at_density(cls, expected_density: float = 0.1) -> Gaussian:
        """By the share of weights that are in: sd = sqrt(2 / (expected_density fan_in)), as slabs have it by default.

        He's scale for the network that is left, where masks leave in so many weights (`DynamicMasks`): a unit of a
        twentieth of its inputs needs weights of four and a half times the size.

        Args:
            expected_density: Fraction of weights that are in, in (0, 1]; default 0.1.

        Raises:
            ValueError: If it is out of range.
        """
        if not 0.0 < expected_density <= 1.0:
            raise ValueError(f"Gaussian.at_density needs a density in (0, 1], not {expected_density}")
        self = cls.__new__(cls)
        self._declare(None, "meanfield", expected_density)
        return self

    def _declare(self, sd: float | None, default_guide: str, density: float = 1.0) -> None:
        super().__init__(
            weight=lambda fan_in: dist.Normal(0.0, math.sqrt(2.0 / (density * fan_in)) if sd is None else sd),
            included=relative_threshold(0.1),
            default_guide=default_guide,
        )
