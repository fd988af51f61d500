"""A rule that keeps what scores above a value, as papers state theirs: log alpha >= 3 goes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.plain_numbers import plain_number

__all__ = ["checked_score", "keep_above", "share_kept"]


def checked_score(min_score: Any, criterion: str | Callable[..., Any] | None, per: str) -> float:
    """Returns the value as a Python number.

    Args:
        min_score: What was given.
        criterion: The criterion that it is a score of.
        per: As in `prune`; only ``"network"`` makes sense, as the value is the same in every layer.

    Raises:
        ValueError: If it is no finite number, no criterion is named whose score has a meaning of its own, or `per` is
            another.
    """
    least = plain_number(min_score)
    if isinstance(least, bool) or not isinstance(least, (int, float)) or not math.isfinite(least):
        raise ValueError(f"min_score= takes a finite number, not {min_score!r}")
    if criterion is None:
        raise ValueError(
            "min_score= is a value of a criterion's score: name the criterion, e.g. criterion='dropout-rate'"
        )
    if criterion == "inclusion":
        raise ValueError("min_score= is no rule on inclusion probabilities: use min_inclusion=, without criterion=")
    if per != "network":
        raise ValueError(
            f"per={per!r} is about where a sparsity is reached, which min_score= does not set: leave it out"
        )
    return float(least)


def keep_above(scores: dict[str, Tensor], least: float, units: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keeps weights that score more than `least`.

    Args:
        scores: A score for each weight by tensor.
        least: The value.
        units: Which weights have their units' gates open, for tensors of gated units.

    Returns:
        Boolean masks of the tensors' shapes.
    """
    return {n: (score > least) & units[n] if n in units else score > least for n, score in scores.items()}


def share_kept(masks: dict[str, Tensor], model: BayesianNetwork) -> float:
    """The share that masks keep of all weights, those of units that have been removed among them."""
    return sum(int(mask.sum()) for mask in masks.values()) / sum(model.declared_sizes.values())
