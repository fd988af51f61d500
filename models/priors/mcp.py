"""MCP: the minimax concave penalty as an improper prior."""

from __future__ import annotations

import math

from bayesprune.models.checks.data_count import checked_data_size
from bayesprune.models.distributions.minimax_concave import IMPROPER, MinimaxConcave
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import relative_threshold
from bayesprune.models.language.knobs import Knob
from bayesprune.models.language.ready_registry import ready


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
            weight=lambda fan_in, lam: MinimaxConcave(slope(fan_in) * lam, reach(fan_in)),
            included=relative_threshold(0.1),
            default_guide="map",
            knobs={"lam": Knob()},
            budget="lam",
            improper=IMPROPER,
        )
