"""The average of the late iterates of a fit, in place of the last one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.watching.callbacks import Callback, FitState


class IterateAverage(Callback):
    """Averages what a fit learns over its steps from `start` on, and leaves the average in place of the last iterate.

    At a constant learning rate a stochastic optimizer ends by wandering about the optimum. The average over that walk
    has a smaller error than any of its points (Polyak & Juditsky 1992; for variational inference Dhaka et al. 2020,
    section 4). It has to begin after the walk became stationary, or it averages the way there too. With a learning rate
    that decays to nothing there is little to average.

    The guide's parameters are averaged as they are optimised (locations; logarithms of scales; log odds), and so are
    point estimates. Running statistics of batch normalisation are averaged too: they then belong to draws of the
    weights around the averaged iterates, which is as near as one comes without another pass over the data. Sums are
    kept in float64. Pruning trace and ELBO remain those of the iterates. The guide's notes say how many were averaged.

    Args:
        start: Share of the steps in [0, 1) after which averaging begins; default 0.5. Or a rule,
            ``start(state) -> bool``, asked after each epoch until it says True, such as `until_converged()`.
        steps: Number of steps to average, after which the restart is ended; default None: until it ends anyway.

    Attributes:
        count: Steps averaged in the latest restart.

    Raises:
        ValueError: If `start` is no such share, or a share where a loop of one's own does not tell its
            length, or `steps` is below 1.
    """

    def __init__(self, start: float | Callable[[FitState], bool] = 0.5, steps: int | None = None) -> None:
        if not callable(start) and not 0.0 <= start < 1.0:
            raise ValueError(f"start is a share of the steps in [0, 1), or a rule, not {start}")
        if steps is not None and steps < 1:
            raise ValueError(f"steps is the number of steps to average, at least 1, not {steps}")
        self.start, self.steps = start, steps
        self.count = 0
        self._begun = False
        self._moving: list[Tensor] = []
        self._means: list[Tensor] = []

    def on_fit_start(self, state: FitState) -> None:
        """Begins anew."""
        if not callable(self.start) and not state.steps:
            raise ValueError(
                f"start={self.start} is a share of the steps, but a loop of one's own does not tell how many there are"
                ": give a rule, such as start=lambda state: state.epoch >= 10"
            )
        self.count, self._begun = 0, False
        self._moving = _moving(state.objective)
        self._means = [torch.zeros_like(tensor, dtype=torch.float64) for tensor in self._moving]

    @torch.no_grad()
    def on_step(self, state: FitState) -> None:
        """Adds the iterate."""
        if not callable(self.start):
            self._begun = state.step > self.start * state.steps
        if not self._begun:
            return
        self.count += 1
        for mean, tensor in zip(self._means, self._moving, strict=True):
            mean.lerp_(tensor.double(), 1.0 / self.count)
        if self.count == self.steps:
            state.stop, state.stop_reason = True, f"{self.count} iterates were averaged"

    def on_epoch(self, state: FitState) -> None:
        """Asks the rule whether averaging begins with the next step."""
        if callable(self.start) and not self._begun:
            self._begun = self.start(state)

    @torch.no_grad()
    def on_fit_end(self, state: FitState) -> None:
        """Writes the average into the guide and the model."""
        if self.count:
            for tensor, mean in zip(self._moving, self._means, strict=True):
                tensor.copy_(mean)
        done = (
            f"the average of the last {self.count} steps" if self.count else "not averaged: it ended before the start"
        )
        state.objective.guide.notes.append(f"what was learned is {done}")
        self._moving, self._means = [], []


def _moving(objective: Objective) -> list[Tensor]:
    """What is averaged: all that is learned, and running statistics."""
    learned = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    layers = [layer for layer in objective.model.network.modules() if isinstance(layer, _BatchNorm)]
    statistics = [each for layer in layers for each in (layer.running_mean, layer.running_var) if each is not None]
    return [*learned, *statistics]
