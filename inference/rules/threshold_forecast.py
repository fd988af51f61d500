"""Thresholds that start asleep: whether they wake before a fit ends, known before its first step.

While a threshold is zero in effect nothing of the loss reaches the latent s behind it, which its own prior alone moves:
by SGD |s| shrinks by a factor that learning rates, momentum and the prior's precision fix (Kusupati et al. 2020; see
`bayesprune.models.priors.threshold_onset`); by Adam s moves by its learning rate a step, whatever the precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesprune.inference.guides.learned_thresholds import LearnedThreshold
from bayesprune.inference.rules.rule import Run
from bayesprune.inference.rules.schedules import scaled, warmup
from bayesprune.models.checks.listed_names import listed
from bayesprune.models.priors.threshold_onset import decayed, start_that_wakes

__all__ = ["ASLEEP", "Sleeper", "asleep", "shorter", "sleepers", "sleepers_in_words", "start_at"]

ASLEEP = 1e-6
"""A threshold below this share of its tensor's largest |raw| is zero in effect."""
AWAKE = 1e-3
"""From this share on it counts as awake."""
SOON = 0.25
"""Share of a fit at which a threshold that is to wake had better be awake: later there is little time to prune."""
_HALVINGS = 60
_LINEAR = 1e-3
"""Largest relative difference of the pull on s and on s / 2, per unit, of a prior that decays s to zero."""
_STRENGTHS = ("weight_decay", "pressure")
"""Settings of a prior that the precision of s is proportional to, the first that is given."""


@dataclass(frozen=True)
class Sleeper:
    """A threshold that is asleep at the start of a fit, and at its end.

    Attributes:
        tensor: Name of its tensor.
        start: Where s is now.
        end: Where its prior alone takes it by the end.
        init: Where it would have to start to wake at a quarter of the fit; None where there is no such place.
        setting: Name and value of the prior's setting with which it would, from where it is; None where none would.
    """

    tensor: str
    start: float
    end: float
    init: float | None
    setting: tuple[str, float] | None


def asleep(threshold: Tensor, raw: Tensor) -> bool:
    """Whether all thresholds of a tensor are zero in effect.

    Args:
        threshold: The thresholds.
        raw: What is compared with them.
    """
    return float(threshold.max()) < ASLEEP * float(raw.abs().max())


def sleepers(run: Run, thresholds: Mapping[str, LearnedThreshold]) -> list[Sleeper]:
    """The thresholds that would sleep through a fit; none where its optimizer is neither SGD nor Adam.

    Nor where another rule moves a knob that the precision of s depends on, or this prior does not decay s to zero.

    Args:
        run: The restart, before its first step.
        thresholds: Its thresholds, by tensor.
    """
    moved = {knob for rule in run.rules.values() for knob in rule.moves}
    values, found = run.objective.guide.means(), []
    for name, one in thresholds.items():
        prior = one.prior
        if not run.steps or prior.hierarchy.is_annealed or moved & {f"{prior.pattern}.{knob}" for knob in one.knobs}:
            continue
        s, raw = values[one.site.name], values[one.raw.name]
        if not asleep(one.at(s), raw) or (precision := _precision(one, values)) is None:
            continue
        path = _path(run, one, precision)
        wakes = start_at(one, s, AWAKE * float(raw.abs().max()), float(s.flatten()[s.abs().argmax()]))
        if path is None or wakes is None:
            continue
        start = float(s.flatten()[s.abs().argmin()])
        end = path.end(start)
        if abs(end) <= abs(wakes):
            continue
        found.append(Sleeper(name, start, end, path.init(wakes), path.setting(one, start, wakes)))
    return found


def sleepers_in_words(found: Sequence[Sleeper], steps: int) -> str:
    """One sentence on thresholds that would sleep through a fit, and what to change.

    Args:
        found: What `sleepers` found, at least one.
        steps: Steps of the fit.
    """
    inits = [one.init for one in found if one.init is not None]
    settings: dict[str, float] = {}
    for one in found:
        if one.setting is not None:
            name, value = one.setting
            settings[name] = max(value, settings.get(name, 0.0))
    numbers = [f"init={shorter(min(inits, key=abs))}"] if len(inits) == len(found) else []
    numbers += [f"{name}={shorter(value)}" for name, value in settings.items()]
    timed = f"{' or '.join(numbers)} to wake at a quarter of the fit, or " if numbers else ""
    what = "thresholds" if len(found) > 1 else "the threshold"
    return (
        f"{what} of {listed([one.tensor for one in found])} will be asleep to the end, and no weight becomes zero: the "
        f"prior alone moves s, from {_range([one.start for one in found])} to {_range([one.end for one in found])} in "
        f"{steps:,} steps: give {timed}init=None, which starts awake"
    )


def _range(values: Sequence[float]) -> str:
    """A number with four digits, or the ends of several."""
    shown = list(dict.fromkeys(f"{value:.4g}" for value in sorted(values)))
    return shown[0] if len(shown) == 1 else f"between {shown[0]} and {shown[-1]}"


def start_at(one: LearnedThreshold, like: Tensor, threshold: float, far: float) -> float | None:
    """Where s has to be for a threshold, between some number and zero; None where it is not there.

    Args:
        one: The threshold, which rises or falls all the way.
        like: A value of s, for its shape.
        threshold: The threshold that is asked for.
        far: The number.
    """

    @torch.no_grad()
    def at(value: float) -> float:
        return float(one.at(torch.full_like(like, value, dtype=torch.float64)).max())

    near, low, high = 0.0, at(far), at(0.0)
    if not min(low, high) <= threshold <= max(low, high):
        return None
    for _ in range(_HALVINGS):
        middle = 0.5 * (far + near)
        far, near = (middle, near) if (at(middle) < threshold) == (low < threshold) else (far, middle)
    return near


class _Path:
    """The way of s while its prior alone moves it.

    Args:
        rates: Learning rate of each step.
    """

    def __init__(self, rates: Sequence[float]) -> None:
        self.rates = rates
        self.early = rates[: max(1, round(SOON * len(rates)))]

    def end(self, start: float) -> float:
        """Where it ends."""
        raise NotImplementedError

    def init(self, wakes: float) -> float | None:
        """Where it has to start to come to `wakes` at a quarter of the fit."""
        raise NotImplementedError

    def setting(self, one: LearnedThreshold, start: float, wakes: float) -> tuple[str, float] | None:
        """Name and value of a setting of the prior by which it does, from where it starts."""
        return None


class _Decay(_Path):
    """By SGD: in proportion to its start.

    Args:
        rates: Learning rate of each step, times the share of the decay that is in force.
        decay: Decay of a mean loss, fully in force.
        momentum: Of SGD.
    """

    def __init__(self, rates: Sequence[float], decay: float, momentum: float) -> None:
        super().__init__(rates)
        self.decay, self.momentum = decay, momentum

    def end(self, start: float) -> float:
        return decayed(start, self.decay, self.rates, self.momentum)[-1]

    def init(self, wakes: float) -> float | None:
        return start_that_wakes(self.decay, self.early, self.momentum, wakes)

    def setting(self, one: LearnedThreshold, start: float, wakes: float) -> tuple[str, float] | None:
        left = decayed(1.0, self.decay, self.early, self.momentum)[-1]
        config: dict[str, Any] = (one.prior.hierarchy.config or {}).get("arguments") or {}
        named = [(name, config[name]) for name in _STRENGTHS if isinstance(config.get(name), (int, float))]
        if not named or not 0.0 < left < 1.0:
            return None
        factor = math.log(start / wakes) / -math.log(left)
        # A decay that would overshoot zero in one step is no remedy.
        is_steady = factor * self.decay * max(self.rates) < 1.0 - self.momentum
        return (named[0][0], factor * float(named[0][1])) if is_steady else None


class _Steps(_Path):
    """By Adam: by its rate a step, whatever the decay, and by a decay of the optimizer's own where it is decoupled.

    Args:
        rates: Learning rate of each step.
        decay: The decoupled weight decay of the optimizer.
    """

    def __init__(self, rates: Sequence[float], decay: float) -> None:
        super().__init__(rates)
        self.decay = decay

    def end(self, start: float) -> float:
        far = abs(start)
        for rate in self.rates:
            far = max(0.0, far * (1.0 - rate * self.decay) - rate)
        return math.copysign(far, start)

    def init(self, wakes: float) -> float | None:
        far = abs(wakes)
        for rate in reversed(self.early):
            far = (far + rate) / (1.0 - rate * self.decay)
        return math.copysign(far, wakes)


def _path(run: Run, one: LearnedThreshold, precision: float) -> _Path | None:
    """The way of s in a run; None where nothing is known of its optimizer."""
    optimizer, model = run.optimizer, run.objective.model
    parameter = next((found for found, piece in run.slices(one.site.name) if piece.parameter == "location"), None)
    group = next((each for each in optimizer.param_groups if any(p is parameter for p in each["params"])), None)
    if parameter is None or group is None:
        return None
    rate, steps = run.learning_rate(parameter), run.steps
    rates = [rate(step / steps) for step in range(steps)]
    if type(optimizer) is torch.optim.Adam:
        return _Steps(rates, 0.0)
    if type(optimizer) is torch.optim.AdamW:
        return _Steps(rates, float(group["weight_decay"]))
    if type(optimizer) is not torch.optim.SGD:
        return None
    weight: Callable[[float], float] = scaled(warmup(run.kl_warmup), run.final_kl_weight)
    own = float(group["weight_decay"])
    decays = [precision / model.data_size * weight(step / steps) + own for step in range(steps)]
    most = max(decays)
    if not most > 0.0:
        return _Decay(rates, 0.0, 0.0)  # what nothing moves stays
    # What fades in is taken for a smaller rate: it is the same but for the few steps that momentum remembers.
    rates = [r * decay / most for r, decay in zip(rates, decays, strict=True)]
    return _Decay(rates, most * (1.0 - float(group["dampening"])), float(group["momentum"]))


def _precision(one: LearnedThreshold, values: Mapping[str, Tensor]) -> float | None:
    """Precision of s under its prior where that decays it to zero, at the entry nearest to zero; else None."""
    s = values[one.site.name].flatten()
    here = int(s.abs().argmin())
    found = [float(one.pull(values, factor).flatten()[here]) / (factor * float(s[here])) for factor in (1.0, 0.5)]
    if not all(map(math.isfinite, found)) or found[0] > 0.0 or abs(found[0] - found[1]) > _LINEAR * abs(found[0]):
        return None
    return -found[0]


def shorter(value: float) -> str:
    """A number with three digits, as it is typed."""
    return f"{value:.3g}"
