"""The average of the late iterates of a fit, in place of the last one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.rules.rule import ActiveRule, Change, Needs, Rule, Run, Taken, never

__all__ = ["IterateAverage"]


@dataclass(frozen=True)
class IterateAverage(Rule):
    """Averages what a fit learns over its steps from `start` on, and leaves the average in place of the last iterate.

    At a constant learning rate a stochastic optimizer ends by wandering about the optimum. The average over that walk
    has a smaller error than any of its points (Polyak & Juditsky 1992; for variational inference Dhaka et al. 2020,
    section 4). It has to begin after the walk became stationary, or it averages the way there too. With a learning rate
    that decays to nothing there is little to average. Where another rule removes units, it begins anew.

    The guide's parameters are averaged as they are optimised (locations; logarithms of scales; log odds), and so are
    point estimates. Running statistics of batch normalisation are averaged too: they then belong to draws of the
    weights around the averaged iterates, which is as near as one comes without another pass over the data. Sums are
    kept in float64. Pruning trace and ELBO remain those of the iterates. The guide's notes say how many were averaged,
    and ``settings["average"]`` too.

    Attributes:
        start: Share of the steps in [0, 1) after which averaging begins; default 0.5. Or a rule,
            ``start(state) -> bool``, asked after each epoch until it says True, such as `until_converged()`.
        steps: Number of steps to average, after which the restart is ended; default None: until it ends anyway.

    Raises:
        ValueError: If `start` is no such share, or a share where a loop of one's own does not tell its
            length, or `steps` is below 1.
    """

    start: float | Callable[[Any], bool] = 0.5
    steps: int | None = None
    name: ClassVar[str] = "average"
    in_own_loops: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not callable(self.start) and not 0.0 <= self.start < 1.0:
            raise ValueError(f"start is a share of the steps in [0, 1), or a rule, not {self.start}")
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps is the number of steps to average, at least 1, not {self.steps}")

    def begin(self, run: Run) -> ActiveAverage:
        """Begins anew."""
        if not callable(self.start) and not run.steps:
            raise ValueError(
                f"start={self.start} is a share of the steps, but a loop of one's own does not tell how many there are"
                ": give a rule, such as start=lambda state: state.epoch >= 10"
            )
        return ActiveAverage(self, run)


class ActiveAverage(ActiveRule):
    """The average of one restart.

    Args:
        rule: The rule.
        run: The restart.

    Attributes:
        count: Steps averaged so far.
    """

    needs = Needs(batch=never)

    def __init__(self, rule: IterateAverage, run: Run) -> None:
        self.rule, self.run = rule, run
        self._begun = False
        self.replaced()

    @torch.no_grad()
    def after_step(self, taken: Taken) -> Change:
        """Adds the iterate."""
        if not callable(self.rule.start):
            self._begun = taken.step > self.rule.start * self.run.steps
        if not self._begun:
            return Change.NOTHING
        self.count += 1
        for mean, tensor in zip(self._means, _moving(self.run.objective), strict=True):
            mean.lerp_(tensor.double(), 1.0 / self.count)
        if self.count == self.rule.steps:
            self.run.stop, self.run.stop_reason = True, f"{self.count} iterates were averaged"
        return Change.NOTHING

    def after_epoch(self) -> Change:
        """Asks the rule whether averaging begins with the next step."""
        if callable(self.rule.start) and not self._begun:
            self._begun = self.rule.start(self.run)
        return Change.NOTHING

    def replaced(self) -> None:
        """Begins anew with the tensors of another model."""
        self.count = 0
        self._means = [torch.zeros_like(tensor, dtype=torch.float64) for tensor in _moving(self.run.objective)]

    @torch.no_grad()
    def end(self) -> None:
        """Writes the average into the guide and the model."""
        if self.count:
            for tensor, mean in zip(_moving(self.run.objective), self._means, strict=True):
                tensor.copy_(mean)
        done = (
            f"the average of the last {self.count} steps" if self.count else "not averaged: it ended before the start"
        )
        self.run.objective.guide.notes.append(f"what was learned is {done}")
        self._means = []

    def report(self) -> dict[str, Any]:
        """How many steps were averaged."""
        return {"count": self.count}

    def state_dict(self) -> dict[str, Any]:
        """The means so far."""
        return {"count": self.count, "begun": self._begun, "means": self._means}

    def load_state_dict(self, kept: Mapping[str, Any]) -> None:
        """Goes on with the means of then, of which an ended restart has none."""
        self.count, self._begun = kept["count"], kept["begun"]
        self._means = [value.to(mean.device) for mean, value in zip(self._means, kept["means"], strict=False)]


def _moving(objective: Objective) -> list[Tensor]:
    """What is averaged: all that is learned, and running statistics."""
    learned = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    layers = [layer for layer in objective.model.network.modules() if isinstance(layer, _BatchNorm)]
    statistics = [each for layer in layers for each in (layer.running_mean, layer.running_var) if each is not None]
    return [*learned, *statistics]
