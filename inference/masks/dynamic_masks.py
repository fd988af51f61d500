"""Sparse training: masks with exact counts that change while the weights are trained, as a rule of a fit."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from bayesprune.inference.guides.guide import GuideChoice, assign_families
from bayesprune.inference.guides.registry import is_point
from bayesprune.inference.masks import bayesian_scores  # noqa: F401  # it registers its scores
from bayesprune.inference.masks.density_schedules import Constant, DensitySchedule
from bayesprune.inference.masks.exchange import grown, kept, kept_of_all
from bayesprune.inference.masks.layouts import Layout, layout_of
from bayesprune.inference.masks.scores import DROP, GROW, Score, Seen
from bayesprune.inference.masks.support import Support
from bayesprune.inference.rules.rule import ActiveRule, Change, Needs, Rule, Run, Taken
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.costs.layer_budgets import LayerBudget
from bayesprune.models.masks.mask_way import Masks, random_masks

__all__ = ["ActiveMasks", "DynamicMasks"]

BY_SGD = {"optimizer": "sgd", "learning_rate": 0.1, "schedule": "cosine"}
"""How the networks of the papers are trained; Adam moves all live weights alike, whatever their gradients are."""
BY_ADAM = {"optimizer": "adam", "learning_rate": 0.01, "schedule": "hold-cosine"}
"""Normals on a sparse support: one that comes starts at zero, and at the usual 0.001 does not get far before it is
judged (on digits that costs 1.7 points of accuracy and a quarter of the NLL: docs/bayesian_sparse_training.md)."""
_ACROSS = ("layer", "network")


@dataclass(frozen=True)
class DynamicMasks(Rule):
    """Trains a network that has only so many weights from the first step on, and lets them move.

    At every update as many weights of each tensor as the layout says at the schedule's density are kept or added, and
    then a share of them is exchanged: those of the lowest drop score go, and as many come, of the highest growth score
    among all that were not kept, so that one which was just dropped may stay. A weight that comes starts at zero, where
    it is a latent itself, and without a history in the optimizer. Counts are exact.

    Every method of the kind is a choice of these settings: see `bayesprune.inference.recipes`.

    Attributes:
        density: Share of the weights with a prior, of two dimensions and more, that are in at the end, in (0, 1], or
            their number from 2 on; None only where `layout` is a budget by layer. Where layers share weights it is of
            the network without sharing.
        layout: How they are spread over the tensors: ``"erk"`` (default), ``"uniform"``, or a budget by layer.
        schedule: Density while training: `Constant()` (default), `Cubic(...)` or `Cycles(...)`.
        drop: Name of the score by which weights go, in `DROP`; default ``"magnitude"``.
        grow: Name of the score by which weights come, in `GROW`; default ``"gradient"``. None: none come.
        share: Share of the weights that is exchanged at an update, in [0, 1), at the first step; it falls along half a
            cosine. Default 0.3. 0: none are exchanged.
        last_share: The same at `until`; default 0.
        until: Share of the fit after which none are exchanged; default 0.75.
        every: Steps between updates, or a share of the fit in (0, 1); default 100. At most an eighth of the fit.
        within: The same while the density moves; default None: as `every`.
        across: Whether weights that go with the density go in each ``"layer"`` (default), as many as the layout says,
            or from the whole ``"network"``.
        batches: Steps whose gradients a growth score sees the mean of; default 1, that of the update.
        temperature: 0 (default): the best by their scores; above, weights are drawn with odds exp(score / temperature).

    Raises:
        ValueError: If an argument is out of range or unknown.
    """

    density: float | int | None = None
    layout: str | LayerBudget | Mapping[str, Any] = "erk"
    schedule: DensitySchedule = field(default_factory=Constant)
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
    name: ClassVar[str] = "masks"
    order: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.drop not in DROP:
            raise ValueError(f"DynamicMasks(drop=...) takes one of {', '.join(DROP)}, not {self.drop!r}")
        if self.grow is not None and self.grow not in GROW:
            raise ValueError(f"DynamicMasks(grow=...) takes one of {', '.join(GROW)} or None, not {self.grow!r}")
        if not isinstance(self.schedule, DensitySchedule):
            raise ValueError(f"DynamicMasks(schedule=...) takes Constant(), Cubic() or Cycles(), not {self.schedule!r}")
        if self.across not in _ACROSS:
            raise ValueError(f"DynamicMasks(across=...) takes {' or '.join(map(repr, _ACROSS))}, not {self.across!r}")
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
        if self.grow is None and (self.share > 0.0 or self.schedule.at(self.schedule.settles / 4.0, 0.01) > 1.0):
            raise ValueError("DynamicMasks(grow=None) exchanges nothing: give share=0 with it, or a growth score")

    @property
    def scores(self) -> tuple[Score, ...]:
        """The scores that it goes by."""
        return (DROP[self.drop], *(() if self.grow is None else (GROW[self.grow],)))

    def training(self, model: BayesianNetwork, guide: GuideChoice) -> Mapping[str, Any]:
        """By SGD with a rate of 0.1 along a cosine where weights are points, by Adam with 0.01 where Normals."""
        chosen = assign_families(model, guide)
        families = [chosen[site.name] for name in model.matrices for site in model.priors[name].sites.values()]
        if all(is_point(family) for family in families):
            return BY_SGD
        return BY_ADAM if all(family == "normal" for family in families) else {}

    def check(self, model: BayesianNetwork, options: Mapping[str, Any]) -> None:
        """Refuses a density that does not go into the model, and a model that has masks."""
        if any(way.name == Masks.name for way in model.ways):
            raise ValueError("the model has masks already, and DynamicMasks brings its own: leave one of them out")
        layout_of(model, self.density, self.layout)

    def prepare(self, model: BayesianNetwork, example: Tensor) -> None:
        """Gives the model masks of the first density, in random places."""
        layout = layout_of(model, self.density, self.layout)
        counts = layout.at(self.schedule.at(0.0, layout.density))
        masks = random_masks(layout.shapes, counts)
        model.ways.append(Masks(masks).to(example.device))

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
        updates: Updates so far.
        exchanged: Weights that were exchanged so far.
    """

    def __init__(self, rule: DynamicMasks, run: Run) -> None:
        self.rule, self.run = rule, run
        model = run.objective.model
        self.layout: Layout = layout_of(model, rule.density, rule.layout)
        self.masks = next(way for way in model.ways if isinstance(way, Masks))
        self.counts = self.masks.counts()
        self.updates = self.exchanged = 0
        self._gradient: dict[str, Tensor] = {}
        self._seen = 0
        self.support = Support(run, self.masks)
        self.support.clear()
        for score in rule.scores:
            if score.check is not None:
                score.check(run.objective.guide)
        dense = any(score.needs_gradient for score in rule.scores)
        self.needs = Needs(weight_gradient=self._wants_gradient if dense else None)

    # -- when ------------------------------------------------------------------------------------------------

    @functools.cached_property
    def _settles(self) -> int:
        """The step at which the density is the final one."""
        return min(self.run.steps, math.ceil(self.rule.schedule.settles * self.run.steps))

    @property
    def fixes_at(self) -> int | None:  # type: ignore[override]
        """The step after which no weight comes or goes."""
        exchanges = self.rule.until * self.run.steps if self.rule.share > 0.0 else 0.0
        return max(1, self._settles, math.floor(exchanges))

    def _interval(self, step: int) -> int:
        asked = self.rule.every
        if step < self._settles and self.rule.within is not None:
            asked = self.rule.within
        steps = asked * self.run.steps if asked < 1 else asked
        return max(1, min(round(steps), self.run.steps // 8))

    def is_due(self, step: int) -> bool:
        """Whether masks are updated after the step of this number, from 1."""
        if step == self._settles > 0:
            return True
        moves = step < self._settles or (self.rule.share > 0.0 and step <= self.rule.until * self.run.steps)
        return moves and step < self.run.steps and step % self._interval(step) == 0

    def _wants_gradient(self, step: int) -> bool:
        return any(self.is_due(later) for later in range(step, step + self.rule.batches))

    # -- what ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def after_step(self, taken: Taken) -> Change:
        """Adds the gradient up, and updates the masks where it is time to."""
        if taken.weight_gradient is not None:
            self._add(taken.weight_gradient)
        if not self.is_due(taken.step):
            return Change.NOTHING
        self._update(taken)
        self._gradient, self._seen = {}, 0
        return Change.VALUES

    def after_epoch(self) -> Change:
        """Takes back what optimizers make of gradients that are zero but for rounding."""
        self.support.settle()
        return Change.VALUES

    def end(self) -> None:
        """The same: a fit ends with nothing where nothing is."""
        self.support.settle()

    def _add(self, gradient: Mapping[str, Tensor]) -> None:
        self._seen += 1
        for name in self.counts:
            if name in self._gradient:
                self._gradient[name].lerp_(gradient[name], 1.0 / self._seen)
            else:
                self._gradient[name] = gradient[name].clone() if self.rule.batches > 1 else gradient[name]

    def _update(self, taken: Taken) -> None:
        share = taken.step / self.run.steps
        wanted = self.layout.at(self.rule.schedule.at(share, self.layout.density))
        before = dict(self.masks.masks.items())
        sizes = self.layout.sizes
        seen = Seen(
            self.run, taken, before, self._gradient or None, {name: wanted[name] / sizes[name] for name in wanted}
        )
        drop = DROP[self.rule.drop].of(seen)
        grow = {} if self.rule.grow is None else GROW[self.rule.grow].of(seen)
        masks = self._resized(before, wanted, drop, grow)
        counts = {name: int(mask.sum()) for name, mask in masks.items()} if self._is_free else wanted
        masks = self._exchanged(masks, counts, drop, grow, share)
        self.support.change(masks)
        self.counts, self.updates = counts, self.updates + 1

    @property
    def _is_free(self) -> bool:
        return self.rule.across == "network"

    def _resized(
        self,
        masks: Mapping[str, Tensor],
        wanted: Mapping[str, int],
        drop: Mapping[str, Tensor],
        grow: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """Masks of as many weights as the schedule asks for."""
        total, now = sum(wanted.values()), sum(self.counts.values())
        if self._is_free:
            return kept_of_all(masks, drop, total) if total < now else dict(masks)
        found = {}
        for name, mask in masks.items():
            more = wanted[name] - self.counts[name]
            if more < 0:
                found[name] = kept(mask, drop[name], wanted[name], self.rule.temperature)
            elif more > 0:
                found[name] = grown(mask, grow[name], more, self.rule.temperature)
            else:
                found[name] = mask
        return found

    def _exchanged(
        self,
        masks: Mapping[str, Tensor],
        counts: Mapping[str, int],
        drop: Mapping[str, Tensor],
        grow: Mapping[str, Tensor],
        share: float,
    ) -> dict[str, Tensor]:
        """Masks with a share of the weights exchanged."""
        part = self.share_at(share)
        if part == 0.0 or not self.rule.schedule.exchanges(share):
            return dict(masks)
        found = {}
        for name, mask in masks.items():
            count = min(round(part * counts[name]), mask.numel() - counts[name])
            stay = kept(mask, drop[name], counts[name] - count, self.rule.temperature)
            found[name] = grown(stay, grow[name], count, self.rule.temperature)
            self.exchanged += count
        return found

    def share_at(self, share: float) -> float:
        """Share of the weights that is exchanged at a share of the fit."""
        if share > self.rule.until or self.rule.share == 0.0:
            return 0.0
        first, last = self.rule.share, self.rule.last_share
        return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * share / self.rule.until))

    # -- what is said and kept -------------------------------------------------------------------------------

    def row(self) -> Mapping[str, float | Mapping[str, float]]:
        """Density at the end of the epoch, in all and by tensor."""
        sizes = self.layout.sizes
        return {"masks": {"density": sum(self.counts.values()) / sum(sizes.values())}}

    def report(self) -> dict[str, Any]:
        """What was asked for, what is left, and how much has moved."""
        return {
            "asked_count": self.layout.total,
            "reached_count": sum(self.masks.counts().values()),
            "whole": sum(self.layout.sizes.values()),
            "virtual": self.layout.virtual,
            "updates": self.updates,
            "exchanged": self.exchanged,
            "layers": self.masks.counts(),
        }

    def state_dict(self) -> dict[str, Any]:
        """The gradient so far and what was counted; the masks are buffers of the model."""
        return {
            "updates": self.updates, "exchanged": self.exchanged, "gradient": dict(self._gradient), "seen": self._seen
        }  # fmt: skip

    def load_state_dict(self, kept: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.updates, self.exchanged, self._seen = kept["updates"], kept["exchanged"], kept["seen"]
        self._gradient = {name: value.to(self.masks.masks[name].device) for name, value in kept["gradient"].items()}
        self.counts = self.masks.counts()
