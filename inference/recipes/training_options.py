"""Options that a method's networks are trained with, as a rule that asks for them and does nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from bayesprune.inference.guides.guide import GuideChoice, weight_families
from bayesprune.inference.guides.registry import is_point
from bayesprune.inference.rules.rule import ActiveRule, Rule, Run
from bayesprune.models.bayesian_network import BayesianNetwork

__all__ = ["TrainingOptions"]


@dataclass(frozen=True)
class TrainingOptions(Rule):
    """Asks for options of a fit where none are given, before the priors do, and before masks that are given after it.

    All weights with a prior have to be points: elsewhere it asks for nothing. Given options go first, one by one; with
    another optimizer given, nothing of this is taken.

    Attributes:
        optimizer: Name of the optimizer; default ``"sgd"``, with momentum 0.9.
        learning_rate: Default 0.1.
        schedule: Of the learning rate, by name; default ``"cosine"``.
        clip: Largest norm of the gradient; default None: no limit.
    """

    optimizer: str = "sgd"
    learning_rate: float = 0.1
    schedule: str = "cosine"
    clip: float | None = None
    name: ClassVar[str] = "training"
    order: ClassVar[int] = 1  # that of masks, which ask for options too: what samples may still ask for others

    def training(self, model: BayesianNetwork, guide: GuideChoice) -> Mapping[str, Any]:
        """Those that are not None."""
        points = all(map(is_point, weight_families(model, guide)))
        return {key: value for key, value in asdict(self).items() if value is not None} if points else {}

    def begin(self, run: Run) -> ActiveRule:
        """Nothing is left to do."""
        return ActiveRule()
