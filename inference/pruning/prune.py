"""Prune: turn a fit into a plain network with zeros in place, by a rule and a criterion that are stated."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bayesprune.inference.data.batch_normalisation import reestimate_statistics, take_statistics, tracked_layers
from bayesprune.inference.data.batches import Data
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.left_in import left_in
from bayesprune.inference.inclusion.events import rule_of
from bayesprune.inference.pruning.by_budget import asked_budget, left_as_declared
from bayesprune.inference.pruning.criteria import CRITERIA, Criterion
from bayesprune.inference.pruning.masks import keep_highest, masked_network
from bayesprune.inference.pruning.min_score import checked_score, keep_above, share_kept
from bayesprune.inference.pruning.pruned_scores import Alternative, gone_layers, loss_by_pruning
from bayesprune.inference.pruning.report import PruneResult, report_of
from bayesprune.inference.pruning.what_is_pruned import refuse_what_is_no_fit
from bayesprune.inference.restart import Restart
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.costs.layer_budgets import LayerBudget
from bayesprune.models.language.inclusion import InclusionEvent
from bayesprune.models.units.plans import restored, restored_tensor

MILDER_INCLUSION = (0.3, 0.1, 0.03, 0.01)
MILDER_SPARSITY = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3)
"""What is tried where a pruned network turns out much worse than its fit."""
AS_LEFT, ITSELF = "as the fit leaves it", "its own zeros"
"""The rule and the criterion where nothing is asked for."""


class ManyFits(Protocol):
    """Several fits that know which of them to prune, and how: a `SparsityPath`."""

    def prune(
        self,
        sparsity: float | None = None,
        value: float | None = None,
        min_accuracy: float | None = None,
        restart: int | None = None,
        data: Data | None = None,
    ) -> PruneResult:
        """Chooses a fit and prunes it; see `SparsityPath.prune`."""


def prune(
    fit: Fit | ManyFits,
    sparsity: float | None = None,
    min_inclusion: float | None = None,
    per: str = "network",
    criterion: str | Criterion | None = None,
    restart: int | None = None,
    data: Data | None = None,
    value: float | None = None,
    min_accuracy: float | None = None,
    min_score: float | None = None,
    budget: float | int | LayerBudget | Mapping[str, float] | None = None,
) -> PruneResult:
    """Prunes a fit to a plain network with zeros in place; nothing is fine-tuned.

    Without a rule it is the network as the fit leaves it, for fits that have zeros by themselves: by masks (sparse
    training), atoms or closed units. Nothing is ranked then.

    Args:
        fit: The fit; it is left as it was. Or a `SparsityPath`, one of whose networks is then chosen by `sparsity` (at
            least that), `value` and `min_accuracy`: see `SparsityPath.choose`.
        sparsity: Fraction of zeros to reach among the weights with a prior, exactly (rounded to whole weights).
        min_inclusion: Keep weights whose inclusion probability exceeds this; 0.5 is the median-probability model
            (Barbieri & Berger 2004). With gates of units, those whose own probability and whose gates, one by one,
            do. Give at most one of this, `sparsity`, `min_score` and `budget`.
        per: Whether `sparsity` holds for the whole ``"network"`` (default) or for each ``"layer"``.
        criterion: A name in `CRITERIA` (``"inclusion"``, ``"magnitude"``, ``"signal-to-noise"``, ...) or a callable;
            what `sparsity` ranks by. Default None: inclusion where all priors have an atom, or all a reduction; sign
            where all are soft thresholds; else, and for a MAP, magnitude. Ties are broken by position.
        restart: Which restart; default None: the first, of a path the one of the best validation score.
        data: Training data, on which running statistics of batch normalisation are estimated again for the pruned
            network; default None: those inputs that the fit keeps; of a loaded fit they stay those of the fit. The
            report says which. With the targets of at most 2,000 of them (default None: of as many, or 512, that a fit
            to tensors keeps) the report's notes say whether the network is much worse than the fit; nothing is learned
            from them.
        value: Of a path: the value of the knob.
        min_accuracy: Of a path: the least accuracy on the validation data, a fraction.
        min_score: Keep weights whose score by `criterion`, which has to be named, exceeds this: a paper's rule "log
            alpha >= 3 goes" is ``criterion="dropout-rate", min_score=-3``, since that score is minus log alpha.
        budget: As `Budget` takes it: a share of the weights with a prior in (0, 1) or their number, in all; or by layer
            a `LayerBudget`, or shares and numbers by name of tensor or shell pattern. Exactly as many are kept, of the
            highest scores by `criterion`; tensors that one by layer does not name stay as the fit has left them.

    Returns:
        The pruned network, its masks and a report.

    Raises:
        ValueError: For what is no fit, with how to get one from it; without a rule, for a fit without zeros; for an
            impossible sparsity, one below what the fit already has, a budget of more than it has left in or of tensors
            that it has not, probabilities of a MAP, or inclusion events of unlike kinds ranked together.
    """
    if not isinstance(fit, Fit):
        refuse_what_is_no_fit(fit)
        own = (min_inclusion, criterion, min_score, budget)
        if per != "network" or any(one is not None for one in own):
            raise ValueError(
                "the networks of a path say themselves how they are pruned: choose one by sparsity=, value= and "
                "min_accuracy=, or prune path.fit(value)"
            )
        return fit.prune(sparsity, value, min_accuracy, restart, data)
    if value is not None or min_accuracy is not None:
        raise ValueError(
            "value= and min_accuracy= choose a network of a path: prune a fit by sparsity= or min_inclusion="
        )
    given = sum(rule is not None for rule in (sparsity, min_inclusion, min_score, budget))
    if given > 1:
        raise ValueError("give one of sparsity=, min_inclusion=, min_score= and budget=, or none of them")
    if given == 0:
        _check_as_left(fit, restart or 0, per, criterion)
    return pruned(
        fit, sparsity, min_inclusion, per, criterion, restart or 0, data, compared=True, min_score=min_score,
        budget=budget,
    )  # fmt: skip


def pruned(
    fit: Fit,
    sparsity: float | None = None,
    min_inclusion: float | None = None,
    per: str = "network",
    criterion: str | Criterion | None = None,
    restart: int = 0,
    data: Data | None = None,
    compared: bool = False,
    min_score: float | None = None,
    budget: float | int | LayerBudget | Mapping[str, float] | None = None,
) -> PruneResult:
    """As `prune` of a fit; the network is compared with the fit only if asked, as who measures it anyway does not."""
    if per not in ("network", "layer"):
        raise ValueError(f"per= takes 'network' or 'layer', not {per!r}")
    threshold = 0.5 if min_inclusion is None else min_inclusion
    asked = _asked(fit, restart, threshold)
    one, weights = asked.one, asked.weights
    if min_inclusion is not None:
        chosen = _by_inclusion(asked, min_inclusion, criterion)
    elif sparsity is None and min_score is None and budget is None:
        chosen = _Chosen(left_as_declared(one), AS_LEFT, ITSELF, [])
    else:
        chosen = _by_score(asked, sparsity, min_score, per, criterion, budget)
    network, masks = _as_declared(one, weights, chosen.masks, threshold)
    kind = next(iter(asked.kinds)) if chosen.criterion == "inclusion" and len(asked.kinds) == 1 else None
    report = report_of(chosen.rule, chosen.criterion, kind, network, masks)
    report = replace(report, batch_normalisation=_normalised(network, data, fit.inputs))
    notes = gone_layers(masks)
    examples = fit.examples if data is None else data
    if compared and examples is not None:
        everything = {name: torch.ones_like(mask) for name, mask in masks.items()}
        centre = _as_declared(one, weights, everything, 0.0)[0]
        by = chosen.rule if min_inclusion is not None else f"{chosen.rule}, by {chosen.criterion},"
        by = ITSELF if chosen.rule == AS_LEFT else by
        lost = loss_by_pruning(fit, restart, by, (centre, network), examples, chosen.others)
        notes += [] if lost is None else [lost]
    report = replace(report, notes=tuple(notes))
    shape = fit.settings.get("input_shape")
    likelihood = copy.deepcopy(one.model.likelihood).cpu()
    return PruneResult(network, masks, report, likelihood, None if shape is None else tuple(shape))


@dataclass(frozen=True)
class _Asked:
    """What is pruned: a restart of a fit, its weights, its gates of units that are open, and its kinds of events."""

    fit: Fit
    restart: int
    one: Restart
    weights: dict[str, Tensor]
    units: dict[str, Tensor]
    own: Mapping[str, InclusionEvent | None]
    kinds: set[str]


@dataclass(frozen=True)
class _Chosen:
    """Which weights stay, by which rule and criterion, and what else may be tried."""

    masks: dict[str, Tensor]
    rule: str
    criterion: str
    others: list[Alternative]


def _check_as_left(fit: Fit, restart: int, per: str, criterion: str | Criterion | None) -> None:
    """Refuses to prune by nothing what has no zeros of its own, and options that are about a rule."""
    if per != "network" or criterion is not None:
        raise ValueError(
            "per= and criterion= say how weights are ranked, which happens by sparsity=, min_score= or budget= only: "
            "give one of them, or leave per= and criterion= out"
        )
    zeros, total = left_out(fit, restart)
    if zeros == 0:
        raise ValueError(
            f"the fit has none of its {total:,} weights at zero by itself, so there is no network that it leaves: give "
            "one of sparsity=, min_inclusion=, min_score= and budget="
        )


def _asked(fit: Fit, restart: int, threshold: float) -> _Asked:
    one = fit.restart(restart)
    events = {name: prior.hierarchy.included for name, prior in one.model.priors.items()}
    own = {n: event for n, event in events.items() if n not in one.model.left_to_gates} or events
    kinds = {event.kind for event in own.values() if event is not None}
    weights = fit.included_weights(restart)
    units = one.guide.open_units(threshold)
    units = {name: is_open.cpu() for name, is_open in units.items()}
    return _Asked(fit, restart, one, weights, units, own, kinds)


def _by_inclusion(asked: _Asked, min_inclusion: float, criterion: str | Criterion | None) -> _Chosen:
    """Keeps weights of a higher inclusion probability, whose gates of units have a higher one too."""
    one, weights = asked.one, asked.weights
    if not 0.0 <= min_inclusion < 1.0:
        raise ValueError(f"min_inclusion is a probability in [0, 1), not {min_inclusion}")
    if criterion not in (None, "inclusion"):
        raise ValueError("min_inclusion= is a rule on inclusion probabilities: leave criterion= out")
    _refuse_unlike(asked.kinds)
    probabilities = asked.fit.inclusion_probabilities(asked.restart, units=False)
    likely = {name: torch.as_tensor(probabilities[name].values) for name in weights}

    def masks_at(value: float) -> dict[str, Tensor]:
        there = {name: is_open.cpu() for name, is_open in one.guide.open_units(value).items()}
        return {n: (p > value) & there[n] if n in there else p > value for n, p in likely.items()}

    masks = masks_at(min_inclusion)
    milder = tuple(value for value in MILDER_INCLUSION if value < min_inclusion)
    others = [Alternative("min_inclusion {}", milder, lambda v: _as_declared(one, weights, masks_at(v), v)[0])]
    if not asked.units:
        kept = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
        sizes = {name: weight.abs().cpu() for name, weight in weights.items()}
        others.append(_milder(asked, sizes, "magnitude", "network", below=1.0 - kept))
    return _Chosen(masks, f"inclusion probability > {min_inclusion:g}", "inclusion", others)


def _by_score(
    asked: _Asked,
    sparsity: float | None,
    min_score: float | None,
    per: str,
    criterion: str | Criterion | None,
    budget: Any = None,
) -> _Chosen:
    """Keeps weights of the highest scores of a criterion: as many as a sparsity or a budget says, or above a score."""
    one, units = asked.one, asked.units
    if budget is not None and per != "network":
        raise ValueError(
            "per='layer' is about where a sparsity is reached, which budget= says itself: give LayerBudget.uniform(...)"
        )
    layered = None if budget is None else asked_budget(one, budget)
    sparsity = sparsity if layered is None else layered.sparsity
    if sparsity is not None and not 0.0 <= sparsity < 1.0:
        raise ValueError(f"sparsity is a fraction of zeros in [0, 1), not {sparsity}")
    least = None if sparsity is not None else checked_score(min_score, criterion, per)
    by_event = None if one.guide.is_map or units else _criterion_of_event(one, asked.own)
    chosen = criterion or by_event or "magnitude"
    if chosen == "inclusion":
        _refuse_unlike(asked.kinds)
    name, function = _criterion(chosen)
    scores = {key: value.detach().cpu() for key, value in function(asked.fit, asked.restart).items()}
    _check_scores(scores, asked.weights)
    above = {} if least is None else keep_above(scores, least, units)
    sparsity = 1.0 - share_kept(above, one.model) if sparsity is None else sparsity
    _refuse_less(asked.fit, asked.restart, sparsity, least)
    scores = _with_removed(one.model, scores, units)
    if per == "layer" and units and not above:
        _refuse_less_in_layers(scores, sparsity)
    masks = layered.masks(scores) if layered and layered.layers else above or keep_highest(scores, sparsity, per)
    others = [] if units else [_milder(asked, scores, name, per, below=sparsity)]
    rule = f"sparsity {sparsity:g} per {per}" if least is None else f"score > {least:g}"
    rule = rule if layered is None else layered.rule
    return _Chosen(masks, rule, name, others)


def _with_removed(model: BayesianNetwork, scores: dict[str, Tensor], units: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scores of the shapes as declared, lowest where a gate of a unit is closed, or the unit was removed."""
    lowest = min(float(score.min()) for score in scores.values()) - 1.0
    scores = {n: torch.where(units[n], s, lowest) if n in units else s for n, s in scores.items()}
    if model.plan is None or model.declared is None:
        return scores
    found = {name: restored_tensor(name, score, model.plan, lowest) for name, score in scores.items()}
    gone = {name: torch.full_like(model.declared.get_parameter(name), lowest) for name in model.declared_sizes}
    return {name: found.get(name, gone[name].cpu()) for name in model.declared_sizes}


def _milder(asked: _Asked, scores: dict[str, Tensor], criterion: str, per: str, below: float) -> Alternative:
    """Sparsities below one that has been asked for, but not below what the fit has left out itself."""
    one, weights = asked.one, asked.weights
    zeros, total = left_out(asked.fit, asked.restart)
    size = min(score.numel() for score in scores.values()) if per == "layer" else total
    values = tuple(v for v in MILDER_SPARSITY if zeros / total <= v < below and round(v * size) < size)
    words = f"sparsity {{}} per {per} by {criterion}"
    return Alternative(words, values, lambda s: _as_declared(one, weights, keep_highest(scores, s, per), 0.5)[0])


def _as_declared(
    one: Restart, weights: dict[str, Tensor], masks: dict[str, Tensor], threshold: float
) -> tuple[nn.Module, dict[str, Tensor]]:
    """The pruned network of the shapes as declared, with zeros for closed units and branches, and its masks.

    Args:
        one: The restart.
        weights: Its weights as they are now.
        masks: Which of them stay; of their shapes, or of those as declared.
        threshold: Layers' gates of at most this probability are closed.
    """
    model = one.model
    plan, declared = model.plan, model.declared
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        for tensor in (name for q in one.guide.ways.values() for name in q.tensors_closed(threshold)):
            network.get_parameter(tensor).zero_()
            if tensor in weights:
                weights = {**weights, tensor: torch.zeros_like(weights[tensor])}
    if plan is None or declared is None:
        return masked_network(network, weights, masks), masks
    tensors = restored(declared, {**network.state_dict(), **weights}, plan)
    whole = copy.deepcopy(declared).cpu()
    whole.load_state_dict(tensors, strict=False)  # buffers of removed branches stay as they were declared
    shapes = {name: declared.get_parameter(name).shape for name in model.declared_sizes}
    masks = {
        name: mask if mask.shape == shapes[name] else restored_tensor(name, mask, plan, False)
        for name, mask in masks.items()
    }
    masks = {name: masks.get(name, torch.zeros(shape, dtype=torch.bool)) for name, shape in shapes.items()}
    return masked_network(whole, {name: tensors[name] for name in shapes}, masks), masks


def _criterion_of_event(one: Restart, own: Mapping[str, InclusionEvent | None]) -> str | None:
    """By what these tensors are ranked if nothing is said, where their priors have one event that does; else None."""
    if any(prior.hierarchy.included is None for prior in one.model.priors.values()):
        return None
    rules = {rule_of(one.model.priors[name]) for name in own}
    return next((rule.criterion for rule in rules if rule.ranks_by_default), None) if len(rules) == 1 else None


def _normalised(network: nn.Module, data: Data | None, inputs: Tensor | None) -> str | None:
    """Estimates running statistics again where there are data, and says what they are."""
    if not any(isinstance(layer, _BatchNorm) and layer.running_mean is not None for layer in network.modules()):
        return None
    if not tracked_layers(network):
        return "running statistics are those of the fit, whose layers are held in evaluation mode"
    if data is not None:
        count, on = reestimate_statistics(network, data), "training data"
    else:
        count, on = (
            (0, "") if inputs is None else (take_statistics(network, inputs), f"{len(inputs):,} training inputs")
        )
    if count == 0:
        return "running statistics are those of the fit, before pruning"
    return f"running statistics of {count} layers estimated again on {on}"


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


def left_out(fit: Fit, restart: int = 0) -> tuple[int, int]:
    """How many weights the fit itself has left out, of how many: exact zeros, gates of at most 1/2, removed units.

    Args:
        fit: The fit.
        restart: Which restart; default the first.
    """
    one = fit.restarts[restart]
    left = sum(int(there.sum()) for there in left_in(one.guide).values())
    total = sum(one.model.declared_sizes.values())
    return total - left, total


def _refuse_less(fit: Fit, restart: int, sparsity: float, least: float | None) -> None:
    """Refuses to put weights back that the fit has left out; `least` is the score that gave the sparsity, or None."""
    zeros, total = left_out(fit, restart)
    if round(sparsity * total) < zeros:
        already = math.ceil(zeros / total * 1e4) / 1e4
        if least is not None:
            raise ValueError(
                f"the fit already has sparsity {already:.4f} ({total - zeros} of {total} weights are left), more than "
                f"the {sparsity:.4f} that min_score={least:g} leaves: raise it"
            )
        raise ValueError(
            f"the fit already has sparsity {already:.4f} ({total - zeros} of {total} weights are left), more than the "
            f"{sparsity:g} asked for: ask for at least that, or use min_inclusion="
        )


def _refuse_less_in_layers(scores: dict[str, Tensor], sparsity: float) -> None:
    """The same for each tensor, whose closed and removed weights have the lowest score of all."""
    lowest = min(float(score.min()) for score in scores.values())
    for name, score in scores.items():
        closed = int((score == lowest).sum())
        if closed > 1 and closed > round(sparsity * score.numel()):
            raise ValueError(
                f"units that the fit has closed hold {closed} of the {score.numel()} weights of {name}, more than the "
                f"{sparsity:g} asked for in each layer: use per='network', or min_inclusion="
            )
