"""Which weights are to be in while a fit is trained on: the median-probability model, or any masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesprune.inference.fit_result import Fit
from bayesprune.inference.inclusion.probabilities import probabilities_at
from bayesprune.inference.pruning.report import PruneResult
from bayesprune.inference.restart import Restart
from bayesprune.models.checks.plain_numbers import is_array, plain_number
from bayesprune.models.checks.shown_values import shown

__all__ = ["MEDIAN", "AskedGates", "asked_gates"]

MEDIAN = "median"
_EXPECTED = "'median', a probability in (0, 1), what prune returned, or booleans by name of tensor"


@dataclass(frozen=True)
class AskedGates:
    """Which weights are to be in, of each restart.

    Attributes:
        words: How they were chosen, as settings and notes say it.
        masks: True where a weight is in, by name of tensor, `(out, in, ...)`, on the CPU; a mapping a restart.
    """

    words: str
    masks: tuple[dict[str, Tensor], ...]


def asked_gates(fit: Fit, gates: Any) -> AskedGates:
    """The masks that are asked for, checked.

    Args:
        fit: The fit, with the restarts that are trained on.
        gates: As `refit` takes it.

    Raises:
        ValueError: If they are of none of these kinds, do not go into the model, bring weights back that the fit has no
            place for, or leave a layer without weights.
    """
    if fit.model.closes_units or fit.model.plan is not None:
        raise ValueError(
            "refit fixes which weights are in, but this fit learned which units are (gates=UnitGates()), and has fixed "
            "them itself: prune it and finetune the network, or fit(start=) trains its weights on"
        )
    gates = plain_number(gates)
    if isinstance(gates, PruneResult):
        words = f"pruning ({gates.report.rule}, by {gates.report.criterion})"
        chosen = [_checked(one, gates.masks) for one in fit.restarts]
    elif isinstance(gates, Mapping):
        words, chosen = "the masks that were given", [_checked(one, gates) for one in fit.restarts]
    else:
        threshold = _threshold(gates)
        words = "the median-probability model" if threshold == 0.5 else f"inclusion probability > {threshold:g}"
        chosen = [_likely(fit, number, threshold) for number in range(len(fit.restarts))]
    masks = tuple(_within(one, own) for one, own in zip(fit.restarts, chosen, strict=True))
    for number, own in enumerate(masks):
        _check_layers(own, words, number if len(masks) > 1 else None)
    return AskedGates(words, masks)


def _threshold(gates: Any) -> float:
    if isinstance(gates, str) and gates == MEDIAN:
        return 0.5
    if isinstance(gates, bool) or not isinstance(gates, (int, float)) or not 0.0 < gates < 1.0:
        raise ValueError(f"refit(gates=...) takes {_EXPECTED}, not {shown(gates)}")
    return float(gates)


def _likely(fit: Fit, restart: int, threshold: float) -> dict[str, Tensor]:
    """The weights of a higher inclusion probability, as `prune(min_inclusion=)` keeps them."""
    if fit.restarts[restart].guide.is_map:
        raise ValueError(
            "gates= by probability needs inclusion probabilities, which a MAP has none of: give the weights of "
            "prune(fit, sparsity=...), or fit with a guide that is a posterior"
        )
    return {name: found > threshold for name, found in probabilities_at(fit, restart).items()}


def _checked(one: Restart, given: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Masks of the shapes of all tensors with a prior."""
    priors = one.model.priors
    for name in given:
        if name not in priors:
            raise ValueError(
                f"gates= has a mask of {shown(name)}, which has no prior: give one of each of {', '.join(priors)}"
            )
    found = {}
    for name, prior in priors.items():
        if name not in given:
            raise ValueError(
                f"gates= has no mask of {name}: give one of each tensor with a prior, True where a weight stays"
            )
        if not is_array(given[name]) or (mask := torch.as_tensor(given[name]).detach().cpu()).dtype != torch.bool:
            raise ValueError(f"the mask of {name} is a boolean tensor, True where a weight is in: weight != 0")
        if tuple(mask.shape) != tuple(prior.shape):
            raise ValueError(
                f"the mask of {name} has shape {tuple(mask.shape)}, but the tensor has {tuple(prior.shape)}: masks are "
                "of the network as the fit has it"
            )
        found[name] = mask.clone()
    return found


def _within(one: Restart, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the weights that masks of the fit's own leave out."""
    there = {name: is_open.cpu() for name, is_open in one.guide.open_units(0.5).items()}
    return {name: mask & there[name] if name in there else mask for name, mask in masks.items()}


def _check_layers(masks: Mapping[str, Tensor], words: str, restart: int | None) -> None:
    """Refuses masks that leave a matrix, or a network without any, empty."""
    matrices = [name for name, mask in masks.items() if mask.ndim > 1] or list(masks)
    empty = [name for name in matrices if not bool(masks[name].any())]
    if empty and (len(empty) == len(masks) or masks[empty[0]].ndim > 1):
        where = "" if restart is None else f" of restart {restart}"
        raise ValueError(
            f"by {words}{where} no weight of {empty[0]} is in, and nothing passes a layer without weights: give "
            "a lower probability, or masks with at least one weight a layer"
        )
