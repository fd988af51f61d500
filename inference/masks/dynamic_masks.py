"""Sparse training: masks with exact counts that change while the weights are trained, as a rule of a fit."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
import xarray as xr
from torch import Tensor

from bayesprune.inference.guides.guide import GuideChoice, weight_families
from bayesprune.inference.guides.registry import is_point
from bayesprune.inference.masks import bayesian_scores  # noqa: F401  # it registers its scores
from bayesprune.inference.masks.collapse import collapse_notes, warn_of_collapse
from bayesprune.inference.masks.density_schedules import ConstantDensity, DensitySchedule
from bayesprune.inference.masks.exchange import exchanged, resized
from bayesprune.inference.masks.layouts import Layout, counts_without_growth, layout_of, layout_of_masks, scaled_counts
from bayesprune.inference.masks.records import VARIABLES, Records
from bayesprune.inference.masks.scores import DROP, GROW, Score, Seen
from bayesprune.inference.masks.spread import over_spread
from bayesprune.inference.masks.starts import START, GivenMasks
from bayesprune.inference.masks.support import Support
from bayesprune.inference.masks.update_plan import planned_updates
from bayesprune.inference.rules.rule import ActiveRule, Change, Needs, Rule, Run, Taken
from bayesprune.inference.rules.rule_traces import over_tensors
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.setting_types import checked_types
from bayesprune.models.costs.layer_budgets import LayerBudget
from bayesprune.models.masks.mask_way import Masks, counts_of
from bayesprune.models.structure.structure_masks import StructureMasks

__all__ = ["BY_SGD", "ActiveMasks", "DynamicMasks"]

BY_SGD = {"optimizer": "sgd", "learning_rate": 0.1, "schedule": "cosine"}
"""How the networks of the papers are trained; Adam moves all live weights alike, whatever their gradients are."""
BY_ADAM = {"optimizer": "adam", "learning_rate": 0.01, "schedule": "hold-cosine"}
"""Normals on a sparse support: one that comes starts at zero, and at the usual 0.001 does not get far before it is
judged (on digits that costs 1.7 points of accuracy and a quarter of the NLL: docs/bayesian_sparse_training.md)."""
_ACROSS = ("layer", "network", "distribution")


@dataclass(frozen=True)
class DynamicMasks(Rule):
    """Trains a network that has only so many weights from the first step on, and lets them move.

    At every update as many weights of each tensor as the layout says at the schedule's density are kept or added, and
    then a share of them is exchanged: those of the lowest drop score go, and as many come, of the highest growth score
    among all that were not kept, so that one which was just dropped may stay, as it was. A weight that comes starts at
    zero and without a history in the optimizer (`bayesprune.inference.masks.support` says how, where a weight is
    calculated from several latents). Counts are exact, and equal scores are chosen from at random. Each update comes
    after a step of the optimizer, and sees the dense gradient of that step (ITOP's order; RigL's code takes no step
    then).

    A warm start (``fit(start=)``) goes on with the masks of the earlier fit, which has to have as many weights as the
    schedule begins with. A fit that is stopped while there are more weights than in the end is cut to these.

    Every method of the kind is a choice of these settings: see `bayesprune.inference.recipes`.

    Attributes:
        density: Share of the weights with a prior, of two dimensions and more, that are in at the end, in (0, 1], or
            their number from 2 on; None only where `layout` is a budget by layer. Where layers share weights it is of
            the network without sharing.
        layout: How they are spread over the tensors: ``"erk"`` (default), ``"uniform"``, or a budget by layer.
        schedule: Density while training: `ConstantDensity()` (default), `CubicDensity(...)`, `IteratedDensity(...)` or
            `CyclicDensity(...)`.
        drop: Name of the score by which weights go, in `DROP`; default ``"magnitude"``.
        grow: Name of the score by which weights come, in `GROW`; default ``"gradient"``. None: none come.
        share: Share of the weights that is exchanged at an update, in [0, 1), at the first step; it falls along half a
            cosine. Default 0.3. 0: none are exchanged.
        last_share: The same at `until`; default 0.
        until: Share of the fit after which none are exchanged; default 0.75.
        every: Steps between updates, or a share of the fit in (0, 1); default 100. At most an eighth of the fit.
        within: The same while the density moves; default None: as `every`. At most an eighth of a cycle, or of the time
            until it settles. The schedule's turns and end (`DensitySchedule.marks`) are updates in any case.
        across: Whether weights that go or come with the density do so in each ``"layer"`` (default), as many as the
            layout says, or in the whole ``"network"``, wherever scores say; ``"distribution"`` is the same with drop
            scores over the sd of their tensor (`over_spread`). What is exchanged is of each layer.
        batches: Steps whose gradients a growth score sees the mean of, those before the update among them, at most all
            since the last one; default 1, that of the update.
        temperature: 0 (default): the best by their scores; above, weights are drawn with odds exp(score / temperature).
        start: Where the masks start: a name in `START` (``"random"``, the default, ``"magnitude"``, ``"synflow"``), or
            boolean tensors by name of tensor, True where a weight is in; other tensors are then dense. Masks that are
            given, and those of ``"synflow"``, which has no use for `layout`, say themselves how many weights each
            layer has; given ones also how many in all, so that `density` is left out.

    Raises:
        ValueError: If an argument is out of range or unknown.
    """

    density: float | int | None = None
    layout: str | LayerBudget | Mapping[str, Any] = "erk"
    schedule: DensitySchedule = field(default_factory=ConstantDensity)
    drop: str = "magnitude"
    grow: str | None = "gradient"
    share: float = 0.3
    last_share: float = 0.0
    until: float = 0.75
    every: int | float = 100
    within: int | float | None = None
    across: str = "layer"
    batches: int = 1
    temperature: float = 0.0
    start: str | Mapping[str, Any] | GivenMasks = "random"
    name: ClassVar[str] = "masks"
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if name != "start"}
        for name, value in checked_types("DynamicMasks", DynamicMasks, given).items():
            object.__setattr__(self, name, value)
        self._check_start()
        if self.drop not in DROP:
            raise ValueError(f"DynamicMasks(drop=...) takes one of {', '.join(DROP)}, not {self.drop!r}")
        if self.grow is not None and self.grow not in GROW:
            raise ValueError(f"DynamicMasks(grow=...) takes one of {', '.join(GROW)} or None, not {self.grow!r}")
        if self.across not in _ACROSS:
            raise ValueError(
                f"DynamicMasks(across=...) takes 'layer', 'network' or 'distribution', not {self.across!r}"
            )
        if not 0.0 <= self.last_share <= self.share < 1.0 or not 0.0 < self.until <= 1.0:
            raise ValueError(
                "DynamicMasks takes 0 <= last_share <= share < 1 and until in (0, 1], not "
                f"{self.last_share}, {self.share} and {self.until}"
            )
        for name in ("every", "within"):
            steps = getattr(self, name)
            if steps is not None and not (0.0 < steps < 1.0 or (steps >= 1 and float(steps).is_integer())):
                raise ValueError(f"DynamicMasks({name}=...) is a number of steps or a share of the fit, not {steps}")
        if self.batches < 1 or not self.temperature >= 0.0:
            raise ValueError(
                f"DynamicMasks takes batches >= 1 and temperature >= 0, not {self.batches} and {self.temperature}"
            )
        if self.grow is None and (self.share > 0.0 or self.schedule.rises):
            raise ValueError(
                "DynamicMasks(grow=None) lets no weight come: give share=0 and a density that does not rise with it, "
                "or a growth score"
            )
        if self.share > 0.0 and self.until <= self.schedule.settles and not self.schedule.exchanges(0.0):
            remedy = "give a later one, or share=0" if self.schedule.settles < 1.0 else "give share=0, or earlier ends"
            raise ValueError(
                f"weights are exchanged from the share {self.schedule.settles:g} of the fit on, where the cycles end, "
                f"but until={self.until:g}: {remedy}"
            )

    def _check_start(self) -> None:
        if isinstance(self.start, str) and self.start in START:
            return
        if isinstance(self.start, (str, type(None))) or not isinstance(self.start, (Mapping, GivenMasks)):
            raise ValueError(
                f"DynamicMasks(start=...) takes one of {', '.join(START)}, or masks by name of tensor, not "
                f"{str(self.start)[:60]!r}"
            )
        if isinstance(self.start, Mapping):
            object.__setattr__(self, "start", GivenMasks.of(self.start))
        if self.density is not None or self.layout != "erk":
            raise ValueError("given masks say themselves how many weights are in: leave density= and layout= out")

    @property
    def steps_between(self) -> Mapping[str, Any]:
        """What `planned_updates` is told of it."""
        until = self.until if self.share > 0.0 else 0.0
        return {"every": self.every, "within": self.within, "until": until}

    def layout_for(self, model: BayesianNetwork) -> Layout:
        """Which tensors of a model are masked, and how many weights each has in the end.

        Args:
            model: The model.

        Raises:
            ValueError: If that does not go into the model.
        """
        if isinstance(self.start, GivenMasks):
            return layout_of_masks(model, self.start.masks)
        return layout_of(model, self.density, self.layout)

    @property
    def scores(self) -> tuple[Score, ...]:
        """The scores that it goes by."""
        return (DROP[self.drop], *(() if self.grow is None else (GROW[self.grow],)))

    def training(self, model: BayesianNetwork, guide: GuideChoice) -> Mapping[str, Any]:
        """By SGD with a rate of 0.1 along a cosine where weights are points, by Adam with 0.01 where Normals."""
        families = weight_families(model, guide)
        if all(map(is_point, families)):
            return BY_SGD
        return BY_ADAM if all(family == "normal" for family in families) else {}

    def check(self, model: BayesianNetwork, options: Mapping[str, Any]) -> None:
        """Refuses what does not go into the model, a model that has masks, and masks that would be started twice."""
        if any(way.name == Masks.name for way in model.ways):
            raise ValueError(
                "the model has masks already, and DynamicMasks brings its own: declare the model anew (start=fit goes "
                "on with the masks of an earlier fit), or leave DynamicMasks out"
            )
        if any(isinstance(way, StructureMasks) for way in model.ways):
            raise ValueError(
                "DynamicMasks lets weights come anywhere, but masked layers of the network say where there are any: "
                "prune the fit by sparsity=, or give the network plain layers"
            )
        layout = self.layout_for(model)
        is_given = isinstance(self.start, GivenMasks)
        if is_given and options.get("start") is not None:
            raise ValueError(
                "a warm start goes on with the masks of the earlier fit: leave DynamicMasks(start=...) out"
            )
        says_counts = is_given or not START[str(self.start)].keeps_layout
        if says_counts and self.schedule.at(0.0, layout.density) != layout.density:
            raise ValueError(
                f"DynamicMasks(start={'masks' if is_given else repr(self.start)}) says where the weights of the end are"
                f", but {self.schedule} begins with more: give a schedule that begins there, or another start"
            )
        warn_of_collapse(layout.shapes, layout.counts)

    def prepare(self, model: BayesianNetwork, example: Tensor) -> None:
        """Gives the model the masks that it starts with."""
        layout = self.layout_for(model)
        if isinstance(self.start, GivenMasks):
            masks = {name: self.start.masks[name] for name in layout.shapes}
        else:
            counts = layout.at(self.schedule.at(0.0, layout.density))
            masks = START[self.start].of(model, layout, counts, example)  # type: ignore[index]  # a name, as checked
        model.ways.append(Masks(masks).to(example.device, example.dtype))

    def begin(self, run: Run) -> ActiveMasks:
        """Begins with what `prepare` has made."""
        return ActiveMasks(self, run)


class ActiveMasks(ActiveRule):
    """The masks of one restart.

    Args:
        rule: What was asked for.
        run: The restart.

    Attributes:
        layout: Which tensors are masked, and how many weights each has in the end.
        masks: The masks.
        counts: How many weights are in now, by name of tensor.
        plan: Steps, from 1, after which masks are updated, with the share of the fit at which the schedule is read.
        updates: Updates so far.
        exchanged: Weights that were exchanged so far.
        cut: Weights that were cut at the end of a fit that was stopped.

    Raises:
        ValueError: If the schedule does not go into the steps of the fit, or a warm start has other masks than it
            begins with; or a score is of another guide.
    """

    def __init__(self, rule: DynamicMasks, run: Run) -> None:
        self.rule, self.run = rule, run
        model = run.objective.model
        self.masks = next(way for way in model.ways if isinstance(way, Masks))
        self.counts = self.masks.counts()
        self.layout = _begun_layout(rule, rule.layout_for(model), self.counts)
        self.plan = planned_updates(rule.schedule, run.steps, **rule.steps_between)
        self._due, self._done = list(self.plan), 0
        self.updates = self.exchanged = self.cut = 0
        self.records = Records(self.masks)
        run.objective.guide.notes += collapse_notes(self.layout.shapes, self.layout.counts)
        self._gradient: dict[str, Tensor] = {}
        self._seen = 0
        self._latest: Taken | None = None
        for score in rule.scores:
            if score.check is not None:
                score.check(run.objective.guide)
        self.support = Support(run, self.masks)
        self.support.clear()
        dense = any(score.needs_gradient for score in rule.scores)
        wanted = self._wants_gradient if dense else None
        self.needs = Needs(batch=lambda step: self.due(step) is not None, weight_gradient=wanted)
        self.fixes_at = max(self._due, default=1)

    # -- when ------------------------------------------------------------------------------------------------

    def due(self, step: int) -> int | None:
        """The latest update that is due by a step and was not done, a step before where that was left out; or None."""
        place = bisect.bisect_right(self._due, step)
        return self._due[place - 1] if place and self._due[place - 1] > self._done else None

    def _wants_gradient(self, step: int) -> bool:
        return self.due(step + self.rule.batches - 1) is not None

    # -- what ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def after_step(self, taken: Taken) -> Change:
        """Adds the gradient up, and updates the masks where it is time to."""
        self._latest = taken
        self.records.ran(taken.x)
        if taken.weight_gradient is not None:
            self._add(taken.weight_gradient)
        due = self.due(taken.step)
        if due is None:
            return Change.NOTHING
        self._update(taken, self.plan[due])
        self._gradient, self._seen, self._done = {}, 0, due
        return Change.VALUES

    @torch.no_grad()
    def end(self) -> None:
        """Cuts the network to its final counts where the restart was stopped before it had them."""
        self.support.settle()
        total, now = self.layout.total, sum(self.counts.values())
        if total >= now or self._latest is None:
            return
        drop = DROP["magnitude" if DROP[self.rule.drop].needs_gradient else self.rule.drop]
        wanted = counts_without_growth(self.layout.counts, self.counts)
        before = dict(self.masks.masks.items())
        scores = drop.of(self._sight(self._latest, wanted))
        self._put(resized(before, self.counts, wanted, scores, {}))
        self.cut = now - total
        self.run.objective.guide.notes.append(
            f"the fit was stopped with {now:,} weights in, and cut to the {total:,} that were asked for, untrained"
        )

    def _add(self, gradient: Mapping[str, Tensor]) -> None:
        self._seen += 1
        for name in self.counts:
            if name in self._gradient:
                self._gradient[name].lerp_(gradient[name], 1.0 / self._seen)
            else:
                self._gradient[name] = gradient[name].clone() if self.rule.batches > 1 else gradient[name]

    def _update(self, taken: Taken, share: float) -> None:
        wanted = self.layout.at(self.rule.schedule.at(share, self.layout.density))
        if self.rule.grow is None:
            wanted = counts_without_growth(wanted, self.counts)
        seen = self._sight(taken, wanted)
        drop = DROP[self.rule.drop].of(seen)
        if self.rule.across == "distribution":
            drop = over_spread(drop, seen.masks, seen.weights() if self.rule.drop == "magnitude" else drop)
        grow = {} if self.rule.grow is None else GROW[self.rule.grow].of(seen)
        heat, is_free = self.rule.temperature, self.rule.across != "layer"
        masks = resized(seen.masks, self.counts, wanted, drop, grow, is_free, heat)
        counts = counts_of(masks) if is_free else wanted
        part = self.share_at(share) if taken.step < self.run.steps and self.rule.schedule.exchanges(share) else 0.0
        if part > 0.0:
            comes = {name: round(part * count) for name, count in counts.items()}
            comes = {name: min(comes[name], masks[name].numel() - count) for name, count in counts.items()}
            masks = exchanged(masks, counts, comes, drop, grow, heat)
            self.exchanged += sum(comes.values())
        self.records.saw(self._gradient)
        self._put(masks)
        self.updates += 1

    def _sight(self, taken: Taken, wanted: Mapping[str, int]) -> Seen:
        sizes = self.layout.sizes
        density = {name: wanted[name] / sizes[name] for name in wanted}
        if self.rule.across != "layer":
            density = dict.fromkeys(wanted, sum(wanted.values()) / sum(sizes.values()))
        return Seen(self.run, taken, dict(self.masks.masks.items()), self._gradient or None, density)

    def _put(self, masks: Mapping[str, Tensor]) -> None:
        self.support.change(masks)
        self.records.changed()
        self.counts = counts_of(masks)

    def share_at(self, share: float) -> float:
        """Share of the weights that is exchanged at a share of the fit."""
        if share > self.rule.until or self.rule.share == 0.0:
            return 0.0
        first, last = self.rule.share, self.rule.last_share
        return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * share / self.rule.until))

    # -- what is said and kept -------------------------------------------------------------------------------

    def after_epoch(self) -> Change:
        """Looks at the masks, and takes back what optimizers make of gradients that are zero but for rounding."""
        self.records.end_epoch(self.run.objective.model.network, self.exchanged)
        self.support.settle()
        return Change.VALUES

    def row(self) -> Mapping[str, float | Mapping[str, float]]:
        """What `Records` saw of the epoch: densities, dead channels, gradients and movement."""
        return self.records.row

    @classmethod
    def trace(cls, trace: xr.Dataset, rules: Sequence[Self]) -> xr.Dataset:
        """Has what is recorded of tensors over the trace's tensors, with NaN for those without masks."""
        return over_tensors(trace, VARIABLES)

    def report(self) -> dict[str, Any]:
        """What was asked for, what is left, and how much has moved."""
        return {
            "asked_count": self.layout.total,
            "reached_count": sum(self.masks.counts().values()),
            "whole": sum(self.layout.sizes.values()),
            "virtual": self.layout.virtual,
            "updates": self.updates,
            "exchanged": self.exchanged,
            "cut": self.cut,
            "layers": self.masks.counts(),
            **self.records.report(self.run.objective.model.network),
        }

    def state_dict(self) -> dict[str, Any]:
        """The gradient so far and what was counted; the masks are buffers of the model."""
        return {
            "updates": self.updates, "exchanged": self.exchanged, "cut": self.cut, "done": self._done,
            "gradient": dict(self._gradient), "seen": self._seen, "records": self.records.state_dict(),
        }  # fmt: skip

    def load_state_dict(self, kept: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.updates, self.exchanged, self.cut = kept["updates"], kept["exchanged"], kept["cut"]
        self._done, self._seen = kept["done"], kept["seen"]
        self._gradient = {name: value.to(self.masks.masks[name].device) for name, value in kept["gradient"].items()}
        self.masks.refresh()  # a checkpoint puts buffers back by themselves
        self.counts = self.masks.counts()
        self.records.load_state_dict(kept["records"])


def _begun_layout(rule: DynamicMasks, layout: Layout, counts: Mapping[str, int]) -> Layout:
    """The layout of a restart that begins with so many weights, by name of tensor; in proportion, where they differ."""
    first = layout.at(rule.schedule.at(0.0, layout.density))
    if counts == first:
        return layout
    if sum(counts.values()) != sum(first.values()):
        raise ValueError(
            f"the warm start has masks with {sum(counts.values()):,} weights in, but DynamicMasks begins with "
            f"{sum(first.values()):,}: give its density to both fits, and a schedule that begins with it"
        )
    return replace(layout, counts=scaled_counts(counts, layout.sizes, layout.total), rule=None)
