"""When masks are updated in a fit of so many steps, and at which share of the fit the schedule is read then."""

from __future__ import annotations

from bayesprune.inference.masks.density_schedules import DensitySchedule

__all__ = ["MOST_OF_A_FIT", "interval", "planned_updates"]

MOST_OF_A_FIT = 8
"""Updates that a fit, or the part of it in which the density moves, has at least, however long the interval is."""


def interval(every: int | float, steps: int, part: float) -> int:
    """Steps between updates, at least one.

    Args:
        every: Steps, or a share of the fit in (0, 1).
        steps: Of the fit.
        part: Share of the fit of which it is at most an eighth.
    """
    asked = every * steps if every < 1 else every
    return max(1, min(round(asked), int(part * steps + 1e-6) // MOST_OF_A_FIT))


def planned_updates(
    schedule: DensitySchedule,
    steps: int,
    every: int | float,
    within: int | float | None = None,
    until: float = 1.0,
) -> dict[int, float]:
    """The steps, from 1, after which masks are updated, with the share of the fit at which the schedule is read.

    While the density moves these are every `within`-th step and the schedule's marks, at which it is read exactly where
    they stand, so that no rounding to a step moves a cycle's middle or end; the marks alone where it moves at no other
    time, and no weights are exchanged. Then every `every`-th step until weights are exchanged no more; not the last
    one, after which nothing would be trained.

    Args:
        schedule: The density.
        steps: Of the fit.
        every: Steps between updates, or a share of the fit; at most an eighth of the fit.
        within: The same while the density moves, at most an eighth of the shortest rise and fall between marks, or of
            the time until it settles where it only falls; default None: as `every`.
        until: Share of the fit up to which weights are exchanged; 0: never.

    Raises:
        ValueError: If two marks fall on one step.
    """
    at: dict[int, float] = {}
    for mark in schedule.marks:
        step = min(max(1, round(mark * steps)), steps)
        if step in at:
            raise ValueError(
                f"the density cannot follow {schedule} in {steps} steps: two of its turns fall on step {step}, so fit "
                "for longer, or give fewer or longer cycles"
            )
        at[step] = mark
    settled = max(at, default=0)
    found: dict[int, float] = {}
    if settled and (until > 0.0 or not schedule.is_stepwise):
        marks = (0.0, *schedule.marks)
        part = min(b - a for a, b in zip(marks, marks[1:], strict=False)) if schedule.rises else schedule.settles
        each = interval(every if within is None else within, steps, 2 * part if schedule.rises else part)
        found = {step: step / steps for step in range(each, settled, each)}
    each = interval(every, steps, 1.0)
    first = settled - settled % each + each
    last = min(int(until * steps + 1e-6), steps - 1)
    found |= {step: step / steps for step in range(first, last + 1, each)}
    return dict(sorted((found | at).items()))
