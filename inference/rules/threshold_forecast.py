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

from bayesprune.inference.rules.rule import Run
from bayesprune.inference.rules.schedules import scaled, warmup
from bayesprune.models.checks.listed_names import listed
from bayesprune.models.language.learned_threshold import LearnedThreshold
from bayesprune.models.language.ready_registry import READY
from bayesprune.models.language.tensor_prior import TensorPrior
from bayesprune.models.priors.threshold_onset import decayed

__all__ = [
    "ASLEEP",
    "Sleeper",
    "asleep",
    "default_init",
    "shorter",
    "sleepers",
    "sleepers_in_words",
    "start_at",
    "strength_of",
]

ASLEEP = 1e-6
"""A threshold below this share of its tensor's largest |raw| is zero in effect."""
AWAKE, PRUNES = 1e-3, 0.03
"""From these shares on it counts as awake, and as one that leaves weights out."""
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
        init: Where it would have to start to wake at a quarter of the fit; None where the rest of the fit would not
            bring it to where it leaves weights out.
        setting: Name and value of the prior's setting with which it would, from where it is; None where none would.
        both: Where neither is, an `init` and such a setting with which it would, and would end leaving weights out.
        may_leave_out: Whether it would start awake without an `init`.
    """

    tensor: str
    start: float
    end: float
    init: float | None
    setting: tuple[str, float] | None
    both: tuple[float, tuple[str, float]] | None
    may_leave_out: bool


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
    paths: dict[float, _Path | None] = {}
    for name, one in thresholds.items():
        prior = one.prior
        if not run.steps or prior.hierarchy.is_annealed or moved & {f"{prior.pattern}.{knob}" for knob in one.knobs}:
            continue
        s, raw = values[one.site.name], values[one.raw.name]
        if not asleep(one.at(s), raw) or (precision := _precision(one, values)) is None:
            continue
        if precision not in paths:
            paths[precision] = _path(run, one, precision)
        path, largest, far = paths[precision], float(raw.abs().max()), float(s.flatten()[s.abs().argmax()])
        wakes, prunes = (start_at(one, s, share * largest, far) for share in (AWAKE, PRUNES))
        start = float(s.flatten()[s.abs().argmin()])
        if path is None or wakes is None or prunes is None or abs(end := path.end(start)) <= abs(wakes):
            continue
        init = path.init(wakes)
        if init is not None and abs(path.end(init)) > abs(prunes):
            init = None  # it would wake, and leave nothing out
        setting = path.setting(one, start, wakes)
        both = path.both(one, wakes, prunes) if init is None and setting is None else None
        found.append(Sleeper(name, start, end, init, setting, both, default_init(prior, start) is None))
    return found


def sleepers_in_words(found: Sequence[Sleeper], steps: int) -> str:
    """One sentence on thresholds that would sleep through a fit, and what to change.

    Args:
        found: What `sleepers` found, at least one.
        steps: Steps of the fit.
    """
    inits, settings = [one.init for one in found], [one.setting for one in found]
    pairs = [one.both for one in found if one.both is not None]
    numbers = [f"init={shorter(_nearest(inits))}"] if None not in inits else []
    numbers += [] if None in settings else [_strongest(settings)]
    if not numbers and len(pairs) == len(found):
        numbers = [
            f"init={shorter(_nearest([init for init, _ in pairs]))} and {_strongest([each for _, each in pairs])}"
        ]
    remedies = [f"{' or '.join(numbers)} to wake at a quarter of the fit"] if numbers else []
    remedies += ["leave init out"] if all(one.may_leave_out for one in found) else []
    remedy = f"{'give ' if numbers else ''}{', or '.join(remedies) or 'start s nearer to zero'}"
    what = "thresholds" if len(found) > 1 else "the threshold"
    return (
        f"{what} of {listed([one.tensor for one in found])} will be asleep to the end, and no weight becomes zero: the "
        f"prior alone moves s, from {_range([one.start for one in found])} to "
        f"{_range([one.end for one in found], 'about ')} in "
        f"{steps:,} steps: {remedy}"
    )


def _nearest(inits: Sequence[float | None]) -> float:
    """The start from which all of them come far enough."""
    return min((init for init in inits if init is not None), key=abs)


def _strongest(settings: Sequence[tuple[str, float] | None]) -> str:
    """The setting that is enough for all of them."""
    name, value = max((each for each in settings if each is not None), key=lambda pair: pair[1])
    return f"{name}={shorter(value)}"


def _range(values: Sequence[float], before: str = "") -> str:
    """A number with four digits and what stands before it, or the ends of several."""
    shown = list(dict.fromkeys(f"{value:.4g}" for value in sorted(values)))
    return f"{before}{shown[0]}" if len(shown) == 1 else f"between {shown[0]} and {shown[-1]}"


def strength_of(prior: TensorPrior) -> tuple[str, float] | None:
    """Name and value of the setting of a prior that says how hard s is drawn to its mode, where it has one."""
    arguments: dict[str, Any] = (prior.hierarchy.config or {}).get("arguments") or {}
    named = [(name, float(arguments[name])) for name in _STRENGTHS if isinstance(arguments.get(name), (int, float))]
    return named[0] if named else None


def default_init(prior: TensorPrior, otherwise: float) -> float | None:
    """Where s starts if a ready prior is not told: a number, or None for a start by the weights.

    Args:
        prior: The prior.
        otherwise: What is returned for a prior that is not ready or has no such setting.
    """
    entry = READY.get(str((prior.hierarchy.config or {}).get("name")))
    return otherwise if entry is None else entry.settings.get("init", otherwise)


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

    def both(self, one: LearnedThreshold, wakes: float, prunes: float) -> tuple[float, tuple[str, float]] | None:
        """A start and a setting by which it comes to `wakes` at a quarter of the fit, and to `prunes` by the end."""
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
        path = decayed(1.0, decay, rates, momentum)
        self._at_end, self._early = path[-1], path[len(self.early) - 1]
        # Half of the decay from which on momentum takes it beyond zero.
        most = 0.5 * (1.0 - math.sqrt(momentum)) ** 2
        self._most = most / (decay * max(rates)) if decay * max(rates) > 0.0 else 0.0

    def end(self, start: float) -> float:
        return start * self._at_end

    def init(self, wakes: float) -> float | None:
        return wakes / self._early if self._early > 0.0 else None

    def setting(self, one: LearnedThreshold, start: float, wakes: float) -> tuple[str, float] | None:
        strength = strength_of(one.prior)
        if strength is None or not 0.0 < self._early < 1.0:
            return None
        factor = math.log(start / wakes) / -math.log(self._early)
        return (strength[0], factor * strength[1]) if factor <= self._most else None

    def both(self, one: LearnedThreshold, wakes: float, prunes: float) -> tuple[float, tuple[str, float]] | None:
        strength = strength_of(one.prior)
        if strength is None or not 0.0 < self._at_end < self._early < 1.0 or not abs(wakes) > abs(prunes) > 0.0:
            return None
        factor = math.log(wakes / prunes) / math.log(self._early / self._at_end)
        if factor > self._most:
            return None
        return wakes * self._early**-factor, (strength[0], factor * strength[1])


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
    own, momentum = float(group["weight_decay"]), float(group["momentum"])
    lag = momentum / (1.0 - momentum) if momentum < 1.0 else 0.0  # the mean age of what momentum remembers
    decays = [precision / model.data_size * weight(max(0.0, step - lag) / steps) + own for step in range(steps)]
    most = max(decays)
    if not most > 0.0:
        return _Decay(rates, 0.0, 0.0)  # what nothing moves stays
    # What fades in is taken for a smaller rate, that of the steps which momentum remembers.
    rates = [r * decay / most for r, decay in zip(rates, decays, strict=True)]
    return _Decay(rates, most * (1.0 - float(group["dampening"])), momentum)


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
