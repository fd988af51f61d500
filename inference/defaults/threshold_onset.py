"""When a sleeping soft threshold wakes up: SGD moves its s by weight decay alone until g(s) is no longer zero.

While g(s) rounds to zero nothing of the loss reaches s (g' = g (1 - g), or g), so that what SGD does to it is known
before any training (Kusupati et al. 2020, section 2 of their code's settings): |s| shrinks by
exp(-weight_decay / (1 - momentum) sum of the learning rates). Here the steps are taken one by one, which is exact, also
for the first ones, where momentum has still to gather.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["WAKES", "decayed", "start_that_wakes", "wakes_at"]

WAKES = -8.0
"""s at which a threshold counts as awake: g(s) = 3.4e-4, about where the loss begins to act on it."""


def decayed(s: float, weight_decay: float, rates: Iterable[float], momentum: float = 0.0) -> list[float]:
    """Where s is after each step of SGD on weight_decay s^2 / 2, nothing else acting on it; proportional to its start.

    Args:
        s: Where it starts.
        weight_decay: Of a mean loss: the precision of s under its prior divided by the number of data.
        rates: Learning rate of each step.
        momentum: Of SGD, without dampening, not Nesterov's; default 0.

    Returns:
        As many values as there are rates.
    """
    velocity, path = 0.0, []
    for rate in rates:
        velocity = momentum * velocity + weight_decay * s
        s -= rate * velocity
        path.append(s)
    return path


def wakes_at(
    s: float, weight_decay: float, rates: Iterable[float], momentum: float = 0.0, wakes: float = WAKES
) -> int | None:
    """The first step, from 1, after which s is not below `wakes`; 0 where it does not start there, None where it stays.

    Args:
        s: Where it starts.
        weight_decay: As in `decayed`.
        rates: Learning rate of each step.
        momentum: As in `decayed`.
        wakes: s from which on it counts as awake; default `WAKES`.
    """
    if s >= wakes:
        return 0
    path = decayed(s, weight_decay, rates, momentum)
    return next((step for step, value in enumerate(path, 1) if value >= wakes), None)


def start_that_wakes(
    weight_decay: float, rates: Iterable[float], momentum: float = 0.0, wakes: float = WAKES
) -> float | None:
    """The start from which s comes to `wakes` with the last of these steps, and not before.

    Args:
        weight_decay: As in `decayed`.
        rates: Learning rate of each step up to then.
        momentum: As in `decayed`.
        wakes: s from which on it counts as awake; default `WAKES`.

    Returns:
        A number below `wakes`; None where there is none, as the decay takes any start beyond that in these steps.
    """
    left = min(decayed(1.0, weight_decay, rates, momentum), default=1.0)
    return wakes / left if left > 0.0 else None
