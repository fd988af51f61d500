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


def cyclical(count: int = 4) -> Schedule:
    """From 1 to 0 along half a cosine, several times: up again at once (Zhang et al. 2020, equation 1).

    (cos(pi mod(k - 1, K / M) / (K / M)) + 1) / 2 in step k of K for M cycles. Cycles are equal shares of the fit, so
    that one begins in the first step that lies in it; there they are ceil(K / M) steps, and the last one is cut short.

    Args:
        count: Number of cycles M; default 4.

    Raises:
        ValueError: If it is no whole number from 1 on.
    """
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"cyclical(count) takes a whole number of cycles, at least 1, not {count!r}")

    def factor(progress: float) -> float:
        if progress >= 1.0:
            return 0.0
        at = progress * count + 1e-9  # the cycles' first steps have rounded shares
        return cosine(max(0.0, at - math.floor(at) - 1e-9))

    return factor


def warmup(share: float) -> Schedule:
    """From 0 to 1 in a straight line over the first `share` of the steps, then 1."""
    return lambda progress: 1.0 if share <= 0.0 else min(1.0, progress / share)


def scaled(schedule: Schedule, factor: float) -> Schedule:
    """A schedule times a number."""
    return lambda progress: factor * schedule(progress)


def steps(milestones: Sequence[float], factor: float = 0.1) -> Schedule:
    """1, multiplied by `factor` at each milestone (shares of all steps)."""
    return lambda progress: factor ** sum(progress >= milestone for milestone in milestones)


def warmup_cosine(epochs: int, warmup: int = 5) -> Schedule:
    """By epoch, as image networks are trained: up to 1 in equal parts, then from 1 down along half a cosine.

    Epoch e, from 0, has (e + 1) / warmup before `warmup`, and then (1 + cos(pi (e - warmup) / (epochs - warmup))) / 2,
    so that the last one still moves (the public code of Kusupati et al. 2020, among others).

    Args:
        epochs: Of the fit: its steps are divided into so many equal parts.
        warmup: How many of them it rises; default 5.

    Raises:
        ValueError: If there is no epoch, or the warm-up is not from 0 to all of them.
    """
    if epochs < 1 or not 0 <= warmup <= epochs:
        raise ValueError(
            f"warmup_cosine needs an epoch at least, and a warm-up of none to all of them, not {epochs} and {warmup}"
        )

    def factor(progress: float) -> float:
        # The epochs' first steps have rounded shares; no epoch has a billion steps.
        epoch = min(math.floor(progress * epochs + 1e-9), epochs - 1)
        if epoch < warmup:
            return (epoch + 1) / warmup
        return 0.5 * (1.0 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))

    return factor


SCHEDULES: dict[str, Schedule] = {
    "constant": constant, "cosine": cosine, "hold-cosine": hold_then_cosine, "cyclical": cyclical()
}  # fmt: skip
BY_EPOCH: dict[str, Callable[[int], Schedule]] = {
    "warmup-cosine": lambda epochs: warmup_cosine(epochs, min(5, epochs // 4))
}
"""Schedules by name that are made for a number of epochs."""


def schedule_named(schedule: str | Schedule, epochs: int) -> Schedule:
    """Returns the schedule of that name, or the callable itself.

    Args:
        schedule: The name, or the callable.
        epochs: Of the fit.

    Raises:
        ValueError: If the name is unknown.
    """
    if callable(schedule):
        return schedule
    if schedule in BY_EPOCH:
        return BY_EPOCH[schedule](epochs)
    if schedule not in SCHEDULES:
        raise ValueError(
            f"schedule {schedule!r} is unknown: expected {', '.join((*SCHEDULES, *BY_EPOCH))}, or a callable of "
            "progress"
        )
    return SCHEDULES[schedule]
