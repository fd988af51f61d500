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
from bayesprune.inference.pruning.criteria import CRITERIA, Criterion
from bayesprune.inference.pruning.min_score import checked_score, keep_above, share_kept
from bayesprune.inference.pruning.pruned_scores import Alternative, gone_layers, loss_by_pruning
from bayesprune.inference.pruning.what_is_pruned import refuse_what_is_no_fit
from bayesprune.inference.restart import Restart
from bayesprune.models.bayesian_network import UNDER_PRIOR, BayesianNetwork
from bayesprune.models.language.inclusion import InclusionEvent
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.networks.evaluation_mode import remember_held
from bayesprune.models.units.compact import CompactResult, compact
from bayesprune.models.units.plans import restored, restored_tensor

MILDER_INCLUSION = (0.3, 0.1, 0.03, 0.01)
MILDER_SPARSITY = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3)
"""What is tried where a pruned network turns out much worse than its fit."""


@dataclass(frozen=True)
class PruneReport:
    """What pruning did; biases and normalisation parameters are not counted.

    Attributes:
        rule: The rule in words.
        criterion: Name of the criterion.
        kind: str of the inclusion event where the criterion is an inclusion probability, else None.
        weights: Number of prunable weights (those of tensors with a prior).
        nonzero: How many are left.
        sparsity: Fraction of zeros among them.
        per_tensor: ``weights``, ``nonzero`` and ``sparsity`` of each tensor.
        batch_normalisation: Where its running statistics come from, or None for a network without it.
        finetuned: How the network was fine-tuned since, or None.
        notes: Sentences worth telling: layers of which nothing is left, and, where training data were given, that the
            network is much worse than the fit that it comes from (3 points of accuracy, or 5 % of the rmse, and more
            than the sample's noise), with a setting that is not.
    """

    rule: str
    criterion: str
    kind: str | None
    weights: int
    nonzero: int
    sparsity: float
    per_tensor: dict[str, dict[str, Any]]
    batch_normalisation: str | None = None
    finetuned: str | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        width = max(len(name) for name in self.per_tensor)
        lines = [
            f"{self.rule}, by {self.criterion}: {self.nonzero} of {self.weights} weights, sparsity {self.sparsity:.4f}"
        ]
        for name, row in self.per_tensor.items():
            lines.append(
                f"  {name:<{width}}  {row['nonzero']:>9} of {row['weights']:>9}  sparsity {row['sparsity']:.4f}"
            )
        if self.batch_normalisation is not None:
            lines.append(f"  batch normalisation: {self.batch_normalisation}")
        if self.finetuned is not None:
            lines.append(f"  fine-tuned: {self.finetuned}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


@dataclass(frozen=True)
class PruneResult:
    """A pruned network.

    Attributes:
        network: A plain `nn.Module` with the weights E[weight | included] where they are kept and zeros elsewhere,
            in evaluation mode, on the CPU; it needs neither Pyro nor bayesprune.
        masks: Which weights are kept, by name of tensor, boolean, `(out, in, ...)`.
        report: What was done.
        likelihood: What the network's outputs mean, as the fit has learned it.
        input_shape: Shape of one input that the fit was made on, where it is known.
    """

    network: nn.Module
    masks: dict[str, Tensor]
    report: PruneReport
    likelihood: Likelihood
    input_shape: tuple[int, ...] | None = None

    def compact(self, example_input: Any = None, round_to: int = 1, unknown: str = "refuse") -> CompactResult:
        """Removes dead units physically: see `bayesprune.compact`.

        Args:
            example_input: An input, `(n, ...)`; default None: zeros of the shape that the fit was made on.
            round_to: Widths are kept at multiples of this number where that is possible; default 1.
            unknown: ``"refuse"`` (default) raises an error where an operation is not understood, ``"keep"`` keeps all
                units that it touches.

        Raises:
            ValueError: As `compact` does; or if the shape of the input is not known.
        """
        if example_input is None:
            if self.input_shape is None:
                raise ValueError(
                    "the fit does not say what shape its inputs had: pass example_input=, an input (n, ...)"
                )
            like = next(self.network.parameters())
            example_input = torch.zeros((2, *self.input_shape), dtype=like.dtype, device=like.device)
        return replace(compact(self.network, example_input, round_to, unknown), likelihood=self.likelihood)


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
) -> PruneResult:
    """Prunes a fit to a plain network with zeros in place; nothing is fine-tuned.

    Args:
        fit: The fit; it is left as it was. Or a `SparsityPath`, one of whose networks is then chosen by `sparsity` (at
            least that), `value` and `min_accuracy`: see `SparsityPath.choose`.
        sparsity: Fraction of zeros to reach among the weights with a prior, exactly (rounded to whole weights).
        min_inclusion: Keep weights whose inclusion probability exceeds this; 0.5 is the median-probability model
            (Barbieri & Berger 2004). With gates of units, those whose own probability and whose gates, one by one,
            do. Give this, `sparsity` or `min_score`.
        per: Whether `sparsity` holds for the whole ``"network"`` (default) or for each ``"layer"``.
        criterion: A name in `CRITERIA` (``"inclusion"``, ``"magnitude"``, ``"signal-to-noise"``, ...) or a callable;
            what `sparsity` ranks by. Default None: inclusion where all priors have an atom, or all a reduction, else
            magnitude. Ties are broken by position.
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

    Returns:
        The pruned network, its masks and a report.

    Raises:
        ValueError: For what is no fit, with how to get one from it; for an impossible sparsity, one below what the fit
            already has, probabilities of a MAP, or inclusion events of unlike kinds ranked together.
    """
    if not isinstance(fit, Fit):
        refuse_what_is_no_fit(fit)
        if min_inclusion is not None or criterion is not None or per != "network" or min_score is not None:
            raise ValueError(
                "the networks of a path say themselves how they are pruned: choose one by sparsity=, value= and "
                "min_accuracy=, or prune path.fit(value)"
            )
        return fit.prune(sparsity, value, min_accuracy, restart, data)
    if value is not None or min_accuracy is not None:
        raise ValueError(
            "value= and min_accuracy= choose a network of a path: prune a fit by sparsity= or min_inclusion="
        )
    if [sparsity, min_inclusion, min_score].count(None) != 2:
        raise ValueError("give one of sparsity=, min_inclusion= and min_score=")
    return pruned(fit, sparsity, min_inclusion, per, criterion, restart or 0, data, compared=True, min_score=min_score)


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
) -> PruneResult:
    """As `prune` of a fit; the network is compared with the fit only if asked, as who measures it anyway does not."""
    if per not in ("network", "layer"):
        raise ValueError(f"per= takes 'network' or 'layer', not {per!r}")
    one = fit.restart(restart)
    events = {name: prior.hierarchy.included for name, prior in one.model.priors.items()}
    own = {n: event for n, event in events.items() if n not in one.model.left_to_gates} or events
    kinds = {event.kind for event in own.values() if event is not None}
    weights = fit.included_weights(restart)
    units = one.guide.open_units(0.5 if min_inclusion is None else min_inclusion)
    units = {name: is_open.cpu() for name, is_open in units.items()}
    if min_inclusion is not None:
        if not 0.0 <= min_inclusion < 1.0:
            raise ValueError(f"min_inclusion is a probability in [0, 1), not {min_inclusion}")
        if criterion not in (None, "inclusion"):
            raise ValueError("min_inclusion= is a rule on inclusion probabilities: leave criterion= out")
        _refuse_unlike(kinds)
        probabilities = fit.inclusion_probabilities(restart, units=False)
        likely = {name: torch.as_tensor(probabilities[name].values) for name in weights}

        def masks_at(value: float) -> dict[str, Tensor]:
            there = {name: is_open.cpu() for name, is_open in one.guide.open_units(value).items()}
            return {n: (p > value) & there[n] if n in there else p > value for n, p in likely.items()}

        masks = masks_at(min_inclusion)
        milder = tuple(value for value in MILDER_INCLUSION if value < min_inclusion)
        others = [Alternative("min_inclusion {}", milder, lambda v: _as_declared(one, weights, masks_at(v), v)[0])]
        if not units:
            kept = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
            sizes = {name: weight.abs().cpu() for name, weight in weights.items()}
            others.append(_milder(fit, restart, sizes, "magnitude", "network", below=1.0 - kept))
        rule, name = f"inclusion probability > {min_inclusion:g}", "inclusion"
    else:
        if sparsity is not None and not 0.0 <= sparsity < 1.0:
            raise ValueError(f"sparsity is a fraction of zeros in [0, 1), not {sparsity}")
        least = None if sparsity is not None else checked_score(min_score, criterion, per)
        by_event = _ranks_by_event(one, own) and not one.guide.is_map and not units
        chosen = criterion or ("inclusion" if by_event else "magnitude")
        if chosen == "inclusion":
            _refuse_unlike(kinds)
        name, function = _criterion(chosen)
        scores = {key: value.detach().cpu() for key, value in function(fit, restart).items()}
        _check_scores(scores, weights)
        above = {} if least is None else keep_above(scores, least, units)
        sparsity = 1.0 - share_kept(above, one.model) if sparsity is None else sparsity
        _refuse_less(fit, restart, sparsity, least)
        scores = _with_removed(one.model, scores, units)
        if per == "layer" and units and not above:
            _refuse_less_in_layers(scores, sparsity)
        masks = above or keep_highest(scores, sparsity, per)
        others = [] if units else [_milder(fit, restart, scores, name, per, below=sparsity)]
        rule = f"sparsity {sparsity:g} per {per}" if least is None else f"score > {least:g}"
    network, masks = _as_declared(one, weights, masks, 0.5 if min_inclusion is None else min_inclusion)
    kind = next(iter(kinds)) if name == "inclusion" and len(kinds) == 1 else None
    report = _report(rule, name, kind, network, masks)
    report = replace(report, batch_normalisation=_normalised(network, data, fit.inputs))
    notes = gone_layers(masks)
    examples = fit.examples if data is None else data
    if compared and examples is not None:
        everything = {name: torch.ones_like(mask) for name, mask in masks.items()}
        centre = _as_declared(one, weights, everything, 0.0)[0]
        by = rule if min_inclusion is not None else f"{rule}, by {name},"
        lost = loss_by_pruning(fit, restart, by, (centre, network), examples, others)
        notes += [] if lost is None else [lost]
    report = replace(report, notes=tuple(notes))
    shape = fit.settings.get("input_shape")
    likelihood = copy.deepcopy(one.model.likelihood).cpu()
    return PruneResult(network, masks, report, likelihood, None if shape is None else tuple(shape))


def _with_removed(model: BayesianNetwork, scores: dict[str, Tensor], units: dict[str, Tensor]) -> dict[str, Tensor]:
    """Scores of the shapes as declared, lowest where a gate of a unit is closed, or the unit was removed."""
    lowest = min(float(score.min()) for score in scores.values()) - 1.0
    scores = {n: torch.where(units[n], s, lowest) if n in units else s for n, s in scores.items()}
    if model.plan is None or model.declared is None:
        return scores
    found = {name: restored_tensor(name, score, model.plan, lowest) for name, score in scores.items()}
    gone = {name: torch.full_like(model.declared.get_parameter(name), lowest) for name in model.declared_sizes}
    return {name: found.get(name, gone[name].cpu()) for name in model.declared_sizes}


def _milder(fit: Fit, restart: int, scores: dict[str, Tensor], criterion: str, per: str, below: float) -> Alternative:
    """Sparsities below one that has been asked for, but not below what the fit has left out itself."""
    one, weights = fit.restarts[restart], fit.included_weights(restart)
    zeros, total = own_zeros(fit, restart)
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
    model, q = one.model, one.guide.gates
    plan, declared = model.plan, model.declared
    network = copy.deepcopy(model.network)
    if q is not None:
        closed = {s for s, theta in q.probabilities().items() if q.gates.sets[s].is_layer and float(theta) <= threshold}
        with torch.no_grad():
            for name, branch in q.gates.branches.items():
                for tensor in branch.output if f"{name}.layer_gate" in closed else ():
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


def _ranks_by_event(one: Restart, own: Mapping[str, InclusionEvent | None]) -> bool:
    """Whether the priors on these tensors have one event, by which their weights are ranked if nothing is said."""
    if any(prior.hierarchy.included is None for prior in one.model.priors.values()):
        return False
    rules = {rule_of(one.model.priors[name]) for name in own}
    return len(rules) == 1 and all(rule.ranks_by_default for rule in rules)


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


def keep_highest(scores: dict[str, Tensor], sparsity: float, per: str) -> dict[str, Tensor]:
    """Keeps exactly ``n - round(sparsity n)`` of n weights, the highest scores; of equal ones the first.

    Args:
        scores: A score for each weight by tensor.
        sparsity: Fraction of zeros.
        per: ``"network"`` ranks all tensors together, ``"layer"`` each by itself.

    Returns:
        Boolean masks of the tensors' shapes.

    Raises:
        ValueError: If nothing would be left of the network, or of a layer where each is pruned by itself.
    """
    groups = [list(scores)] if per == "network" else [[name] for name in scores]
    masks: dict[str, Tensor] = {}
    for names in groups:
        flat = torch.cat([scores[name].reshape(-1).double() for name in names])
        kept = len(flat) - round(sparsity * len(flat))
        if kept == 0:
            raise ValueError(
                f"sparsity {sparsity} leaves none of the {len(flat)} weights of {', '.join(names)}: ask for less"
            )
        order = torch.sort(flat, descending=True, stable=True).indices
        mask = torch.zeros(len(flat), dtype=torch.bool)
        mask[order[:kept]] = True
        for name, part in zip(names, mask.split([scores[n].numel() for n in names]), strict=True):
            masks[name] = part.view(scores[name].shape)
    return masks


def masked_network(network: nn.Module, weights: dict[str, Tensor], masks: dict[str, Tensor]) -> nn.Module:
    """Returns a plain copy of the network with these weights where the masks are true and zeros elsewhere.

    Parameters without a prior that are frozen stay so.
    """
    plain = copy.deepcopy(network).cpu()
    remember_held(plain)
    plain.eval()
    for module in plain.modules():
        module.__dict__.pop(UNDER_PRIOR, None)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            if name in weights:
                parameter.requires_grad_(True)
                parameter.copy_(torch.where(masks[name], weights[name].cpu(), 0.0))
    return plain


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


def own_zeros(fit: Fit, restart: int = 0) -> tuple[int, int]:
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
    zeros, total = own_zeros(fit, restart)
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


def _report(rule: str, criterion: str, kind: str | None, network: nn.Module, masks: dict[str, Tensor]) -> PruneReport:
    parameters = dict(network.named_parameters())
    counts = {name: (mask.numel(), int(torch.count_nonzero(parameters[name]))) for name, mask in masks.items()}
    per_tensor = {
        name: {"weights": count, "nonzero": nonzero, "sparsity": 1.0 - nonzero / count}
        for name, (count, nonzero) in counts.items()
    }
    total, left = (sum(column) for column in zip(*counts.values(), strict=True))
    return PruneReport(rule, criterion, kind, total, left, 1.0 - left / total, per_tensor)
