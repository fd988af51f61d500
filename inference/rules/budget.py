"""Budget: moves a prior's knob while a fit runs, so that it ends as sparse as it was asked to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from bayesprune.inference.rules.budget_count import knob_of
from bayesprune.inference.rules.rule import ActiveRule, Change, Rule

__all__ = ["ActiveBudget", "Budget"]


@dataclass(frozen=True)
class Budget(Rule):
    density: float | None = None
    macs: float | int | None = None
    parameters: float | int | None = None
    begin_at: float = 0.2
    arrive_at: float = 0.7
    every: int = 25
    gain: float = 20.0
    lead: float = 0.08
    power: float = 2.0
    largest: float = 0.3
    name: ClassVar[str] = "budget"

    def begin(self, run):
        return ActiveBudget(self, run)


class ActiveBudget(ActiveRule):
    def __init__(self, budget, run):
        self.budget, self.run = budget, run
        self.u = 0.0
        self.before = None
        self.start = None
        self.log = []
        self.target = 1.0

    def target_at(self, progress):
        b = self.budget
        t = min(1.0, max(0.0, (progress - b.begin_at) / (b.arrive_at - b.begin_at)))
        if b.power > 0:
            return b.density * (self.start / b.density) ** ((1 - t) ** b.power)
        return b.density + (self.start - b.density) * (1 - t) ** 3

    def after_step(self, taken):
        b, run = self.budget, self.run
        p = taken.step / run.steps
        if taken.step % b.every or p < b.begin_at:
            return Change.NOTHING
        guide = run.objective.guide
        from bayesprune.inference.rules.budget_count import weights_left

        left = weights_left(guide)
        d = sum(int(v.sum()) for v in left.values()) / sum(v.numel() for v in left.values())
        if self.start is None:
            self.start = max(d, b.density)
            self.slope = 0.0
        dp = b.every / run.steps
        ld = math.log(max(d, 1e-6))
        if self.before is not None:
            self.slope += 0.3 * ((ld - self.before) / dp - self.slope)
        self.before = ld
        self.target = self.target_at(p)
        e = ld + b.lead * self.slope - math.log(self.target_at(p + b.lead))
        move = b.gain * max(-1.5, min(1.5, e)) * dp
        self.u += move * getattr(self, "scale", 1.0)
        prior = next(q for q in run.objective.model.priors.values() if knob_of(q))
        k = knob_of(prior)
        run.objective.model.knobs[prior.hierarchy.budget].scale(math.exp(self.u if k.more == "sparser" else -self.u))
        self.log.append((taken.step, d, self.target, self.u))
        return Change.NOTHING
