"""Which weights of a fit stay: by their inclusion probabilities, or as ranked by a criterion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bayesprune.inference.fit_result import Fit
from bayesprune.inference.inclusion.events import rule_of
from bayesprune.inference.pruning.amounts import Amount, matching
from bayesprune.inference.pruning.as_declared import as_declared
from bayesprune.inference.pruning.by_budget import asked_budget, left_as_declared
from bayesprune.inference.pruning.criteria import CRITERIA, Criterion, scores_of
from bayesprune.inference.pruning.left_out import left_out, refuse_less, refuse_less_in_layers
from bayesprune.inference.pruning.masks import keep_highest
from bayesprune.inference.pruning.min_score import checked_score, keep_above, share_kept
from bayesprune.inference.pruning.pruned_scores import Alternative
from bayesprune.inference.pruning.ranking import Ranking
from bayesprune.inference.restart import Restart
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.inclusion import InclusionEvent
from bayesprune.models.units.plans import restored_tensor

__all__ = ["Asked", "Chosen", "asked_of", "by_inclusion", "by_score"]

MILDER_INCLUSION = (0.3, 0.1, 0.03, 0.01)
MILDER_SPARSITY = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3)
"""What is tried where a pruned network turns out much worse than its fit."""


@dataclass(frozen=True)
class Asked:
    """What is pruned: a restart of a fit, its weights, its gates of units that are open, and its kinds of events."""

    fit: Fit
    restart: int
    one: Restart
    weights: dict[str, Tensor]
    units: dict[str, Tensor]
    own: Mapping[str, InclusionEvent | None]
    kinds: set[str]


@dataclass(frozen=True)
class Chosen:
    """Which weights stay, by which rule and criterion, and what else may be tried."""

    masks: dict[str, Tensor]
    rule: str
    criterion: str
    others: list[Alternative]


def asked_of(fit: Fit, restart: int, threshold: float) -> Asked:
    """Gathers what is known of a restart; gates of units are open above the threshold."""
    one = fit.restart(restart)
    events = {name: prior.hierarchy.included for name, prior in one.model.priors.items()}
    own = {n: event for n, event in events.items() if n not in one.model.left_to_gates} or events
    kinds = {event.kind for event in own.values() if event is not None}
    weights = fit.included_weights(restart)
    units = one.guide.open_units(threshold)
    units = {name: is_open.cpu() for name, is_open in units.items()}
    return Asked(fit, restart, one, weights, units, own, kinds)


def by_inclusion(asked: Asked, min_inclusion: float, how: Ranking) -> Chosen:
    """Keeps weights of a higher inclusion probability, whose gates of units have a higher one too."""
    one, weights = asked.one, asked.weights
    if not 0.0 <= min_inclusion < 1.0:
        raise ValueError(f"min_inclusion is a probability in [0, 1), not {min_inclusion}")
    if how.criterion not in (None, "inclusion"):
        raise ValueError("min_inclusion= is a rule on inclusion probabilities: leave criterion= out")
    _refuse_unlike(asked.kinds)
    probabilities = asked.fit.inclusion_probabilities(asked.restart, units=False)
    likely = {name: torch.as_tensor(probabilities[name].values) for name in weights}

    def masks_at(value: float) -> dict[str, Tensor]:
        there = {name: is_open.cpu() for name, is_open in one.guide.open_units(value).items()}
        return {n: (p > value) & there[n] if n in there else p > value for n, p in likely.items()}

    masks = masks_at(min_inclusion)
    milder = tuple(value for value in MILDER_INCLUSION if value < min_inclusion)
    others = [Alternative("min_inclusion {}", milder, lambda v: as_declared(one, weights, masks_at(v), v)[0])]
    if not asked.units:
        kept = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
        sizes = {name: weight.abs().cpu() for name, weight in weights.items()}
        others.append(_milder(asked, sizes, "magnitude", "network", below=1.0 - kept))
    rule = f"inclusion probability > {min_inclusion:g}"
    if how.only is not None:
        left = left_as_declared(one)
        masks = {**left, **{name: masks[name] for name in matching(how.only, list(left)) if name in masks}}
        return Chosen(masks, f"{rule} {how.where.removeprefix(f'per {how.per} ')}", "inclusion", [])
    return Chosen(masks, rule, "inclusion", others)


def by_score(asked: Asked, how: Ranking) -> Chosen:
    """Keeps weights of the highest scores of a criterion: as many as an amount or a budget says, or above a score."""
    one, units, per = asked.one, asked.units, how.per
    if how.budget is not None:
        how.check_budget()
    layered = None if how.budget is None else asked_budget(one, how.budget)
    sparsity = how.amount.sparsity if how.amount is not None else None if layered is None else layered.sparsity
    is_ranked = how.amount is not None or layered is not None
    least = None if is_ranked else checked_score(how.min_score, how.criterion, per)
    by_event = None if one.guide.is_map or units else _criterion_of_event(one, asked.own)
    chosen = how.criterion or by_event or "magnitude"
    if chosen == "inclusion":
        _refuse_unlike(asked.kinds)
    name, function = _criterion(chosen)
    scores = scores_of(function, asked.fit, asked.restart, how.data, how.seed)
    _check_scores(scores, asked.weights)
    if how.is_of_what_is_left:
        return _of_what_is_left(asked, how, name, scores, least)
    above = {} if least is None else keep_above(scores, least, units)
    sparsity = 1.0 - share_kept(above, one.model) if sparsity is None else sparsity
    refuse_less(asked.fit, asked.restart, sparsity, least)
    scores = _with_removed(one.model, scores, units)
    if per == "layer" and units and not above:
        refuse_less_in_layers(scores, sparsity)
    masks = layered.masks(scores) if layered and layered.layers else above or keep_highest(scores, sparsity, per)
    others = [] if units else [_milder(asked, scores, name, per, below=sparsity)]
    rule = f"sparsity {sparsity:g} per {per}" if least is None else f"score > {least:g}"
    rule = rule if layered is None else layered.rule
    return Chosen(masks, rule, name, others)


def _of_what_is_left(asked: Asked, how: Ranking, name: str, scores: dict[str, Tensor], least: float | None) -> Chosen:
    """Keeps some of the weights that the fit has left, of the tensors that are asked for; others stay as they are."""
    one, units, model = asked.one, asked.units, asked.one.model
    left = left_as_declared(one)
    names = matching(how.only, list(left))
    scores = _with_removed(model, scores, units)
    weights = _with_removed(model, {key: weight.cpu() for key, weight in asked.weights.items()}, {})
    parts = tuple({key: given[key] for key in names} for given in (scores, weights, left))
    stays, rule = how.kept(name, parts[0], parts[1], parts[2], least)
    others = []
    if not units and least is None:
        size = sum(left[key].numel() for key in names)
        zeros, below = (1.0 - sum(int(there[key].sum()) for key in names) / size for there in (left, stays))

        def network(sparsity: float) -> nn.Module:
            milder = replace(how, amount=Amount(sparsity=sparsity)).kept(name, parts[0], parts[1], parts[2])[0]
            return as_declared(one, asked.weights, {**left, **milder}, 0.5)[0]

        values = tuple(value for value in MILDER_SPARSITY if zeros <= value < below)
        others.append(Alternative(f"sparsity {{}} {how.where} by {name}", values, network))
    return Chosen({**left, **stays}, rule, name, others)


def _with_removed(model: BayesianNetwork, scores: dict[str, Tensor], units: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scores of the shapes as declared, lowest where a gate of a unit is closed, or the unit was removed."""
    lowest = min(float(score.min()) for score in scores.values()) - 1.0
    scores = {n: torch.where(units[n], s, lowest) if n in units else s for n, s in scores.items()}
    if model.plan is None or model.declared is None:
        return scores
    found = {name: restored_tensor(name, score, model.plan, lowest) for name, score in scores.items()}
    gone = {name: torch.full_like(model.declared.get_parameter(name), lowest) for name in model.declared_sizes}
    return {name: found.get(name, gone[name].cpu()) for name in model.declared_sizes}


def _milder(asked: Asked, scores: dict[str, Tensor], criterion: str, per: str, below: float) -> Alternative:
    """Sparsities below one that has been asked for, but not below what the fit has left out itself."""
    one, weights = asked.one, asked.weights
    zeros, total = left_out(asked.fit, asked.restart)
    size = min(score.numel() for score in scores.values()) if per == "layer" else total
    values = tuple(v for v in MILDER_SPARSITY if zeros / total <= v < below and round(v * size) < size)
    words = f"sparsity {{}} per {per} by {criterion}"
    return Alternative(words, values, lambda s: as_declared(one, weights, keep_highest(scores, s, per), 0.5)[0])


def _criterion_of_event(one: Restart, own: Mapping[str, InclusionEvent | None]) -> str | None:
    """By what these tensors are ranked if nothing is said, where their priors have one event that does; else None."""
    if any(prior.hierarchy.included is None for prior in one.model.priors.values()):
        return None
    rules = {rule_of(one.model.priors[name]) for name in own}
    return next((rule.criterion for rule in rules if rule.ranks_by_default), None) if len(rules) == 1 else None


def _criterion(chosen: str | Criterion) -> tuple[str, Criterion]:
    if callable(chosen):
        return getattr(chosen, "__name__", type(chosen).__name__), chosen
    if chosen not in CRITERIA:
        raise ValueError(f"criterion {chosen!r} is unknown: expected one of {', '.join(CRITERIA)}, or a callable")
    return chosen, CRITERIA[chosen]


def _check_scores(scores: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    for name, weight in weights.items():
        if name not in scores or scores[name].shape != weight.shape:
            raise ValueError(
                f"the criterion must return a score for each weight of {name}, shape {tuple(weight.shape)}"
            )
        if not bool(torch.isfinite(scores[name]).all()):
            raise ValueError(f"the criterion returned a score for {name} that is not finite")


def _refuse_unlike(kinds: set[str]) -> None:
    if len(kinds) > 1:
        raise ValueError(
            f"the priors' inclusion events are of unlike kinds ({', '.join(sorted(kinds))}), whose "
            "probabilities are not comparable: rank by criterion='magnitude'"
        )
