"""Knobs that follow a schedule: a rule that moves a number of the prior along the share of the fit that is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from bayesprune.inference.masks.density_schedules import CyclicDensity, DensitySchedule
from bayesprune.inference.rules.rule import ActiveRule, Needs, Rule, Run, never
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.knobs import Knobs, MovingNumber

__all__ = ["ActiveKnobSchedule", "KnobSchedule"]


@dataclass(frozen=True)
class KnobSchedule(Rule):
    """Moves a knob of the priors along a schedule of the share of the fit, to where it was declared.

    ``KnobSchedule("density", CyclicDensity())`` on `ScheduledSpikeAndSlab` makes the inclusion prior follow the density
    of sparse training; give `DynamicMasks` the same schedule. All knobs of the name are moved, each from its own
    declared value, as the schedule's final one. Where a knob stands is a buffer of the model: both executions follow
    it, and a fit that is resumed goes on with it. In the end every knob is where it was declared, however early a fit
    is stopped.

    Attributes:
        knob: Name of the knob; or ``"pattern.name"``, that of one prior alone. Default ``"density"``.
        schedule: Its values as densities: `CyclicDensity()` (default), `CubicDensity(...)`, or a `DensitySchedule` of
            one's own, whose `at(share, final)` is any positive number. Those that are ready take declared
            values of at most 1.

    Raises:
        ValueError: If the schedule is none.
    """

    knob: str = "density"
    schedule: DensitySchedule = field(default_factory=CyclicDensity)
    name: ClassVar[str] = "knob_schedule"
    order: ClassVar[int] = -1  # what others look at before a step is where it stands in that step

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, DensitySchedule):
            raise ValueError(
                f"KnobSchedule(schedule=...) takes CubicDensity() or CyclicDensity(), not {self.schedule!r}"
            )

    def check(self, model: BayesianNetwork, options: Mapping[str, Any]) -> None:
        """Refuses a knob that no prior declares, and ready schedules on knobs that are no densities."""
        if self.knob not in model.knobs:
            known = ", ".join(model.knobs) or "none"
            raise ValueError(f"KnobSchedule({self.knob!r}) names no knob of the priors: theirs are {known}")
        ours = type(self.schedule).__module__ == DensitySchedule.__module__
        for key, number in numbers_of(model.knobs, self.knob).items():
            if ours and number.declared > 1.0:
                raise ValueError(
                    f"{type(self.schedule).__name__} is a schedule of densities, at most 1, but {key} is declared as "
                    f"{number.declared:g}: derive a DensitySchedule whose at(share, final) says where it stands"
                )

    def begin(self, run: Run) -> ActiveKnobSchedule:
        """Puts the knob where it stands in the first step."""
        return ActiveKnobSchedule(self, run)


class ActiveKnobSchedule(ActiveRule):
    """The moving knob of one restart.

    Args:
        rule: What was asked for.
        run: The restart.
    """

    needs = Needs(batch=never)

    def __init__(self, rule: KnobSchedule, run: Run) -> None:
        self.rule, self.run = rule, run
        model = run.objective.model
        self.moves = tuple(numbers_of(model.knobs, rule.knob))
        self._bounds = {
            f"{pattern}.{name}": knob.bounds
            for pattern, hierarchy in model.patterns.items()
            for name, knob in hierarchy.knobs.items()
        }
        self._put(0.0)  # a graph that is traced from here on has the knobs as inputs

    def before_step(self, step: int) -> None:
        """Puts the knob where it stands at the share of the fit before this step, that of the learning rate."""
        self._put((step - 1) / self.run.steps)

    def end(self) -> None:
        """Puts the knob where it was declared: the model that a fit is of."""
        for number in self._numbers().values():
            number.set(number.declared)

    def row(self) -> Mapping[str, float | Mapping[str, float]]:
        """Where the knobs stand at the end of the epoch, by key."""
        return {self.rule.name: {key: float(one.value) for key, one in self._numbers().items()}}

    def report(self) -> dict[str, Any]:
        """Which knobs were moved, and where they stand in the end."""
        return {"knobs": {key: float(one.value) for key, one in self._numbers().items()}}

    def _numbers(self) -> dict[str, MovingNumber]:
        """Of the model as it is now: another rule may replace it."""
        return numbers_of(self.run.objective.model.knobs, self.rule.knob)

    def _put(self, share: float) -> None:
        for key, number in self._numbers().items():
            low, high = self._bounds[key]
            number.set(min(max(self.rule.schedule.at(share, number.declared), low), high))


def numbers_of(knobs: Knobs, name: str) -> dict[str, MovingNumber]:
    """The numbers of a knob, by ``"pattern.name"``.

    Args:
        knobs: A model's knobs.
        name: Name of the knob, or ``"pattern.name"``.
    """
    group = knobs[name]
    return {f"{pattern}.{group.name}": knobs.of(pattern)[group.name] for pattern in group.values}
