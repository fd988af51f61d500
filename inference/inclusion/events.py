"""Inclusion events of a fit, by their rules: which rule a prior has, and which weights are included at draws."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bayesprune.inference.guides.seeded import seeded

# Each of these modules registers the rules that it defines.
from bayesprune.inference.inclusion import (  # noqa: F401
    beyond_threshold_rule,
    membership,
    ranks,
    ready_rules,
    reduction,
)
from bayesprune.inference.inclusion.event_rule import EventRule, registered_rule
from bayesprune.inference.restart import Restart
from bayesprune.models.language.inclusion import InclusionEvent
from bayesprune.models.language.tensor_prior import TensorPrior

__all__ = ["counted", "included_at", "inclusion_draws", "refuse_map", "rule_of", "stated_event"]


def rule_of(prior: TensorPrior) -> EventRule:
    """The rule of a prior's event.

    Raises:
        ValueError: If the prior declares no event, or one without a rule.
    """
    if prior.hierarchy.included is None:
        raise ValueError(f"the prior on {prior.name} declares no inclusion event: add included=... to its hierarchy")
    return registered_rule(prior.hierarchy.included)


def stated_event(one: Restart, prior: TensorPrior) -> InclusionEvent | None:
    """The event of a prior as results print it; None where it declares none."""
    return None if prior.hierarchy.included is None else rule_of(prior).stated(one, prior)


def included_at(one: Restart, prior: TensorPrior, values: dict[str, Tensor], weight: Tensor) -> Tensor:
    """Which weights of a tensor are included at a draw, `(out, in, ...)`: see `EventRule.included`."""
    return rule_of(prior).included(one, prior, values, weight)


def inclusion_draws(
    one: Restart, priors: list[TensorPrior], draws: int, units: bool = True
) -> Iterator[dict[str, Tensor]]:
    """Yields, a draw at a time, which weights are included, by name of tensor.

    Args:
        one: The restart.
        priors: Of which tensors.
        draws: How many.
        units: Whether gates of units count; default True.
    """
    with torch.no_grad(), seeded(one.guide, one.seed):
        for _ in range(draws):
            values = one.guide.sample()
            weights = one.model.weights_at(values) if units else one.model.ungated_weights_at(values)
            yield {prior.name: included_at(one, prior, values, weights[prior.name]) for prior in priors}


def counted(one: Restart, priors: list[TensorPrior], draws: int) -> dict[str, Tensor]:
    """Share of draws in which each weight is included by its prior, gates of units apart; by name of tensor.

    Raises:
        ValueError: If there are no draws, or an event cannot be evaluated.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    sums: dict[str, Tensor] = {}
    for included in inclusion_draws(one, priors, draws, units=False):
        for name, indicator in included.items():
            sums[name] = sums.get(name, torch.zeros_like(indicator, dtype=torch.float32)) + indicator
    return {name: total / draws for name, total in sums.items()}


def refuse_map(one: Restart) -> None:
    """Refuses a restart whose weights are points, under an event of which points have no probability.

    Raises:
        ValueError: If it is such a one.
    """
    if one.guide.ways:
        return  # whether a unit is there has a probability
    for name, prior in one.model.priors.items():
        if prior.hierarchy.included is not None and rule_of(prior).of_point:
            continue
        if one.guide.are_points(prior):
            what = "this fit is a MAP" if one.guide.is_map else f"this fit is a MAP of {name}"
            raise ValueError(
                f"{what}: points have no inclusion probabilities; fit with guide='meanfield' or 'paired', "
                "or prune by sparsity"
            )
