"""Inclusion probabilities of weights: by the rules of their events, and the gates of the units that they belong to."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesprune.inference.fitted import Fitted
from bayesprune.inference.inclusion.event_rule import EventRule
from bayesprune.inference.inclusion.events import counted, refuse_map, rule_of
from bayesprune.models.language.tensor_prior import TensorPrior

__all__ = ["probabilities_at"]


def probabilities_at(fit: Fitted, restart: int = 0, draws: int = 200, units: bool = True) -> dict[str, Tensor]:
    """Inclusion probabilities of one restart by name of tensor, on the CPU.

    Arguments and errors are those of `Fit.inclusion_probabilities`.
    """
    one = fit.restart(restart)
    refuse_map(one)
    found: dict[str, Tensor] = {}
    by_rule: dict[EventRule, list[TensorPrior]] = {}
    for name, prior in one.model.priors.items():
        rule = rule_of(prior)
        if one.model.closes_units and rule.is_left_to_units(one, prior):
            found[name] = torch.ones(prior.shape)
        else:
            by_rule.setdefault(rule, []).append(prior)
    for rule, priors in by_rule.items():
        found |= rule.probabilities(fit, restart, priors, draws)
    sampled = [prior for name, prior in one.model.priors.items() if name not in found]
    if sampled:
        found |= counted(one, sampled, draws)
    for name, there in one.model.open_at(one.guide.way_probabilities(), units).items():
        if name in found:
            found[name] = found[name].to(there.device) * there
    return {name: found[name].detach().cpu() for name in one.model.priors}
