"""Where the thresholds of soft thresholding start, so that they wake up at a share of a fit of any length."""

from __future__ import annotations

import math

from bayesprune.inference.rules.schedules import Schedule, schedule_named
from bayesprune.inference.rules.threshold_forecast import WAKES, decayed, start_that_wakes
from bayesprune.models.checks.given_numbers import real_number, whole_number

__all__ = ["onset_start"]

ACTS = math.log(1e-2 / (1.0 - 1e-2))
"""s of a threshold of a hundredth, about from which weights of a network leave."""


def onset_start(
    weight_decay: float,
    steps: int,
    *,
    epochs: int = 100,
    learning_rate: float = 0.256,
    momentum: float = 0.875,
    schedule: str | Schedule = "warmup-cosine",
    share: float = 0.25,
) -> float:
    """The `init` of `SoftThreshold.from_paper` from which thresholds wake up (s = -8) after a share of a fit's steps.

    Until then s moves by its weight decay alone, |s| shrinking by exp(-weight_decay / (1 - momentum) sum of learning
    rates), as far as the fit has steps and its learning rates reach: the -3200 of the authors' ResNet-50, 500,500 steps
    on ImageNet, wakes up after a third of these, and is at -2018 after as many epochs on CIFAR, where nothing has been
    pruned. The defaults are those of `SoftThreshold.paper_fit`::

        start = bp.onset_start(5e-4, steps=100 * 196)

    Args:
        weight_decay: Of the prior, per datum.
        steps: Of the fit, in all.
        epochs: Of the fit, for a schedule by epoch; default 100.
        learning_rate: Highest one, of SGD; default 0.256.
        momentum: Of SGD; default 0.875.
        schedule: As `fit` takes it; default ``"warmup-cosine"``.
        share: Share of the steps after which they wake up, in (0, 1); default 0.25.

    Returns:
        s, below -8.

    Raises:
        ValueError: If a number is out of range; if the decay is too weak for so few steps, as the rest of the fit would
            not take thresholds to a hundredth, or so strong that any start wakes up before.
    """
    steps, epochs = whole_number("steps", steps), whole_number("epochs", epochs)
    given = {"weight_decay": weight_decay, "learning_rate": learning_rate, "momentum": momentum, "share": share}
    weight_decay, learning_rate, momentum, share = (real_number(name, value) for name, value in given.items())
    if not (weight_decay > 0.0 and learning_rate > 0.0 and 0.0 <= momentum < 1.0 and 0.0 < share < 1.0):
        raise ValueError(
            "onset_start needs a positive weight_decay and learning_rate, a momentum in [0, 1) and a share in (0, 1), "
            f"not {weight_decay:g}, {learning_rate:g}, {momentum:g} and {share:g}"
        )
    factor = schedule_named(schedule, epochs)
    rates = [learning_rate * factor(step / steps) for step in range(steps)]
    asleep = max(1, round(share * steps))
    start = start_that_wakes(weight_decay, rates[:asleep], momentum)
    if start is None or not math.isfinite(start):
        raise ValueError(
            f"with weight_decay={weight_decay:g} thresholds wake up before {share:g} of {steps:,} steps wherever they "
            "start: give a smaller share or a smaller weight_decay"
        )
    if decayed(start, weight_decay, rates, momentum)[-1] < ACTS:
        needed = (1.0 - momentum) * math.log(WAKES / ACTS) / max(sum(rates[asleep:]), 1e-30)
        raise ValueError(
            f"weight_decay={weight_decay:g} is too weak for {steps:,} steps: thresholds that wake up after a share of "
            f"{share:g} do not come to a hundredth in the rest, for which it takes {1.1 * needed:.2g}, or more steps"
        )
    return start
