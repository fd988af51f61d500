"""Thresholds: what a fit with learned thresholds tells of them while it runs and after; it changes no value."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import xarray as xr
from torch import Tensor

from bayesprune.inference.guides.left_in import left_in
from bayesprune.inference.rules.registry import brought_by
from bayesprune.inference.rules.rule import ActiveRule, Change, Needs, Rule, Run, Taken, never
from bayesprune.inference.rules.rule_traces import over_tensors
from bayesprune.inference.rules.threshold_forecast import (
    asleep,
    default_init,
    shorter,
    sleepers,
    sleepers_in_words,
    start_at,
    strength_of,
)
from bayesprune.models.checks.listed_names import listed
from bayesprune.models.checks.setting_types import checked_types
from bayesprune.models.language.inclusion import BeyondThreshold
from bayesprune.models.language.learned_threshold import LearnedThreshold, learned_thresholds

__all__ = ["ActiveThresholds", "Thresholds"]

SPREAD = (0.05, 0.95)
"""Quantiles of the thresholds of a tensor that has several."""
VARIABLES = ("threshold", "threshold_low", "threshold_high", "threshold_s")
"""What a row says of each tensor."""
_SMALL = 0.01
"""Share of the weights' root mean square at which a threshold starts well."""
_FARTHEST = 64.0
"""Largest |s| that is proposed."""


@brought_by(BeyondThreshold)
@dataclass(frozen=True)
class Thresholds(Rule):
    """Watches learned thresholds, such as those of `SoftThreshold`; the default rule of a model that has some.

    It changes no value. It refuses a start at which a tensor has no weight left; says before the first step which
    thresholds will be asleep to the end, by the decay of s under the optimizer, schedule and length of the fit; says
    when a tensor has lost its last weight, by name; and records thresholds and s after each epoch, in history, trace
    (``threshold``, ``threshold_s``, and ``threshold_low`` and ``threshold_high`` of tensors with several) and
    TensorBoard. Where they ended stands in ``settings["thresholds"]``. Densities are one minus the ``sparsity`` there.

    Attributes:
        every: Steps between two looks at what is left; default 25. After each epoch it looks anyway.

    Raises:
        ValueError: If `every` is no positive number of steps.
    """

    every: int = 25
    name: ClassVar[str] = "thresholds"
    order: ClassVar[int] = -2  # its last look comes after the last word of all others
    in_own_loops: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, value in checked_types("Thresholds", Thresholds, vars(self)).items():
            object.__setattr__(self, name, value)
        if self.every < 1:
            raise ValueError(f"Thresholds(every=...) is a number of steps, at least 1, not {self.every}")

    def begin(self, run: Run) -> ActiveThresholds:
        """Looks at the start.

        Raises:
            ValueError: If a tensor has no weight left there.
        """
        return ActiveThresholds(self, run)


class ActiveThresholds(ActiveRule):
    """The thresholds of one restart.

    Args:
        rule: The rule.
        run: The restart.

    Attributes:
        emptied: Each loss of a tensor's last weight: its name, the step by which it was seen, the threshold then, and
            the step by which weights were back, or None.
        forecast: Names of the tensors of which it was said that their thresholds will be asleep to the end.

    Raises:
        ValueError: If a tensor has no weight left.
    """

    needs = Needs(batch=never)

    def __init__(self, rule: Thresholds, run: Run) -> None:
        self.rule, self.run = rule, run
        self.emptied: list[dict[str, Any]] = []
        self.forecast: list[str] = []
        self._row: dict[str, dict[str, float]] = {}
        self._end: dict[str, dict[str, float]] = {}
        self._unread: list[tuple[int, tuple[str, ...], Tensor]] = []
        self.replaced()
        self._refuse_empty()

    def replaced(self) -> None:
        """Finds the thresholds of another model; what the one before had left is known."""
        self._read()
        self._thresholds = learned_thresholds(self.run.objective.model.priors)

    def before_step(self, step: int) -> None:
        """Says, before the first step, which thresholds will sleep through the fit."""
        if step == 1 and (found := sleepers(self.run, self._thresholds)):
            self.forecast = [one.tensor for one in found]
            self._say(sleepers_in_words(found, self.run.steps), warn=self.run.restart == 0)

    def after_step(self, taken: Taken) -> Change:
        """Looks at what is left when it is time to; on a device it reads the look before, which is done by now."""
        if taken.step % self.rule.every == 0:
            self._look(taken.step)
            if self._unread[-1][2].device.type == "cpu":
                self._read()
            else:
                self._read(but=1)
        return Change.NOTHING

    def after_epoch(self) -> Change:
        """Looks at all, for the row of the epoch."""
        self._look(self.run.step)
        self._read()
        self._row = self._recorded()
        return Change.NOTHING

    def end(self) -> None:
        """Looks at how it ended, after what others have changed."""
        self._look(self.run.step)
        self._read()
        model, row, left = self.run.objective.model, self._recorded(), left_in(self.run.objective.guide)
        self._end = {
            name: {
                "density": int(left[name].sum()) / model.declared_sizes[name],
                **{key: values[name] for key, values in row.items() if name in values},
            }
            for name in self._thresholds
        }
        back = dict.fromkeys(one["tensor"] for one in self.emptied if self._left.get(one["tensor"]))
        if back:
            ends = [f"{name} ended with {self._end[name]['density']:.2%} of its weights" for name in back]
            self._say(f"where nothing had been left weights came back: {listed(ends)}", warn=False)
        slept = [] if self.run.stop else self._slept()
        if slept:
            self._say(
                f"{'thresholds' if len(slept) > 1 else 'the threshold'} of {listed(slept)} never woke, so that no "
                "weight became zero: start s nearer to zero, or train longer",
                warn=False,
            )

    def row(self) -> Mapping[str, float | Mapping[str, float]]:
        """Thresholds and s at the end of the epoch by tensor, of several of one tensor their median and quantiles."""
        return self._row

    def report(self) -> dict[str, Any]:
        """Where each tensor's threshold ended, with its density; whose it was said would sleep; what was emptied."""
        return {"tensors": self._end, "forecast": self.forecast, "emptied": self.emptied}

    @classmethod
    def trace(cls, trace: xr.Dataset, rules: Sequence[Self]) -> xr.Dataset:
        """Has thresholds over the trace's tensors, with NaN for those without."""
        return over_tensors(trace, VARIABLES)

    def state_dict(self) -> dict[str, Any]:
        """What was seen and said."""
        return {
            "emptied": self.emptied, "forecast": self.forecast, "left": self._left, "row": self._row, "end": self._end,
        }  # fmt: skip

    def load_state_dict(self, kept: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.emptied, self.forecast, self._left = kept["emptied"], kept["forecast"], dict(kept["left"])
        self._row, self._end = kept["row"], kept["end"]

    # -- inside ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _refuse_empty(self) -> None:
        guide, left = self.run.objective.guide, left_in(self.run.objective.guide)
        self._left = {name: bool(left[name].any()) for name in self._thresholds}
        values = guide.means()
        for name, one in self._thresholds.items():
            if self._left[name]:
                continue
            raw, threshold = values[one.raw.name], one.at(values[one.site.name])
            largest = float(raw.abs().max())
            if largest == 0.0 and guide.are_points(one.prior):
                raise ValueError(
                    f"all weights of {name} are zero at the start, where nothing below a threshold can learn: leave it "
                    "without this prior, or start it at other values"
                )
            if largest > 0.0:
                raise ValueError(
                    f"no weight of {name} is left at the start: its largest |raw| is {largest:.3g}, and its threshold "
                    f"{float(threshold.min()):.3g}: {self._lower(one, values)}"
                )

    def _lower(self, one: LearnedThreshold, values: Mapping[str, Tensor]) -> str:
        """A start that leaves nearly all weights in, as the end of a sentence."""
        small = _SMALL * float(values[one.raw.name].square().mean().sqrt())
        here = float(values[one.site.name].min())
        init = start_at(one, values[one.site.name], small, -_FARTHEST)
        ways = [] if init is None else [f"give init={shorter(init)} or lower"]
        ways += [] if default_init(one.prior, here) == here else ["leave init out"]
        return ", or ".join(ways) or "let s start lower"

    @torch.no_grad()
    def _look(self, step: int) -> None:
        """Notes, where they are, whether anything is left of each tensor, and its median threshold."""
        guide = self.run.objective.guide
        left, values = left_in(guide), guide.means()
        numbers = [
            number
            for name, one in self._thresholds.items()
            for number in (left[name].any().float(), one.at(values[one.site.name]).float().median())
        ]
        if numbers:
            self._unread.append((step, tuple(self._thresholds), torch.stack(numbers)))

    def _read(self, but: int = 0) -> None:
        """Reads the looks that are unread, the latest `but` ones excepted."""
        while len(self._unread) > but:
            step, names, numbers = self._unread.pop(0)
            gone: dict[str, float] = {}
            for name, (is_left, threshold) in zip(names, numbers.view(-1, 2).tolist(), strict=True):
                if self._left[name] and not is_left:
                    gone[name] = threshold
                elif is_left and not self._left[name]:
                    self._comes_back(name, step)
                self._left[name] = bool(is_left)
            self._tell_of(gone, step)

    def _tell_of(self, gone: Mapping[str, float], step: int) -> None:
        """Notes which tensors have been emptied, with their thresholds, and says so the first time."""
        known = {one["tensor"] for one in self.emptied}
        remedies: dict[str, list[str]] = {}
        for name, threshold in gone.items():
            self.emptied.append({"tensor": name, "step": step, "threshold": threshold, "back_at": None})
            if name not in known:
                remedies.setdefault(self._gentler(name), []).append(name)
        for remedy, names in remedies.items():
            at = listed([shorter(gone[name]) for name in names])
            whose = f"whose {'thresholds are' if len(names) > 1 else 'threshold is'} {at}"
            self._say(f"at step {step:,} nothing is left of {listed(names)}, {whose}: {remedy}")

    def _comes_back(self, name: str, step: int) -> None:
        latest = next((one for one in reversed(self.emptied) if one["tensor"] == name), None)
        if latest is not None:
            latest["back_at"] = step

    def _gentler(self, name: str) -> str:
        """What draws the thresholds of a tensor up less."""
        model = self.run.objective.model
        prior = model.priors[name]
        moved = {key for rule in self.run.rules.values() for key in rule.moves}
        knobs = {f"{prior.pattern}.{key}": knob for key, knob in prior.hierarchy.knobs.items()}
        steered = [key for key in knobs if key in moved]
        if any((model.knobs[key].factor > 1.0) == (knobs[key].more == "sparser") for key in steered):
            return "give the budget a larger density, or one by layer"
        instead, strength = "" if steered else ", or a Budget, as a whole or by layer", strength_of(prior)
        if strength is None:
            return f"let its prior draw s up less{instead}"
        return f"give {strength[0]}={shorter(0.1 * strength[1])} in place of {strength[1]:g}{instead}"

    def _slept(self) -> list[str]:
        """Tensors whose thresholds are zero in effect and were so after each epoch, but for those foreseen."""
        values = self.run.objective.guide.means()
        rows = [self._recorded(), *self.run.history]
        found = []
        for name, one in self._thresholds.items():
            known = [row["threshold"][name] for row in rows if name in row.get("threshold", {})]
            if name not in self.forecast and asleep(torch.tensor(known), values[one.raw.name]):
                found.append(name)
        return found

    @torch.no_grad()
    def _recorded(self) -> dict[str, dict[str, float]]:
        values, row = self.run.objective.guide.means(), {key: dict[str, float]() for key in VARIABLES}
        for name, one in self._thresholds.items():
            s = values[one.site.name]
            threshold = one.at(s).double().flatten()
            row["threshold"][name], row["threshold_s"][name] = float(threshold.median()), float(s.median())
            if len(threshold) > 1:
                low, high = threshold.quantile(threshold.new_tensor(SPREAD)).tolist()
                row["threshold_low"][name], row["threshold_high"][name] = low, high
        return {key: found for key, found in row.items() if found}

    def _say(self, sentence: str, warn: bool = True) -> None:
        """As a note of the guide, and as a warning."""
        self.run.objective.guide.notes.append(sentence)
        if warn:
            warnings.warn(sentence, UserWarning, stacklevel=2)
