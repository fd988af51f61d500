"""The torch optimizer of a fit or of a fine-tuning: by name, or made of parameter groups by the caller."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.samplers.langevin import SAMPLERS

__all__ = ["OptimizerChoice", "make_optimizer", "optimizer_for"]

OptimizerChoice = str | Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
SPREAD_RATE = 10.0
"""Log scales and log odds move over several units, weights over hundredths: their rate by Adam."""
_FASTER = {"spread": SPREAD_RATE, "likelihood": SPREAD_RATE}
_NONE: Mapping[str, float] = {}


def make_optimizer(choice: OptimizerChoice, objective: Objective, learning_rate: float) -> torch.optim.Optimizer:
    """Returns the torch optimizer of a fit; see `fit` for the choices.

    Args:
        choice: As in `fit`.
        objective: What is fitted; its guide's, its network's and its likelihood's parameters are groups by name.
        learning_rate: Of a named optimizer.

    Raises:
        ValueError: As `optimizer_for`.
    """
    groups: list[dict[str, Any]] = [
        {"name": name, "params": parameters} for name, parameters in objective.guide.groups().items() if parameters
    ]
    for name, module in (("point estimates", objective.model.network), ("likelihood", objective.model.likelihood)):
        points = [p for p in module.parameters() if p.requires_grad]
        groups += [{"name": name, "params": points}] if points else []
    return optimizer_for(groups, choice, learning_rate, _FASTER, objective.model.data_size)


def optimizer_for(
    groups: list[dict[str, Any]],
    choice: OptimizerChoice,
    learning_rate: float,
    faster: Mapping[str, float] = _NONE,
    data_size: int | None = None,
) -> torch.optim.Optimizer:
    """Returns the torch optimizer of parameter groups.

    Args:
        groups: The groups, with their ``"name"`` and ``"params"``.
        choice: ``"adam"``, ``"sgd"`` (momentum 0.9), ``"sgld"`` or ``"sghmc"`` (at temperature 1) where there is a
            posterior to sample, or a callable that makes one of the groups.
        learning_rate: Of a named optimizer.
        faster: Factors on Adam's rate by name of a group; default none.
        data_size: Number of data by which the loss is divided, where it is that of a posterior; default None: it is
            none, and there is nothing to sample.

    Raises:
        ValueError: If the name is unknown, or its learning rate is not positive.
    """
    if callable(choice):
        return choice(groups)
    if learning_rate <= 0:
        raise ValueError(f"learning_rate must be positive, not {learning_rate}")
    if choice == "adam":
        for group in groups:
            group["lr"] = learning_rate * faster.get(group["name"], 1.0)
        return torch.optim.Adam(groups, lr=learning_rate, fused=True)
    if choice == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, fused=True)
    if choice in SAMPLERS and data_size is not None:
        return SAMPLERS[choice](groups, learning_rate, data_size)
    names = ("'adam'", "'sgd'", *(map(repr, SAMPLERS) if data_size is not None else ()))
    raise ValueError(f"optimizer {choice!r} is unknown: expected {', '.join(names)} or a callable of parameter groups")
