"""What is compared with the harm of deleting: inclusion probabilities, criteria, deletion scores, given numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from bayesprune.analysis.deletion.deletions import Array
from bayesprune.analysis.deletion.rank_correlations import CEILING
from bayesprune.inference.data.batches import Data
from bayesprune.inference.deletion.deletion_scores import DeletionScores, deletion_scores
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.pruning.criteria import CRITERIA, Criterion, scores_of
from bayesprune.models.language.tensor_prior import TensorPrior

__all__ = ["DELETION", "Predictor", "Scores", "predictors_of"]

Scores = str | Criterion | Mapping[str, Any]
DELETION = "deletion"
"""The criterion that has a score for a group of its own, which is no mean over its weights."""


@dataclass(frozen=True)
class Predictor:
    """A score of every group that can be deleted.

    Attributes:
        words: What it is.
        kind: Kind of the inclusion event if it is an inclusion probability, else None.
        by_group: The scores, `(groups,)`, by name of tensor.
        is_joint: Whether a set of groups has a score of its own, by `set_scores`; else members' scores are added up.
    """

    words: str
    kind: str | None
    by_group: dict[str, Array]
    is_joint: bool = False


def predictors_of(
    fit: Fit,
    restart: int,
    priors: dict[str, TensorPrior],
    groups: dict[str, Array],
    scores: Any,
    per: str,
    base: str,
    train: Data | None,
) -> dict[str, Predictor]:
    """The scores that are asked for, by name; one alone is named by its words.

    Args:
        fit: The fit.
        restart: Which restart.
        priors: Those of the tensors in question.
        groups: Number of the group of each weight, by tensor.
        scores: As in `deletion_calibration`.
        per: What a group is.
        base: Which network is deleted from.
        train: Examples for criteria that look at some.

    Raises:
        ValueError: If one is none.
    """
    if _are_several(scores) and CEILING in scores:
        raise ValueError(f"a score cannot be named {CEILING!r}, which is exact deletion on other data: rename it")
    asked = dict(scores) if _are_several(scores) else {"": scores}
    found = {name: _predictor(fit, restart, priors, groups, one, per, base, train) for name, one in asked.items()}
    return {name or one.words: one for name, one in found.items()}


def _are_several(scores: Any) -> bool:
    """Whether a mapping is one of scores by name, and not of arrays by tensor."""
    if not isinstance(scores, Mapping):
        return False
    return any(one is None or isinstance(one, (str, Mapping)) or callable(one) for one in scores.values())


def _predictor(
    fit: Fit,
    restart: int,
    priors: dict[str, TensorPrior],
    groups: dict[str, Array],
    scores: Any,
    per: str,
    base: str,
    train: Data | None,
) -> Predictor:
    if isinstance(scores, str) and scores == DELETION:
        found = deletion_scores(fit, train, per, base=base, tensors=list(priors), restart=restart)
        return Predictor(DELETION, None, _changes(found, groups), is_joint=True)
    if isinstance(scores, DeletionScores):
        if scores.per != per:
            raise ValueError(f"the deletion scores are per {scores.per}, not per {per}: make them with per={per!r}")
        return Predictor(scores.__name__, None, _changes(scores, groups))
    by_weight, words, kind = _by_weight(fit, restart, priors, scores, train)
    return Predictor(words, kind, {name: _means(by_weight[name], numbers) for name, numbers in groups.items()})


def _changes(scores: DeletionScores, groups: dict[str, Array]) -> dict[str, Array]:
    """Predicted changes of the groups in question."""
    found = {}
    for name, numbers in groups.items():
        if name not in scores.change or scores.groups[name].shape != numbers.shape:
            raise ValueError(f"the deletion scores say nothing of {name}, shape {numbers.shape}: make them of this fit")
        found[name] = scores.change[name].double().numpy()
    return found


def _by_weight(
    fit: Fit, restart: int, priors: dict[str, TensorPrior], scores: Scores | None, train: Data | None
) -> tuple[dict[str, Array], str, str | None]:
    """Scores by weight, what they are in words, and the kind of the event if they are inclusion probabilities."""
    found: Mapping[str, Any]
    if scores is None:
        probabilities = fit.inclusion_probabilities(restart)
        kinds = sorted({probabilities[name].attrs["kind"] for name in priors})
        if len(kinds) > 1:
            raise ValueError(
                f"the priors' inclusion events are of unlike kinds ({', '.join(kinds)}), whose probabilities are not "
                "comparable: name tensors of one kind by tensors=, or pass scores='magnitude'"
            )
        found = {name: probabilities[name].values for name in priors}
        what, kind = f"inclusion probability ({kinds[0]})", kinds[0]
    else:
        found, what = _named_scores(fit, restart, scores, train)
        kind = None
    checked = {}
    for name, prior in priors.items():
        value = found.get(name)
        value = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if value.shape != prior.shape:
            raise ValueError(f"scores must hold one number for each weight of {name}, shape {prior.shape}")
        checked[name] = value.astype(np.float64)
        if not np.isfinite(checked[name]).all():
            raise ValueError(f"the scores of {name} are not all finite: remove or fill NaN and infinity")
    return checked, what, kind


def _named_scores(fit: Fit, restart: int, scores: Scores, train: Data | None) -> tuple[Mapping[str, Any], str]:
    if isinstance(scores, Mapping):
        return scores, "given scores"
    if isinstance(scores, str):
        if scores not in CRITERIA:
            raise ValueError(
                f"scores {scores!r} is unknown: expected one of {', '.join(CRITERIA)}, a callable or arrays"
            )
        return scores_of(CRITERIA[scores], fit, restart, train, 0), scores
    return scores_of(scores, fit, restart, train, 0), getattr(scores, "__name__", type(scores).__name__)


def _means(score: Array, groups: Array) -> Array:
    """Mean score of each group; exactly the common value where its weights share one, so that ties stay ties."""
    flat, numbers = score.ravel(), groups.ravel()
    counts = np.bincount(numbers)
    low, high = np.full(len(counts), np.inf), np.full(len(counts), -np.inf)
    np.minimum.at(low, numbers, flat)
    np.maximum.at(high, numbers, flat)
    return np.where(low == high, low, np.bincount(numbers, weights=flat) / counts)
