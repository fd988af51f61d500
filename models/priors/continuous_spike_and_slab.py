"""Continuous spike and slab: a narrow Normal in place of the exact zero, made narrower while the fit goes on."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from bayesprune.models.distributions.spike_slab_mixture import SpikeSlabMixture
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import slab_membership
from bayesprune.models.language.knobs import Knob
from bayesprune.models.language.ready_registry import ready

SPIKE_SHARE, INITIAL_SHARE = 0.01, 0.3
"""Default spike sd as a share of the slab's, so that weights in the spike matter little even in sums over many; and
that of the spike when the fit begins, near enough to the slab's that neither part holds a weight."""
MOST = 1.0 - 1e-6
"""Largest density that a schedule gives: a mixture has both parts."""


@ready("continuous-spike-and-slab", "mixture of a wide and a narrow Normal, which narrows during the fit")
class ContinuousSpikeAndSlab(Hierarchy):
    """z ~ Bernoulli(expected_density), weight ~ Normal(0, slab_sd if z else spike_sd) (George & McCulloch 1993).

    z is integrated out exactly: weight ~ `SpikeSlabMixture`, with p(z = 1 | weight) in closed form. During a fit the
    spike narrows from `initial_spike_sd` to `spike_sd` by a constant factor a step, over the share `annealing` of the
    steps, so that weights choose their part while that is still easy (Rockova & George 2018, dynamic posterior
    exploration, here within one fit). Then it stays, so that the fit ends on the objective of the declared prior.

    Args:
        expected_density: Prior probability (fraction of 1) of the slab; default 0.1.
        slab_sd: Standard deviation of a weight in the slab; default None: sqrt(2 / (expected_density fan_in)), He's
            scale for the network that is left.
        spike_sd: Standard deviation of a weight in the spike; default None: a hundredth of the slab's, or
            `initial_spike_sd` where that is smaller.
        initial_spike_sd: That of the spike when the fit begins; default None: three tenths of the slab's, or `spike_sd`
            where that is larger.
        annealing: Share of the steps over which the spike narrows, in [0, 1]; default 0.8. At 0 it is `spike_sd` from
            the first step.

    Raises:
        ValueError: If an argument is out of range; on a tensor, if the three standard deviations are not in the order
            spike_sd <= initial_spike_sd <= slab_sd.
    """

    def __init__(
        self,
        expected_density: float = 0.1,
        slab_sd: float | None = None,
        spike_sd: float | None = None,
        initial_spike_sd: float | None = None,
        annealing: float = 0.8,
    ) -> None:
        slab, spike = _widths(type(self).__name__, expected_density, slab_sd, spike_sd, initial_spike_sd, annealing)
        super().__init__(
            weight=(
                (lambda fan_in, progress: SpikeSlabMixture(expected_density, spike(fan_in, progress), slab(fan_in)))
                if annealing
                else (lambda fan_in: SpikeSlabMixture(expected_density, spike(fan_in), slab(fan_in)))
            ),
            included=slab_membership(),
        )


@ready("scheduled-spike-and-slab", "the same, its share of the slab a knob that a rule moves along a schedule")
class ScheduledSpikeAndSlab(Hierarchy):
    """z ~ Bernoulli(density), weight ~ Normal(0, slab_sd if z else spike_sd); a schedule moves the density.

    The prior of sparse training that is read as inference: a density schedule is an inclusion prior that moves, by
    `KnobSchedule("density", CyclicDensity())`, and magnitude pruning its median-probability model
    (`inclusion_threshold`). z is integrated out as in `ContinuousSpikeAndSlab`, whose spike it has; the widths do not
    move with the density.

    Args:
        expected_density: Prior probability (fraction of 1) of the slab, where the knob ``density`` is declared to
            stand, and where a schedule ends; default 0.1.
        slab_sd: As for `ContinuousSpikeAndSlab`.
        spike_sd: Likewise.
        initial_spike_sd: Likewise.
        annealing: Likewise.

    Raises:
        ValueError: As `ContinuousSpikeAndSlab`.
    """

    def __init__(
        self,
        expected_density: float = 0.1,
        slab_sd: float | None = None,
        spike_sd: float | None = None,
        initial_spike_sd: float | None = None,
        annealing: float = 0.8,
    ) -> None:
        slab, spike = _widths(type(self).__name__, expected_density, slab_sd, spike_sd, initial_spike_sd, annealing)
        super().__init__(
            weight=(
                (lambda fan_in, density, progress: SpikeSlabMixture(density, spike(fan_in, progress), slab(fan_in)))
                if annealing
                else (lambda fan_in, density: SpikeSlabMixture(density, spike(fan_in), slab(fan_in)))
            ),
            included=slab_membership(),
            knobs={"density": Knob(expected_density, more="denser", low=1e-12 * expected_density, high=MOST)},
        )


Spike = Callable[..., float | Tensor]


def _widths(
    name: str,
    expected_density: float,
    slab_sd: float | None,
    spike_sd: float | None,
    initial_spike_sd: float | None,
    annealing: float,
) -> tuple[Callable[[int], float], Spike]:
    """The standard deviations of slab and spike as functions of fan_in, that of the spike of the progress too.

    Raises:
        ValueError: If an argument of the prior of that name is out of range.
    """
    if not 0.0 < expected_density < 1.0:
        raise ValueError(f"{name}(expected_density=...) must be strictly between 0 and 1, not {expected_density}")
    for width, sd in {"slab_sd": slab_sd, "spike_sd": spike_sd, "initial_spike_sd": initial_spike_sd}.items():
        if sd is not None and not sd > 0:
            raise ValueError(f"{name}({width}=...) must be positive, not {sd}")
    if not 0.0 <= annealing <= 1.0:
        raise ValueError(f"{name}(annealing=...) is a share of steps in [0, 1], not {annealing}")

    def slab(fan_in: int) -> float:
        return math.sqrt(2.0 / (expected_density * fan_in)) if slab_sd is None else slab_sd

    def spike(fan_in: int, progress: Tensor | None = None) -> float | Tensor:
        widest = slab(fan_in)
        last = min(SPIKE_SHARE * widest, initial_spike_sd or widest) if spike_sd is None else spike_sd
        first = max(INITIAL_SHARE * widest, last) if initial_spike_sd is None else initial_spike_sd
        if not last <= first <= widest:
            raise ValueError(
                f"{name} needs spike_sd <= initial_spike_sd <= slab_sd, not {last:g}, {first:g} and {widest:g} (at "
                f"fan_in {fan_in}): change one of them"
            )
        if progress is None:
            return last
        left = (1.0 - progress / annealing).clamp_min(0.0)  # exactly 0 at the end: the spike is exactly the last
        return last * (first / last) ** left

    return slab, spike
