"""Pruning what is pruned already, as between two trainings of a network that is pruned step by step."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from bayesprune.inference.pruning.amounts import matching
from bayesprune.inference.pruning.criteria import scores_of
from bayesprune.inference.pruning.min_score import checked_score
from bayesprune.inference.pruning.plain_criteria import PLAIN_CRITERIA, PlainNetwork
from bayesprune.inference.pruning.pruned_scores import gone_layers
from bayesprune.inference.pruning.ranking import Ranking
from bayesprune.inference.pruning.report import PruneResult, report_of
from bayesprune.inference.pruning.running_statistics import normalised
from bayesprune.models.checks.shown_values import shown

__all__ = ["prune_again"]


def prune_again(result: PruneResult, how: Ranking) -> PruneResult:
    """Prunes a pruned network further; what is zero stays so, and the result given is left as it was.

    Args:
        result: What `prune` or `finetune` has returned.
        how: What is asked for; its amounts are of the tensors of `result.masks`.

    Raises:
        ValueError: If that cannot be.
    """
    names = matching(how.only, list(result.masks))
    least = None if how.amount is not None else checked_score(how.min_score, how.criterion, how.per)
    left = {name: mask.cpu() for name, mask in result.masks.items()}
    name, scores = _scores(result, how)
    weights = {key: result.network.get_parameter(key).detach().cpu() for key in names}
    stays, rule = how.kept(name, {key: scores[key] for key in names}, weights, {key: left[key] for key in names}, least)
    masks = {**left, **stays}
    if not any(bool(mask.any()) for mask in masks.values()):
        raise ValueError(f"{rule} leaves none of the weights: ask for less")
    network = copy.deepcopy(result.network)
    with torch.no_grad():
        for key, mask in masks.items():
            parameter = network.get_parameter(key)
            parameter.masked_fill_(~mask.to(parameter.device), 0.0)
    report = report_of(rule, name, None, network, masks)
    statistics = result.report.batch_normalisation
    statistics = normalised(network, how.data, None) if how.data is not None else statistics
    report = replace(
        report, batch_normalisation=statistics, finetuned=result.report.finetuned, notes=tuple(gone_layers(masks))
    )
    return replace(result, network=network, masks=masks, report=report)


def _scores(result: PruneResult, how: Ranking) -> tuple[str, dict[str, Tensor]]:
    """The criterion's name, and what it says of every tensor."""
    chosen = how.criterion or "magnitude"
    if callable(chosen):
        name, scores = (
            getattr(chosen, "__name__", type(chosen).__name__),
            scores_of(chosen, result, 0, how.data, how.seed),
        )
    elif chosen in PLAIN_CRITERIA:
        plain = PlainNetwork(result.network, result.masks, result.likelihood, how.data, how.seed)
        name, scores = chosen, {key: score.cpu() for key, score in PLAIN_CRITERIA[chosen](plain).items()}
    else:
        raise ValueError(
            f"criterion {shown(chosen)} is none of a network that is pruned already, which has no posterior: expected "
            f"one of {', '.join(PLAIN_CRITERIA)}, or a callable"
        )
    for key, mask in result.masks.items():
        if key not in scores or scores[key].shape != mask.shape:
            raise ValueError(f"the criterion must return a score for each weight of {key}, shape {tuple(mask.shape)}")
        if not bool(torch.isfinite(scores[key]).all()):
            raise ValueError(f"the criterion returned a score for {key} that is not finite")
    return name, scores
