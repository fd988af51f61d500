"""Cycles of density that begin dense and end sparse, as the learning rate of cyclical sampling begins hot."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bayesprune.inference.masks.density_schedules import DensitySchedule

__all__ = ["CoolingCycles"]


@dataclass(frozen=True)
class CoolingCycles(DensitySchedule):
    """Down from `top` times the final density to it and up again at once, several times, over the whole fit.

    In cycle position r in (0, 1], with u = min(1, r / (1 - rest)): 1 + (top - 1) (1 + cos pi u) / 2 times the final
    density, which so falls along half a cosine and then rests, while weights are exchanged before it rests and not
    after. With `cyclical` of the same count the learning rate is high where the network is dense: it then finds other
    modes, and what is collected at the end of a cycle has trained at the final density. `CyclicDensity`, as in EAST,
    is the other phase: sparse at the ends of a cycle and dense in the middle.

    The last step of a cycle belongs to it. Masks change at updates only: there is one where a cycle comes to rest and
    one where it ends (`marks`), and others on its way down as often as `DynamicMasks(within=...)` says.

    Attributes:
        count: How many cycles; default 4, as `CyclicalSampling` has.
        top: Density at the beginning of a cycle, as a multiple of the final one; default 3. At most all weights are
            in. 1: it is constant, and weights are exchanged in the hot part of a cycle alone.
        rest: Share of a cycle at its end in which the density is the final one, in (0, 1); default 0.5.

    Raises:
        ValueError: If an argument is out of range.
    """

    count: int = 4
    top: float = 3.0
    rest: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 1:
            raise ValueError(f"CoolingCycles(count=...) is a whole number of cycles, at least 1, not {self.count}")
        if not self.top >= 1.0 or not 0.0 < self.rest < 1.0:
            raise ValueError(f"CoolingCycles takes top >= 1 and rest in (0, 1), not {self.top} and {self.rest}")

    @property
    def settles(self) -> float:
        """Where the last cycle comes to rest."""
        return self.marks[-1]

    @property
    def rises(self) -> bool:
        """Whether there are cycles after the first, in which it rises at once."""
        return self.count > 1 and self.top > 1.0

    @property
    def marks(self) -> tuple[float, ...]:
        """Where each cycle comes to rest, and where it ends, but for the last end: no cycle begins a step early."""
        ends = range(1, self.count + 1)
        return tuple(mark for end in ends for mark in ((end - self.rest) / self.count, end / self.count))[:-1]

    def position(self, share: float) -> float:
        """Where in its cycle a share of the fit is, in (0, 1]; 0 at the very beginning."""
        at = min(share, 1.0) * self.count
        return at - max(0, math.ceil(at - 1e-9) - 1)  # the ends of cycles are rounded shares

    def at(self, share: float, final: float) -> float:
        """See `DensitySchedule.at`."""
        fallen = min(1.0, self.position(share) / (1.0 - self.rest))
        if fallen > 1.0 - 1e-9:
            return final
        return min(1.0, final * (1.0 + (self.top - 1.0) * 0.5 * (1.0 + math.cos(math.pi * fallen))))

    def exchanges(self, share: float) -> bool:
        """Not while it rests."""
        return self.position(share) < 1.0 - self.rest - 1e-9  # where it comes to rest is rounded too
