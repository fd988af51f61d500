"""What pruning gives: a plain network, its masks, and a report of what was done and what is left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.models.costs.layer_budgets import LayerBudget
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.networks.placing import zeros_for
from bayesprune.models.units.compact import CompactResult, compact

__all__ = ["PruneReport", "PruneResult", "report_of"]


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

    def layer_budget(self) -> LayerBudget:
        """How many weights of each tensor with a prior are kept: a budget that another fit can be given."""
        return LayerBudget.of(self.masks)

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
            example_input = zeros_for(self.network, self.input_shape, 2)
        return replace(compact(self.network, example_input, round_to, unknown), likelihood=self.likelihood)


def report_of(rule: str, criterion: str, kind: str | None, network: nn.Module, masks: dict[str, Tensor]) -> PruneReport:
    """Counts what is left of a pruned network.

    Args:
        rule: The rule in words.
        criterion: Name of the criterion.
        kind: Kind of the inclusion event, or None.
        network: The pruned network.
        masks: Which weights are kept, by name of tensor.
    """
    parameters = dict(network.named_parameters())
    counts = {name: (mask.numel(), int(torch.count_nonzero(parameters[name]))) for name, mask in masks.items()}
    per_tensor = {
        name: {"weights": count, "nonzero": nonzero, "sparsity": 1.0 - nonzero / count}
        for name, (count, nonzero) in counts.items()
    }
    total, left = (sum(column) for column in zip(*counts.values(), strict=True))
    return PruneReport(rule, criterion, kind, total, left, 1.0 - left / total, per_tensor)
