"""MCP: the minimax concave penalty as an improper prior."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import relative_threshold
from bayesprune.models.language.ready_registry import ready
from bayesprune.models.priors.data_count import checked_data_size

IMPROPER = "its penalty is constant for large weights, so it has no normaliser; fit it with guide='map'"


class MinimaxConcave(TorchDistribution):
    """exp(-penalty) with the minimax concave penalty (Zhang 2010); improper, so it cannot be sampled.

    The penalty of a value w, lam times the integral of (1 - x / (gamma lam))_+ over x from 0 to |w|, is
    lam |w| - w^2 / (2 gamma) for |w| <= gamma lam and gamma lam^2 / 2 beyond.

    Args:
        lam: Slope at zero, in nats.
        gamma: Minus the reciprocal of the curvature up to gamma lam.
    """

    arg_constraints = {"lam": constraints.positive, "gamma": constraints.positive}
    support = constraints.real
    has_rsample = False

    def __init__(self, lam: Any, gamma: Any, validate_args: bool | None = None) -> None:
        self.lam, self.gamma = broadcast_all(lam, gamma)
        super().__init__(self.lam.shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus the penalty in nats: zero at zero, and not normalised."""
        size = torch.minimum(value.abs(), self.gamma * self.lam)
        return size * (0.5 / self.gamma * size - self.lam)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Refused.

        Raises:
            ValueError: Always: the density has no normaliser.
        """
        raise ValueError(f"this prior cannot be simulated: {IMPROPER}")

    def expand(self, batch_shape: Any, _instance: Any = None) -> MinimaxConcave:
        """Returns a distribution of the given batch shape."""
        return MinimaxConcave(self.lam.expand(batch_shape), self.gamma.expand(batch_shape), validate_args=False)


@ready("mcp", "minimax concave penalty: the lasso near zero, flat for large weights (improper)")
class MCP(Hierarchy):
    """log p(weight) = -MCP(weight; lam, gamma), flat for large weights: they are not shrunk (Zhang 2010).

    Small weights are penalised as by the lasso, lam |weight|; from gamma lam on the penalty is constant. Constants are
    in full-data nats. The prior is improper, so it cannot be simulated, and it suits a MAP: under another guide the
    spread of a weight that the data leave free grows without bound. Large weights are not held back, so that separable
    data have no MAP either. For independent weights there is one optimum where the data's curvature exceeds 1 / gamma.

    Args:
        lam: Slope at zero; default None: sqrt(fan_in), that of `Laplace()`.
        gamma: The penalty is constant from gamma lam on; default None: that point is sqrt(8 / fan_in), two of He's
            standard deviations.

    Raises:
        ValueError: If an argument is not positive.
    """

    def __init__(self, lam: float | None = None, gamma: float | None = None) -> None:
        for name, value in {"lam": lam, "gamma": gamma}.items():
            if value is not None and not value > 0:
                raise ValueError(f"MCP({name}=...) must be positive, not {value}")
        self._declare(lam, gamma)

    @classmethod
    @ready("mcp-paper", "the same by per-datum constants lam and gamma")
    def from_paper(cls, lam: float, gamma: float, data_size: int | None = None) -> MCP:
        """By constants of a mean loss, mean loss + MCP(weight; lam, gamma): in full-data nats lam n and gamma / n.

        The point gamma lam from which the penalty is constant is the same in both.

        Args:
            lam: Slope at zero per datum.
            gamma: Of the penalty per datum.
            data_size: Number n of training data; required.

        Raises:
            ValueError: If a constant is not positive or `data_size` is missing.
        """
        total = checked_data_size("MCP.from_paper", data_size)
        if not (lam > 0 and gamma > 0):
            raise ValueError(f"MCP.from_paper needs lam > 0 and gamma > 0, not {lam} and {gamma}")
        self = cls.__new__(cls)
        self._declare(lam * total, gamma / total)
        self.full_kl = True
        return self

    def _declare(self, lam: float | None, gamma: float | None) -> None:
        def slope(fan_in: int) -> float:
            return math.sqrt(fan_in) if lam is None else lam

        def reach(fan_in: int) -> float:
            return math.sqrt(8.0 / fan_in) / slope(fan_in) if gamma is None else gamma

        super().__init__(
            weight=lambda fan_in: MinimaxConcave(slope(fan_in), reach(fan_in)),
            included=relative_threshold(0.1),
            default_guide="map",
            improper=IMPROPER,
        )
