"""Prune: turn a fit into a plain network with zeros in place, by a rule and a criterion that are stated."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch

from bayesprune.inference.data.batches import Data
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.pruning.as_declared import as_declared
from bayesprune.inference.pruning.by_budget import left_as_declared
from bayesprune.inference.pruning.chosen_weights import Chosen, asked_of, by_inclusion, by_score
from bayesprune.inference.pruning.criteria import Criterion
from bayesprune.inference.pruning.left_out import left_out
from bayesprune.inference.pruning.prune_again import prune_again
from bayesprune.inference.pruning.pruned_scores import gone_layers, loss_by_pruning
from bayesprune.inference.pruning.ranking import Ranking
from bayesprune.inference.pruning.report import PruneResult, report_of
from bayesprune.inference.pruning.running_statistics import normalised
from bayesprune.inference.pruning.what_is_pruned import refuse_what_is_no_fit
from bayesprune.models.checks.given_numbers import checked_seed
from bayesprune.models.costs.layer_budgets import LayerBudget
from bayesprune.models.networks.dyrelu_networks import unfaded_note

AS_LEFT, ITSELF = "as the fit leaves it", "its own zeros"
"""The rule and the criterion where nothing is asked for."""
_RULES = "sparsity=, share=, count=, min_inclusion=, min_score= and budget="


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
    fit: Fit | PruneResult | ManyFits,
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
    share: float | None = None,
    count: int | None = None,
    only: str | Sequence[str] | None = None,
    seed: int = 0,
) -> PruneResult:
    """Prunes a fit to a plain network with zeros in place; nothing is fine-tuned.

    `finetune` trains the network on, as one network; ``refit(fit, data, result)`` the posterior of the weights that it
    keeps.

    Without a rule it is the network as the fit leaves it, for fits that have zeros by themselves: by masks (sparse
    training), atoms or closed units. Nothing is ranked then.

    Args:
        fit: The fit; it is left as it was. Or a `SparsityPath`, one of whose networks is then chosen by `sparsity` (at
            least that), `value` and `min_accuracy`: see `SparsityPath.choose`. Or what `prune` or `finetune` has
            returned, which is pruned further, by the criteria ``"magnitude"`` (default), ``"random"`` and
            ``"optimal-brain-damage"``, or a callable that is given it in the place of a fit; its zeros stay.
        sparsity: Fraction of zeros to reach among the weights with a prior, exactly (rounded to whole weights).
        min_inclusion: Keep weights whose inclusion probability exceeds this; 0.5 is the median-probability model
            (Barbieri & Berger 2004). With gates of units, those whose own probability and whose gates, one by one,
            do. Give at most one of this, `sparsity`, `share`, `count`, `min_score` and `budget`.
        per: Over what weights are ranked (See, Luong & Manning 2016 on magnitudes): over the whole ``"network"``
            (default; class-blind), in each ``"layer"`` by itself, which loses the same share as all others
            (class-uniform), or ``"distribution"`` (class-distribution): over the whole network by scores that are
            divided by a standard deviation of their tensor, over the weights that are left there; of magnitudes that of
            the weights with their signs, of other criteria that of the scores.
        criterion: A name in `CRITERIA` (``"inclusion"``, ``"magnitude"``, ``"signal-to-noise"``, ...) or a callable;
            what `sparsity` ranks by. Default None: inclusion where all priors have an atom, or all a reduction; sign
            where all are soft thresholds; else, and for a MAP, magnitude. Ties are broken by position.
        restart: Which restart; default None: the first, of a path the one of the best validation score.
        data: Training data, or other examples for ``"optimal-brain-damage"`` to look at. Running statistics of batch
            normalisation are estimated again on them for the pruned network; default None: on those inputs that the
            fit keeps; of a loaded fit they stay those of the fit. The report says which. With the targets of at most
            2,000 of them (default None: of as many, or 512, that a fit to tensors keeps) the report's notes say whether
            the network is much worse than the fit; nothing is learned from them.
        value: Of a path: the value of the knob.
        min_accuracy: Of a path: the least accuracy on the validation data, a fraction.
        min_score: Keep weights whose score by `criterion`, which has to be named, exceeds this: a paper's rule "log
            alpha >= 3 goes" is ``criterion="dropout-rate", min_score=-3``, since that score is minus log alpha.
        budget: As `Budget` takes it: a share of the weights with a prior in (0, 1) or their number, in all; or by layer
            a `LayerBudget`, or shares and numbers by name of tensor or shell pattern. Exactly as many are kept, of the
            highest scores by `criterion`; tensors that one by layer does not name stay as the fit has left them.
        share: Fraction of the weights that are left which goes, in (0, 1], rounded to whole weights.
        count: How many of the weights that are left go; with ``per="layer"`` in proportion to what is left of each.
        only: A name or shell pattern of tensors, or several, such as ``"*.weight_hh*"``: `sparsity`, `share`, `count`,
            `min_inclusion` and `min_score` are then of these alone, and the others stay as the fit leaves them. Default
            None: all with a prior.
        seed: Of the criterion ``"random"``; default 0.

    Returns:
        The pruned network, its masks and a report.

    Raises:
        ValueError: For what is no fit, with how to get one from it; without a rule, for a fit without zeros; for an
            impossible sparsity, one below what the fit already has, a budget of more than it has left in or of tensors
            that it has not, probabilities of a MAP, or inclusion events of unlike kinds ranked together.
    """
    given = {
        "sparsity": sparsity, "share": share, "count": count, "min_inclusion": min_inclusion, "min_score": min_score,
        "budget": budget,
    }  # fmt: skip
    rules = [name for name, rule in given.items() if rule is not None]
    if not isinstance(fit, (Fit, PruneResult)):
        refuse_what_is_no_fit(fit)
        if per != "network" or criterion is not None or only is not None or set(rules) - {"sparsity"}:
            raise ValueError(
                "the networks of a path say themselves how they are pruned: choose one by sparsity=, value= and "
                "min_accuracy=, or prune path.fit(value)"
            )
        return fit.prune(sparsity, value, min_accuracy, restart, data)
    if value is not None or min_accuracy is not None:
        raise ValueError(
            "value= and min_accuracy= choose a network of a path: prune a fit by sparsity= or min_inclusion="
        )
    if len(rules) > 1:
        raise ValueError(f"give one of {_RULES}, or none of them")
    how = Ranking.of(
        sparsity, share, count, per, criterion=criterion, only=only, min_score=min_score, budget=budget, data=data,
        seed=checked_seed(seed),
    )  # fmt: skip
    if isinstance(fit, PruneResult):
        if restart is not None or not rules or set(rules) & {"min_inclusion", "budget"}:
            raise ValueError(
                "what is pruned already is one network without a posterior: give one of sparsity=, share=, count= and "
                "min_score=, and leave restart= out"
            )
        return prune_again(fit, how)
    if not rules:
        _check_as_left(fit, restart or 0, how)
    return pruned(fit, how, min_inclusion, restart or 0, compared=True)


def pruned(
    fit: Fit, how: Ranking, min_inclusion: float | None = None, restart: int = 0, compared: bool = False
) -> PruneResult:
    """As `prune` of a fit; the network is compared with the fit only if asked, as who measures it anyway does not."""
    data = how.data
    threshold = 0.5 if min_inclusion is None else min_inclusion
    asked = asked_of(fit, restart, threshold)
    one, weights = asked.one, asked.weights
    if min_inclusion is not None:
        chosen = by_inclusion(asked, min_inclusion, how)
    elif how.says_nothing:
        chosen = Chosen(left_as_declared(one), AS_LEFT, ITSELF, [])
    else:
        chosen = by_score(asked, how)
    network, masks = as_declared(one, weights, chosen.masks, threshold)
    kind = next(iter(asked.kinds)) if chosen.criterion == "inclusion" and len(asked.kinds) == 1 else None
    report = report_of(chosen.rule, chosen.criterion, kind, network, masks)
    report = replace(report, batch_normalisation=normalised(network, data, fit.inputs))
    notes = [*gone_layers(masks), *unfaded_note(network)]
    examples = fit.examples if data is None else data
    if compared and examples is not None:
        everything = {name: torch.ones_like(mask) for name, mask in masks.items()}
        centre = as_declared(one, weights, everything, 0.0)[0]
        by = chosen.rule if min_inclusion is not None else f"{chosen.rule}, by {chosen.criterion},"
        by = ITSELF if chosen.rule == AS_LEFT else by
        lost = loss_by_pruning(fit, restart, by, (centre, network), examples, chosen.others)
        notes += [] if lost is None else [lost]
    report = replace(report, notes=tuple(notes))
    shape = fit.settings.get("input_shape")
    likelihood = copy.deepcopy(one.model.likelihood).cpu()
    return PruneResult(network, masks, report, likelihood, None if shape is None else tuple(shape))


def _check_as_left(fit: Fit, restart: int, how: Ranking) -> None:
    """Refuses to prune by nothing what has no zeros of its own, and options that are about a rule."""
    if how.per != "network" or how.criterion is not None or how.only is not None:
        raise ValueError(
            "per=, criterion= and only= say how weights are ranked, which happens by sparsity=, share=, count=, "
            "min_score= or budget= only: give one of them, or leave per=, criterion= and only= out"
        )
    zeros, total = left_out(fit, restart)
    if zeros == 0:
        raise ValueError(
            f"the fit has none of its {total:,} weights at zero by itself, so there is no network that it leaves: give "
            f"one of {_RULES}"
        )
