"""What trained restarts leave to a fit: themselves, or the networks that rules have collected on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.training.restart_run import RestartRun
from bayesprune.models.bayesian_network import BayesianNetwork

__all__ = ["Left", "left_by"]


@dataclass(frozen=True)
class Left:
    """One restart of a fit, and how it came about.

    Attributes:
        run: The restart that was trained.
        model: The model that it left.
        guide: Its guide.
        history: The rows of the trace up to there, one an epoch.
        iterates: The recorded iterates up to there.
        step: The step after which it was collected; None where it is the end of the run.
    """

    run: RestartRun
    model: BayesianNetwork
    guide: Guide
    history: Sequence[dict[str, Any]]
    iterates: Sequence[dict[str, float]]
    step: int | None = None

    def as_dict(self) -> dict[str, int]:
        """Where a sample is from, for a fit's settings."""
        return {"run": self.run.restart, "step": self.run.step if self.step is None else self.step}


def left_by(runs: Sequence[RestartRun]) -> list[Left]:
    """The restarts of a fit: what rules have collected of each run, in order, or the run itself where none did.

    A sample has the trace of its run as far as it had got, as if it had been stopped there: the last row is its own.

    Args:
        runs: The restarts that were trained.
    """
    found: list[Left] = []
    for run in runs:
        collected = [one for rule in run.rules.values() for one in rule.collected()]
        for one in collected:
            iterates = [each for each in run.iterates if each["step"] <= one.step] or run.iterates[:1]
            found.append(Left(run, one.model, one.guide, run.history[: one.epoch], iterates, one.step))
        if not collected:
            found.append(Left(run, run.objective.model, run.objective.guide, run.history, run.iterates))
    return found
