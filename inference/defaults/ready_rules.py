"""The rules that parts of a model bring by themselves: whoever asks for them imports all who register."""

from __future__ import annotations

from collections.abc import Sequence

from bayesprune.inference.masks import phasing as phasing  # registers
from bayesprune.inference.masks import structure_scales as structure_scales  # registers
from bayesprune.inference.rules import gate_training as gate_training  # registers
from bayesprune.inference.rules import thresholds as thresholds  # registers
from bayesprune.inference.rules.registry import brought_rules
from bayesprune.inference.rules.rule import Rule
from bayesprune.models.bayesian_network import BayesianNetwork

__all__ = ["default_rules_of"]


def default_rules_of(model: BayesianNetwork, given: Sequence[Rule]) -> list[Rule]:
    """The rules that a model's ways, layers, hierarchies and their events bring, beside those that were given.

    Args:
        model: The model.
        given: The rules that were asked for.
    """
    hierarchies = [prior.hierarchy for prior in model.priors.values()]
    return brought_rules(
        [*model.ways, *model.network.modules(), *hierarchies, *(one.included for one in hierarchies)], given
    )
