"""What a budget asks of pruning: how many weights stay, in all or of each tensor; more than a fit has is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesprune.inference.guides.left_in import left_in
from bayesprune.inference.pruning.masks import keep_counts
from bayesprune.inference.restart import Restart
from bayesprune.models.checks.plain_numbers import is_finite, plain_number
from bayesprune.models.checks.shown_values import shown
from bayesprune.models.costs.layer_budgets import LayerBudget, counts_by_layer
from bayesprune.models.units.plans import restored_tensor

__all__ = ["AskedBudget", "asked_budget", "left_as_declared"]


@dataclass(frozen=True)
class AskedBudget:
    """A budget of one fit, in whole numbers.

    Attributes:
        rule: It in words.
        sparsity: The fraction of zeros that it comes to among all weights with a prior.
        layers: How many weights stay of each tensor that it names; empty where it is one number for the network.
        left: Which weights the fit has left in, by name of tensor, of the shapes as declared.
    """

    rule: str
    sparsity: float
    layers: dict[str, int]
    left: dict[str, Tensor]

    def masks(self, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        """The highest scores of each tensor that is named; of the others what the fit has left in.

        Args:
            scores: A score for each weight by tensor, of the shapes as declared.
        """
        lowest = min(float(score.min()) for score in scores.values()) - 1.0
        # What the fit has left out comes back in no tensor, whatever a criterion of the user's says of it.
        there = {name: torch.where(self.left[name], scores[name], lowest) for name in self.layers}
        return {**{name: left.clone() for name, left in self.left.items()}, **keep_counts(there, self.layers)}


def asked_budget(one: Restart, given: Any) -> AskedBudget:
    """Looks at a budget beside what a fit has left in.

    Args:
        one: The restart.
        given: A share in (0, 1) of the weights with a prior or their number; or, by layer, a `LayerBudget` or shares
            and numbers by name of tensor.

    Raises:
        ValueError: If it is none of these, names an unknown tensor, asks for more than the fit has left in, or empties
            a tensor.
    """
    left, sizes = left_as_declared(one), one.model.declared_sizes
    counts = {name: int(there.sum()) for name, there in left.items()}
    whole, there = sum(sizes.values()), sum(counts.values())
    if isinstance(given, (LayerBudget, Mapping)):
        layers = counts_by_layer(given, sizes)
        more = [name for name, count in layers.items() if count > counts[name]]
        if more:
            name = more[0]
            raise ValueError(
                f"the budget asks for {layers[name]:,} weights of {name}, but the fit has left {counts[name]:,} of "
                f"{sizes[name]:,} in: ask for at most {counts[name] / sizes[name]:.4g} of it"
            )
        kept = sum({**counts, **layers}.values())
        others = "" if len(layers) == len(sizes) else ", other tensors as the fit has left them"
        rule = f"budget by layer, {kept:,} of {whole:,} weights in all{others}"
        return AskedBudget(rule, 1.0 - kept / whole, layers, left)
    number = plain_number(given)
    is_number = isinstance(number, (int, float)) and not isinstance(number, bool) and is_finite(number)
    if not is_number or not (0.0 < number < 1.0 or (number >= 1 and float(number).is_integer())):
        raise ValueError(
            "budget= is a share in (0, 1) of the weights or a whole number of them, or one by layer, such as "
            f"LayerBudget.erk(model, 0.05), not {shown(number)}"
        )
    kept = int(number) if number >= 1 else round(number * whole)
    if kept == 0:
        raise ValueError(f"a budget of {number:g} leaves none of the {whole:,} weights: give {1 / whole:.3g} at least")
    if kept > there:
        raise ValueError(
            f"the budget asks for {kept:,} weights, but the fit has left {there:,} of {whole:,} in: ask for at most "
            f"{there / whole:.4g}"
        )
    return AskedBudget(f"budget of {kept:,} of {whole:,} weights", (whole - kept) / whole, {}, left)


def left_as_declared(one: Restart) -> dict[str, Tensor]:
    """Which weights a restart has left in, by name of tensor, those of removed units among the zeros, on the CPU.

    Args:
        one: The restart.
    """
    model = one.model
    found = {name: there.cpu() for name, there in left_in(one.guide).items()}
    if model.plan is not None:
        found = {name: restored_tensor(name, there, model.plan, False) for name, there in found.items()}
    gone = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in model.declared_shapes.items()}
    return {name: found.get(name, gone[name]) for name in model.declared_shapes}
