"""How the posteriors of the tables are made: spike and slab, then the slabs trained on with the gates fixed.

One `Recipe` is all that is chosen of a run; `posterior` runs it and scores each form of what comes out apart.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import bayesprune as bp

Split = tuple[Tensor, Tensor]
WHOLE = 266_200
"""Weights of LeNet-300-100."""


@dataclass(frozen=True)
class Recipe:
    """What is chosen of a run.

    Attributes:
        prior: Arguments of `SpikeAndSlab`.
        kl_weight: Of the fit.
        epochs: Of the fit.
        refit_epochs: With the gates fixed, after it; 0: no refit.
        refit_kl_weight: Default None: that of the fit.
        budget: Share of the weights that the median-probability model is to keep; default None: whatever it keeps.
        how: Other arguments of `bayesprune.fit`, for both.
    """

    prior: dict[str, Any] = field(default_factory=dict)
    kl_weight: float = 0.1
    epochs: int = 15
    refit_epochs: int = 5
    refit_kl_weight: float | None = None
    budget: float | None = None
    how: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        prior = ", ".join(f"{name} {value}" for name, value in self.prior.items())
        refit = self.kl_weight if self.refit_kl_weight is None else self.refit_kl_weight
        parts = [
            prior or "prior as it is",
            f"KL weight {self.kl_weight:g}",
            f"{self.epochs} epochs",
            f"refit {self.refit_epochs} epochs at {refit:g}" if self.refit_epochs else "no refit",
            *([f"budget {self.budget:g}"] if self.budget else []),
            *(f"{name} {value}" for name, value in self.how.items()),
        ]
        return "; ".join(parts)


USUAL: dict[str, Any] = {"learning_rate": 2e-3, "kl_warmup": 0.6}
"""Of every fit."""


def declared(recipe: Recipe, network: nn.Module, examples: int) -> bp.BayesianNetwork:
    """The model of a recipe; a fit that is read back from a folder takes it."""
    return bp.BayesianNetwork(network, {"*.weight": bp.SpikeAndSlab(**recipe.prior)}, data_size=examples)


def fitted(recipe: Recipe, network: nn.Module, data: Split, seed: int) -> bp.Fit:
    """The fit of a recipe, before its gates are fixed."""
    model = declared(recipe, network, len(data[0]))
    rules = [] if recipe.budget is None else [bp.Budget(density=recipe.budget)]
    how = {**USUAL, **recipe.how}
    return bp.fit(model, data, epochs=recipe.epochs, kl_weight=recipe.kl_weight, seed=seed, rules=rules, **how)


def refitted(recipe: Recipe, fit: bp.Fit, data: Split, seed: int) -> bp.Fit:
    """The same fit given its median-probability model."""
    weight = recipe.kl_weight if recipe.refit_kl_weight is None else recipe.refit_kl_weight
    how = {name: value for name, value in {**USUAL, **recipe.how}.items() if name != "kl_warmup"}
    return bp.refit(fit, data, epochs=recipe.refit_epochs, kl_weight=weight, seed=seed, **how)


def forms(fit: bp.Fit, split: Split) -> dict[str, dict[str, float]]:
    """Scores of the averaged prediction, and of the median-probability model drawn and at its means.

    Each has accuracy, nll, ece, brier, the weights kept (averaged: a sum of probabilities), and the share undecided.
    """
    found = bp.score_forms(fit, *split)
    return {name: {**scores, "undecided": found.undecided} for name, scores in found.rows.items()}


def posterior(
    recipe: Recipe, network: nn.Module, data: Split, split: Split, seed: int
) -> tuple[dict[str, Any], bp.Fit, bp.Fit | None]:
    """Runs a recipe.

    Args:
        recipe: What is chosen.
        network: Where it starts.
        data: To train on.
        split: To score on.
        seed: Of the draws and of the data's order.

    Returns:
        The scores of each form of the fit and of its refit, with seconds of the processor; the fit; the refit, if any.
    """
    began = time.process_time()
    fit = fitted(recipe, network, data, seed)
    found: dict[str, Any] = {"recipe": str(recipe), "seconds": time.process_time() - began}
    found |= {"execution": fit.settings["execution"]["name"], "fit": forms(fit, split)}
    found |= {"budget": fit.settings["budget"]} if "budget" in fit.settings else {}
    if not recipe.refit_epochs:
        return found, fit, None
    began = time.process_time()
    after = refitted(recipe, fit, data, seed)
    found |= {"refit_seconds": time.process_time() - began, "refit": forms(after, split)}
    return found, fit, after


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe in so many epochs in all, in the same shares."""
    refit = round(epochs * recipe.refit_epochs / (recipe.epochs + recipe.refit_epochs))
    return dataclasses.replace(recipe, epochs=epochs - refit, refit_epochs=refit)


def lenet(seed: int) -> nn.Module:
    """A fresh LeNet-300-100."""
    torch.manual_seed(seed)
    return bp.lenet_300_100()
