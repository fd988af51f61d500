"""Budget: moves the knob of a prior while a fit runs, so that it ends as sparse, or as small, as it was asked to be."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bayesprune.inference.rules.budget_measures import Measure, Part, WeightMeasure, asked_of, measure_of
from bayesprune.inference.rules.rule import ActiveRule, Change, Needs, Rule, Run, Taken, never
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.setting_types import checked_types
from bayesprune.models.costs.layer_budgets import LayerBudget, counts_by_layer
from bayesprune.models.language.knobs import Knob

__all__ = ["ActiveBudget", "Budget"]

KINDS = ("density", "macs", "parameters")
_POWER = 2.0
"""Of the ramp of the logarithm: fast while learning rates are high, slow where weights shrink by themselves."""
_SMOOTHING = 0.3
"""Weight of the latest difference in the slope."""
_EASE = 8.0
"""How much more an error counts where too little is left: weights that a prior has shrunk come back slowly or never."""
_LARGEST = 1.5
"""Largest error, in nats, that counts: while nothing reacts yet, the knob moves at this rate and no faster."""
_SHORT = 2500
"""Steps of a fit below which the knob moves no faster a step."""
_UPDATES = 40
"""Fewest updates of a fit; shorter ones are looked at more often than every `every` steps."""
_FAR = 0.25
"""From this relative distance on that the last correction had to make, a fit says so."""
_FAR_SHIFT, _FAR_SHARE = 1.0, 0.01
"""The same of a common shift of log odds in nats, and of what it adds to the share of undecided probabilities."""


@dataclass(frozen=True)
class Budget(Rule):
    """How many weights, MACs or parameters a fit is to end with; give exactly one.

    It moves the knob that the prior offers (kappa of `HALO`, prior odds of `SpikeAndSlab`, lam of `L0HardConcrete`, the
    price of `UnitGates`, ...; ``Hierarchy(knobs=, budget=)`` for one's own) by a controller: from `ramp[0]` on the
    logarithm of what is left is to fall along a parabola to the budget at `ramp[1]`, and to stay there. Every `every`
    steps the logarithm of the knob moves by `gain` times the share of the fit that has passed since, times the error
    that is to be expected `lead` later, by the slope of now. What is still missing in the end is met by the smallest
    change that does it (`bayesprune.inference.rules.budget_landing`). Counted is each prior's own rule of what is left:
    ``fit.settings["budget"]`` names it, and docs/budget.md has the table.

    Where the knob ends is kept with the fit: its model is the prior at that knob.

    A density by layer is met by every tensor exactly. A prior whose pattern matches one tensor has a knob of its own
    and is steered by it; tensors of one pattern share their knob, and are steered by their sum and landed one by one.
    Tensors of which nothing is said stay what their prior makes of them, and are not counted.

    Attributes:
        density: Share of the weights with a prior that are left, in (0, 1), or their number. Or by layer: a
            `LayerBudget`, or shares in (0, 1] and whole numbers from 2 on by name of tensor or shell pattern of names.
        macs: Share of the MACs of the network as it was declared, in (0, 1), or their number; with gates of units.
        parameters: The same of its parameters.
        ramp: Shares of the fit at which the ramp begins and ends; default that of the knob, or else (0.2, 0.8), as
            priors fade in before. With
            gates of units (0.35, 0.85) of the steps until they are rounded: they wait for the weights before.
        every: Steps between updates; default 25, fewer in fits of less than a thousand steps.
        gain: How much the knob's logarithm moves over a whole fit for an error of one nat; default 20.
        lead: How far ahead, as a share of the fit, what is left is extrapolated; default 0.08.

    Raises:
        ValueError: If not exactly one budget is given, or a value is out of range.
    """

    density: float | int | LayerBudget | Mapping[str, float] | None = None
    macs: float | int | None = None
    parameters: float | int | None = None
    ramp: tuple[float, float] | None = None
    every: int = 25
    gain: float = 20.0
    lead: float = 0.08
    name: ClassVar[str] = "budget"
    order: ClassVar[int] = -1  # it steers before others round, and its last word is the last

    def __post_init__(self) -> None:
        for name, value in checked_types("Budget", Budget, vars(self)).items():
            object.__setattr__(self, name, tuple(value) if isinstance(value, (list, tuple)) else value)
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"Budget takes exactly one of {', '.join(KINDS)}, not {' and '.join(given) or 'none'}: write "
                "Budget(density=0.02)"
            )
        asked = getattr(self, given[0])
        if isinstance(asked, (LayerBudget, Mapping)):
            counts_by_layer(asked)
            if not isinstance(asked, LayerBudget):  # a copy: what is asked for stays that
                object.__setattr__(self, "density", dict(asked))
        elif not (0.0 < asked < 1.0 or (asked >= 1 and float(asked).is_integer())):
            raise ValueError(f"Budget({given[0]}=...) is a share in (0, 1) or a whole number of them, not {asked}")
        if self.ramp is not None and not 0.0 <= self.ramp[0] < self.ramp[1] <= 1.0:
            raise ValueError(f"Budget(ramp=...) takes two shares of the fit, the first one smaller, not {self.ramp}")
        if self.every < 1 or not self.gain > 0 or not 0.0 <= self.lead <= 1.0:
            raise ValueError(
                f"Budget needs every >= 1, gain > 0 and lead in [0, 1], not {self.every}, {self.gain} and {self.lead}"
            )

    @property
    def kind(self) -> str:
        """Of what the budget is: ``"density"``, ``"macs"`` or ``"parameters"``."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    def target(self, whole: float) -> float:
        """The budget as a number, of `whole`.

        Raises:
            ValueError: If it is more than the whole, or one by layer, which is no number.
        """
        asked = getattr(self, self.kind)
        if isinstance(asked, (LayerBudget, Mapping)):
            raise ValueError("a budget by layer is no single number: ask counts_by_layer for those of its tensors")
        return asked_of(self.kind, asked, whole)

    def check(self, model: BayesianNetwork, options: Mapping[str, Any]) -> None:
        """Refuses a model that has no knob for the budget, and a budget that is more than there is."""
        measure_of(model, self.kind, getattr(self, self.kind))

    def begin(self, run: Run) -> ActiveBudget:
        """Begins to steer."""
        return ActiveBudget(self, run)


class Controller:
    """Moves the knobs of one part of a budget together.

    Args:
        budget: What was asked for.
        run: The restart.
        part: The part.
        ramp: Shares of the fit at which its ramp begins and ends.

    Attributes:
        part: The part.
        at_start: Where its knobs stood at the start, by key.
    """

    def __init__(self, budget: Budget, run: Run, part: Part, ramp: tuple[float, float]) -> None:
        self.part, self._budget, self._run, self._ramp = part, budget, run, ramp
        self.at_start = {key: run.objective.model.knobs[key].value for key in part.knobs}
        self._quicker = _quicker(part, run.final_kl_weight)
        first = next(iter(part.knobs.values()))
        self._moved = math.log(first.begins) / self._sign(first)
        self._begun_at: float | None = None
        self._before: float | None = None
        self._slope = 0.0
        self._apply()  # a graph that is traced from here on has the knobs as inputs

    def wanted(self, share: float) -> float:
        """What is to be left at a share of the fit: the logarithm falls along a parabola, from where it was found."""
        start = self.part.whole if self._begun_at is None else self._begun_at
        return self.part.target * (start / self.part.target) ** ((1.0 - along(self._ramp, share)) ** _POWER)

    def steer(self, share: float, signal: float, passed: float, every: int) -> None:
        """Moves the knobs by what is left now.

        Args:
            share: How much of the fit is done.
            signal: What is left, or is going to be.
            passed: How much of the fit has passed since the last time.
            every: In how many steps.
        """
        if self._begun_at is None:
            self._begun_at = max(signal, self.part.target)
        now = math.log(max(signal, 0.5))
        if self._before is not None:
            self._slope += _SMOOTHING * ((now - self._before) / passed - self._slope)
        self._before = now
        lead = self._budget.lead
        error = now + lead * self._slope - math.log(self.wanted(share + lead))
        passed = min(passed, every / _SHORT)  # parameters move so far a step, however short the fit is
        error = min(_LARGEST, max(-_LARGEST, error if error > 0.0 else _EASE * error))
        self._moved += self._budget.gain * passed * error
        self._apply()

    def factor(self) -> float:
        """By how much the knob has moved; of the first, where there are several."""
        key = next(iter(self.part.knobs))
        return self._run.objective.model.knobs[key].value / self.at_start[key]

    def state_dict(self) -> dict[str, Any]:
        """All that the next update depends on; the knobs are buffers of the model."""
        return {
            "moved": self._moved, "begun_at": self._begun_at, "before": self._before, "slope": self._slope,
            "at_start": self.at_start, "quicker": self._quicker,
        }  # fmt: skip

    def load_state_dict(self, kept: Mapping[str, Any]) -> None:
        """Goes on from there.

        Raises:
            ValueError: If it is that of other knobs.
        """
        if set(kept["at_start"]) != set(self.at_start):
            raise ValueError(f"its budget moves {', '.join(kept['at_start'])}, not {', '.join(self.at_start)}")
        ratio = kept.get("quicker", 1.0) / self._quicker  # states of earlier versions moved all at one pace
        self._moved, self._begun_at, self._before = kept["moved"] * ratio, kept["begun_at"], kept["before"]
        self._slope, self.at_start = kept["slope"], dict(kept["at_start"])

    def _sign(self, knob: Knob) -> float:
        """How far the knob's logarithm goes for one unit of `_moved`, which is positive towards sparser."""
        return self._quicker * (knob.pace if knob.more == "sparser" else -knob.pace)

    def _apply(self) -> None:
        """Sets the knobs to their start times their factor; a move beyond all bounds is not remembered."""
        steps = []
        for key, knob in self.part.knobs.items():
            sign = self._sign(knob)
            least, most = knob.bounds
            start = self.at_start[key]
            value = min(max(start * math.exp(sign * self._moved), least), most)
            steps.append(math.log(value / start) / sign)
            self._run.objective.model.knobs[key].set(value)
        self._moved = max(steps) if self._moved >= 0.0 else min(steps)


def _quicker(part: Part, kl_weight: float) -> float:
    """How many times as far as at KL weight 1 prior odds are moved: what they do to log odds is multiplied by it.

    Log odds of gates end at those of the prior plus what the data say, divided by the KL weight T, and on the way they
    are drawn there by T times what is missing: a tempered fit follows the same move of the prior more slowly.
    """
    odds = all(knob.shift is not None and knob.more == knob.shift_to == "denser" for knob in part.knobs.values())
    return 1.0 / kl_weight if odds and 0.0 < kl_weight < 1.0 else 1.0


def along(ramp: tuple[float, float], share: float) -> float:
    """How far along a ramp a share of the fit is, in [0, 1]."""
    begin, end = ramp
    return min(1.0, max(0.0, (share - begin) / (end - begin)))


class ActiveBudget(ActiveRule):
    """What is at work in one restart: a controller for each part of the budget.

    Args:
        budget: What was asked for.
        run: The restart.
    """

    needs = Needs(batch=never)

    def __init__(self, budget: Budget, run: Run) -> None:
        self.budget, self.run = budget, run
        self._measure: Measure = measure_of(run.objective.model, budget.kind, getattr(budget, budget.kind))
        self._target = sum(part.target for part in self._measure.parts)
        self._whole = sum(part.whole for part in self._measure.parts)
        own = next((knob.ramp for part in self._measure.parts for knob in part.knobs.values() if knob.ramp), None)
        self._ramp = budget.ramp or own or ((0.35, 0.85) if self._measure.settles else (0.2, 0.8))
        self._controllers = [Controller(budget, run, part, self._ramp) for part in self._measure.parts]
        self.moves = tuple(key for one in self._controllers for key in one.part.knobs)
        self._row: dict[str, float] = {}
        self._landing: dict[str, Any] = {}

    def before_step(self, step: int) -> None:
        """Refuses, before the first step, gates that are never rounded."""
        if step == 1:
            self._end  # noqa: B018  it is found, or refused

    def after_step(self, taken: Taken) -> Change:
        """Moves the knobs when it is time to, and meets the budget before gates of units are rounded."""
        share = taken.step / self._end
        if self._measure.settles and taken.step == self._end:
            self._land()
            return Change.VALUES
        if share <= 1.0 and taken.step % self._every == 0 and share >= self._ramp[0]:
            signals = self._measure.signals(self.run.objective.guide, along(self._ramp, share))
            for controller, signal in zip(self._controllers, signals, strict=True):
                controller.steer(share, signal, self._every / self._end, self._every)
        return Change.NOTHING

    def after_epoch(self) -> Change:
        """Looks at what is left, for the row of the epoch."""
        reached, share = self._measure.reached(self.run.objective.guide), self.run.step / self._end
        target = self._target if self._landing else sum(one.wanted(share) for one in self._controllers)
        knobs = {"knob": self._controllers[0].factor()}
        if self._measure.layers:
            knobs = {f"knob {next(iter(one.part.knobs))}": one.factor() for one in self._controllers}
        self._row = {**knobs, "target": target / self._whole, "reached": reached / self._whole}
        return Change.NOTHING

    def end(self) -> None:
        """Meets the budget."""
        if not self._measure.settles:
            self._land()

    def row(self) -> Mapping[str, float | Mapping[str, float]]:
        """Factor on the knob, target and what is left at the end of the epoch, the last two as shares.

        By layer the factors have the keys of their knobs, ``"knob fc1.weight.pressure"``.
        """
        return {"budget": self._row} if self._row else {}

    def report(self) -> dict[str, Any]:
        """What was asked for and reached, by which rule it was counted, and where the knobs were and are.

        By layer, ``"layers"`` says the first two of every tensor; the totals are those of the tensors that are named.
        """
        model, guide = self.run.objective.model, self.run.objective.guide
        reached = self._measure.reached(guide)
        at_start = {key: start for one in self._controllers for key, start in one.at_start.items()}
        found = {
            "kind": self.budget.kind,
            "asked": self._target / self._whole,
            "reached": reached / self._whole,
            "asked_count": self._target,
            "reached_count": reached,
            "whole": self._whole,
            "counted": self._measure.rules(model),
            "knobs": {key: {"start": start, "end": model.knobs[key].value} for key, start in at_start.items()},
            "landing": self._landing,
        }
        if isinstance(self._measure, WeightMeasure) and self._measure.layers:
            left = self._measure.by_tensor(guide)
            found["layers"] = {
                name: {"asked": asked, "reached": left.get(name, 0), "whole": model.declared_sizes[name]}
                for name, asked in self._measure.layers.items()
            }
        return found

    def state_dict(self) -> dict[str, Any]:
        """All that the next update depends on; the knobs are buffers of the model."""
        return {
            "controllers": [one.state_dict() for one in self._controllers], "row": self._row,
            "landing": self._landing, "latest": self._measure.latest,
        }  # fmt: skip

    def load_state_dict(self, kept: Mapping[str, Any]) -> None:
        """Goes on from there.

        Raises:
            ValueError: If it is that of another budget.
        """
        states = kept["controllers"] if "controllers" in kept else [kept]  # earlier versions had one, not in a list
        if len(states) != len(self._controllers):
            raise ValueError(f"its budget has {len(states)} parts, not {len(self._controllers)}")
        for controller, state in zip(self._controllers, states, strict=True):
            controller.load_state_dict(state)
        self._row, self._landing = dict(kept["row"]), dict(kept["landing"])
        like = next(self.run.objective.guide.parameters())
        self._measure.latest = {name: value.to(like) for name, value in kept["latest"].items()}

    # -- inside ----------------------------------------------------------------------------------------------

    @functools.cached_property
    def _end(self) -> int:
        """The step at which the budget is to be met: the last one, or that at which another rule fixes what is left."""
        if not self._measure.settles:
            return self.run.steps
        fixed = [rule.fixes_at for rule in self.run.rules.values() if rule.fixes_at is not None]
        if not fixed:
            raise ValueError(
                f"Budget({self.budget.kind}=...) is met when gates of units are rounded, but Gating(round_at=None) "
                "never rounds them: give it a share of the steps"
            )
        return min(fixed)

    @functools.cached_property
    def _every(self) -> int:
        """Steps between updates."""
        return max(1, min(self.budget.every, self._end // _UPDATES))

    def _land(self) -> None:
        guide = self.run.objective.guide
        self._landing = self._measure.land(guide)
        reached, whole = self._measure.reached(guide), self._whole
        before = self._landing["before"]
        if isinstance(before, Mapping):
            share = len(self._controllers) < len(before)
            guide.notes += _far_layers(before, self._measure.layers, share)
            return
        off = abs(before - self._target) / self._target
        self._note_knobs()
        if off > _FAR:
            guide.notes.append(
                f"the budget was met by a last correction of {before / whole:.2%} to "
                f"{reached / whole:.2%}, which the training did not follow: take more epochs, or a prior "
                f"that is {'stronger' if before > self._target else 'weaker'} from the start"
            )
        elif (undecided := self._landing.get("undecided")) is not None:
            shift, (were, are) = self._landing["shift"], (undecided["before"], undecided["after"])
            if abs(shift) > _FAR_SHIFT or are - were > _FAR_SHARE:
                guide.notes.append(
                    f"the budget was met by a last shift of all log odds by {shift:+.2g} nats, after which {are:.1%} "
                    f"of the probabilities are undecided, where {were:.1%} were: take more epochs"
                )

    def _note_knobs(self) -> None:
        """Notes a knob that has come to an end of its range: the budget asked for more than it can do."""
        for one in self._controllers:
            for key, knob in one.part.knobs.items():
                (least, most), value = knob.bounds, self.run.objective.model.knobs[key].value
                ends = {1.0: most, -1.0: least}
                at = next((sign for sign, end in ends.items() if abs(math.log(value / end)) < 1e-3), None)
                if at is None:
                    continue
                densest = (at > 0.0) == (knob.more == "denser")
                remedy = (
                    "the data hold fewer weights than asked for: ask for less, or take a smaller KL weight" if densest
                    else "the weights did not follow: take more epochs, or a larger KL weight"
                )  # fmt: skip
                end = "densest" if densest else "sparsest"
                self.run.objective.guide.notes.append(
                    f"the knob {key} has come to the {end} end of its range, {value:.3g}, and {remedy}"
                )


def _far_layers(before: Mapping[str, int], layers: Mapping[str, int], share: bool) -> list[str]:
    """A note on the tensors that the training did not bring near to their budget; `share`: some have one knob."""
    far = [f"{name} ({before[name]:,} to {n:,})" for name, n in layers.items() if abs(before[name] - n) > _FAR * n]
    if not far:
        return []
    listed = ", ".join(far[:3]) + (f" and {len(far) - 3} more" if len(far) > 3 else "")
    return [
        f"the budget was met by a last correction of {listed} weights, which the training did not follow: take more "
        f"epochs{', or give each tensor a prior of its own, so that it has a knob of its own' if share else ''}"
    ]
