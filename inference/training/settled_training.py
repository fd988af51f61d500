"""How a fit is trained that was not told: by Adam, or as priors ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bayesprune.inference.guides.guide import GuideChoice, weight_families
from bayesprune.inference.guides.registry import is_point
from bayesprune.inference.rules.rule import Rule
from bayesprune.inference.training.fit_options import USUAL, FitOptions
from bayesprune.models.bayesian_network import BayesianNetwork

__all__ = ["asked_by_priors", "settled_training"]


def asked_by_priors(model: BayesianNetwork, guide: GuideChoice = None) -> Mapping[str, Any]:
    """Options of a fit that the priors on weights ask for.

    `Hierarchy.map_options` where all that they are made of are points, else `Hierarchy.mean_field_options`. None where
    two of them ask for different ones, or one of them for none.

    Args:
        model: The model.
        guide: As `fit` takes it; default None: each prior's own.
    """
    priors = [model.priors[name] for name in model.matrices or tuple(model.priors)]
    are_points = all(map(is_point, weight_families(model, guide)))
    asked = [prior.hierarchy.map_options if are_points else prior.hierarchy.mean_field_options for prior in priors]
    first, *others = [dict(options) for options in asked] or [{}]
    return first if all(first == other for other in others) else {}


def settled_training(
    how: FitOptions, model: BayesianNetwork, guide: GuideChoice = None, rules: Sequence[Rule] = ()
) -> FitOptions:
    """The options with an optimizer, a learning rate and a schedule where none were given.

    What rules or priors ask for goes with their optimizer: where another was chosen, the rest is as usual too.

    Args:
        how: The options.
        model: The model.
        guide: As `fit` takes it; default None: each prior's own.
        rules: The rules of the fit, which are heard before the priors: of those that ask for anything the one that
            acts last, as it sees what the others have done, and of the same `order` the first that was given.
    """
    heard = sorted(rules, key=lambda rule: -rule.order)
    by_rules = (found for rule in heard if (found := rule.training(model, guide)))
    own = next(by_rules, None) or asked_by_priors(model, guide)
    if how.optimizer is not None and how.optimizer != own.get("optimizer"):
        own = {}
    found = {**USUAL, **own}
    return replace(how, **{name: value for name, value in found.items() if getattr(how, name) is None})
