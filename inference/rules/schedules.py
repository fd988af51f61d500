"""Schedules: the extension point ``Schedule``, a callable from progress to a value.

Progress is the share of all steps that lie behind, from 0 to 1, so that a schedule does not depend on how long a
fit is. Anything that maps that number to a value is a schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Schedule = Callable[[float], float]


def constant(progress: float) -> float:
    """Always 1: the learning rate stays what it is."""
    return 1.0


def cosine(progress: float) -> float:
    """From 1 to 0 along half a cosine (Loshchilov & Hutter 2017)."""
    return 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def hold_then_cosine(progress: float, hold: float = 0.5) -> float:
    """1 for the first share `hold` of the steps, then to 0 along half a cosine."""
    return cosine(max(0.0, progress - hold) / (1.0 - hold))


def warmup(share: float) -> Schedule:
    """From 0 to 1 in a straight line over the first `share` of the steps, then 1."""
    return lambda progress: 1.0 if share <= 0.0 else min(1.0, progress / share)


def scaled(schedule: Schedule, factor: float) -> Schedule:
    """A schedule times a number."""
    return lambda progress: factor * schedule(progress)


def steps(milestones: Sequence[float], factor: float = 0.1) -> Schedule:
    """1, multiplied by `factor` at each milestone (shares of all steps)."""
    return lambda progress: factor ** sum(progress >= milestone for milestone in milestones)


SCHEDULES: dict[str, Schedule] = {"constant": constant, "cosine": cosine, "hold-cosine": hold_then_cosine}


def schedule_named(schedule: str | Schedule) -> Schedule:
    """Returns the schedule of that name, or the callable itself.

    Raises:
        ValueError: If the name is unknown.
    """
    if callable(schedule):
        return schedule
    if schedule not in SCHEDULES:
        raise ValueError(
            f"schedule {schedule!r} is unknown: expected {', '.join(SCHEDULES)}, or a callable of progress"
        )
    return SCHEDULES[schedule]
