"""How dense a network is while it is trained: constant, thinned along a cubic or step by step, or in cycles."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

from bayesprune.models.checks.setting_types import checked_types

__all__ = ["ConstantDensity", "CubicDensity", "CyclicDensity", "DensitySchedule", "IteratedDensity"]

SHAPES = ("cosine", "triangular")
GOES = ("share", "number")
MOST = 1000
"""Cycles, or steps, in a fit."""


@dataclass(frozen=True)
class DensitySchedule:
    """Base of density schedules, frozen dataclasses that check their types, print, and mark checkpoints.

    Attributes:
        rises: Whether the density ever rises, so that weights come besides those that are exchanged.
        is_stepwise: Whether the density moves at the marks alone.
        settles: Share of the fit from which on the density is the final one.
        marks: Shares of the fit, rising, at which the density is met exactly whatever the interval of updates is.
    """

    def __post_init__(self) -> None:
        for name, value in checked_types(type(self).__name__, type(self), vars(self)).items():
            object.__setattr__(self, name, value)

    @property
    def settles(self) -> float:
        """Share of the fit from which on the density is the final one; default 0."""
        return 0.0

    @property
    def rises(self) -> bool:
        """Whether the density ever rises; default False."""
        return False

    @property
    def is_stepwise(self) -> bool:
        """Whether the density moves at the marks alone, so that masks need no update between them; default False."""
        return False

    @property
    def marks(self) -> tuple[float, ...]:
        """Shares of the fit at which the density is met exactly: there is an update; default `settles`, if above 0."""
        return (self.settles,) if self.settles > 0.0 else ()

    def at(self, share: float, final: float) -> float:
        """The density at a share of the fit.

        Args:
            share: How much of the fit is done, in [0, 1].
            final: Density in the end (fraction of weights that are in).
        """
        return final

    def exchanges(self, share: float) -> bool:
        """Whether weights are exchanged at that share, besides what comes or goes with the density; default True."""
        return True


@dataclass(frozen=True)
class ConstantDensity(DensitySchedule):
    """The final density from the first step on: what is always sparse (SET, RigL)."""


@dataclass(frozen=True)
class CubicDensity(DensitySchedule):
    """d_f + (d_i - d_f) (1 - p)^3 with p from 0 to 1 between two shares of the fit (Zhu & Gupta 2017, equation 1).

    Attributes:
        start: Density d_i in the beginning; default 1. A final density above it is kept throughout.
        begins: Share of the fit at which it begins to fall; default 0.
        ends: Share at which it is the final one; default 0.5.

    Raises:
        ValueError: If the start is no density, or the shares are not in order.
    """

    start: float = 1.0
    begins: float = 0.0
    ends: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.start <= 1.0 or not 0.0 <= self.begins < self.ends <= 1.0:
            raise ValueError(
                "CubicDensity takes a density start in (0, 1] and shares of the fit 0 <= begins < ends <= 1, not "
                f"{self.start}, {self.begins} and {self.ends}"
            )

    @property
    def settles(self) -> float:
        """`ends`."""
        return self.ends

    def at(self, share: float, final: float) -> float:
        """See `DensitySchedule.at`."""
        if share >= self.ends:
            return final  # to the last bit, and so the last of the layout's counts
        left = 1.0 - max(0.0, share - self.begins) / (self.ends - self.begins)
        return final + max(0.0, self.start - final) * left**3


@dataclass(frozen=True)
class IteratedDensity(DensitySchedule):
    """Down step by step, with training between the steps, evenly between two shares of the fit (Han et al. 2015).

    In every step the same share of what is left goes, 1 - (d_f / d_i)^(1 / steps), or the same number of weights. To
    take a quarter in each, as Stier, Darji & Granitzer (arXiv:2107.12917) do, 8 steps lead to a density of 0.1001.

    Attributes:
        steps: How many; default 8.
        start: Density d_i before the first; default 1. A final density above it is kept throughout.
        begins: Share of the fit after which the first step is; default 0.1.
        ends: Share after which the last one is; default 0.8. One step alone is here.
        goes: ``"share"`` (default) or ``"number"``: of what the same goes in each step.

    Raises:
        ValueError: If an argument is out of range.
    """

    steps: int = 8
    start: float = 1.0
    begins: float = 0.1
    ends: float = 0.8
    goes: str = "share"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.steps <= MOST:
            raise ValueError(
                f"IteratedDensity(steps=...) is a whole number of steps, from 1 to {MOST}, not {self.steps}"
            )
        if not 0.0 < self.start <= 1.0 or not 0.0 < self.begins < self.ends <= 1.0:
            raise ValueError(
                "IteratedDensity takes a density start in (0, 1] and shares of the fit 0 < begins < ends <= 1, not "
                f"{self.start}, {self.begins} and {self.ends}"
            )
        if self.goes not in GOES:
            raise ValueError(f"IteratedDensity(goes=...) takes {' or '.join(GOES)}, not {self.goes!r}")

    @property
    def settles(self) -> float:
        """`ends`."""
        return self.ends

    @property
    def is_stepwise(self) -> bool:
        """Yes."""
        return True

    @property
    def marks(self) -> tuple[float, ...]:
        """The steps."""
        apart = (self.ends - self.begins) / max(1, self.steps - 1)
        return (*(self.begins + number * apart for number in range(self.steps - 1)), self.ends)

    def at(self, share: float, final: float) -> float:
        """See `DensitySchedule.at`."""
        done = bisect.bisect_right(self.marks, share)
        if done == self.steps or self.start <= final:
            return final
        part = done / self.steps
        if self.goes == "share":
            return float(self.start * (final / self.start) ** part)
        return self.start + (final - self.start) * part


@dataclass(frozen=True)
class CyclicDensity(DensitySchedule):
    """Up from the final density to `top` times that and back, several times, then constant.

    In cycle position r in [0, 1): 1 + (top - 1) (1 - cos 2 pi r) / 2 times the final density, or along a triangle
    (ES2 code of Li et al., arXiv:2411.13545; two cycles of 50 of 250 epochs there). On the way up weights come by the
    growth score, on the way down they go by the drop score; none are exchanged besides. A cycle begins and ends SPARSE.

    Attributes:
        count: How many cycles; default 2.
        top: Density in the middle of a cycle, as a multiple of the final one; default 3. At most all weights are in.
        ends: Share of the fit that the cycles take together; default 0.4.
        shape: ``"cosine"`` (default) or ``"triangular"``.
        longer: Length of a cycle as a multiple of the one before; default 1.

    Raises:
        ValueError: If an argument is out of range.
    """

    count: int = 2
    top: float = 3.0
    ends: float = 0.4
    shape: str = "cosine"
    longer: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.count <= MOST:
            raise ValueError(
                f"CyclicDensity(count=...) is a whole number of cycles, from 1 to {MOST}, not {self.count}"
            )
        if not self.top >= 1.0 or not self.longer > 0.0:
            raise ValueError(f"CyclicDensity takes top >= 1 and longer > 0, not {self.top} and {self.longer}")
        if (self.count - 1) * abs(math.log(self.longer)) > 30.0:
            raise ValueError(
                f"CyclicDensity(longer={self.longer:g}) makes the longest of {self.count} cycles more than 1e13 times "
                "the shortest: give fewer cycles, or a factor nearer to 1"
            )
        if not 0.0 < self.ends <= 1.0:
            raise ValueError(
                f"CyclicDensity(ends=...) is the share of the fit that the cycles take, in (0, 1], not {self.ends}: "
                "cycles cannot be longer than the training"
            )
        if self.shape not in SHAPES:
            raise ValueError(f"CyclicDensity(shape=...) takes {' or '.join(SHAPES)}, not {self.shape!r}")

    @property
    def settles(self) -> float:
        """`ends`."""
        return self.ends

    @property
    def rises(self) -> bool:
        """Unless `top` is 1."""
        return self.top > 1.0

    @property
    def marks(self) -> tuple[float, ...]:
        """The middle and the end of each cycle."""
        found = []
        for begins, length in self._cycles():
            found += [begins + 0.5 * length, begins + length]
        return (*found[:-1], self.ends)

    def position(self, share: float) -> float:
        """Where in its cycle a share of the fit is, in [0, 1); 0 after the cycles."""
        if share >= self.ends:
            return 0.0
        begins, length = [(begins, length) for begins, length in self._cycles() if begins <= share][-1]
        return min((share - begins) / length, math.nextafter(1.0, 0.0))

    def _cycles(self) -> list[tuple[float, float]]:
        """Where each cycle begins, and how long it is, as shares of the fit."""
        lengths = [self.longer**number for number in range(self.count)]
        found, begins = [], 0.0
        for length in lengths:
            found.append((begins, length / sum(lengths) * self.ends))
            begins += found[-1][1]
        return found

    def at(self, share: float, final: float) -> float:
        """See `DensitySchedule.at`."""
        r = self.position(share)
        up = 0.5 * (1.0 - math.cos(2.0 * math.pi * r)) if self.shape == "cosine" else 1.0 - abs(2.0 * r - 1.0)
        return min(1.0, final * (1.0 + (self.top - 1.0) * up))

    def exchanges(self, share: float) -> bool:
        """Not inside of the cycles."""
        return share >= self.ends
