"""Callbacks: the extension point through which anything may watch or steer a fit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from bayesprune.inference.objective.objective import Objective, Terms

_CALLBACK = ("on_fit_start", "on_step", "on_epoch", "on_fit_end")


@dataclass
class FitState:
    """What a callback or a stopping rule sees, and may change, during one restart.

    Attributes:
        objective: The objective, with `.model` and `.guide`; a callback may change their parameters in place.
        optimizer: The torch optimizer; None in a loop of one's own that does not tell.
        restart: Number of the restart, from 0.
        restarts: How many there are.
        epochs: Epochs in all; 0 in a loop of one's own (`Record`), which does not tell.
        steps: Steps in all; 0 likewise.
        epoch: Epochs done.
        step: Steps done.
        kl_weight: Weight of the KL term in the last step.
        terms: Terms of the last step, in full-data nats.
        history: One dict an epoch: what the pruning trace will hold.
        iterates: One dict a recorded step: negative ELBO and scales.
        stop: Set it to True to end this restart after the current step.
        stop_reason: Why, in words; empty where nobody said.
        kl_warmup: Share of the steps over which the KL weight rises.
        gate_training: The `GateTraining` of gates of units, with its records so far; None without them.
    """

    objective: Objective
    optimizer: torch.optim.Optimizer
    restart: int
    restarts: int
    epochs: int
    steps: int
    epoch: int = 0
    step: int = 0
    kl_weight: float = 1.0
    terms: Terms | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    iterates: list[dict[str, float]] = field(default_factory=list)
    stop: bool = False
    stop_reason: str = ""
    kl_warmup: float = 0.0
    gate_training: Any = None


class Callback:
    """Base of callbacks; override what you need. Each gets the `FitState`.

    Attributes:
        is_resumable: Whether a fit may go on from a checkpoint with it, in a new process: it remembers nothing that the
            fit depends on and that is not in the `FitState` of `on_fit_start`. Default False.
    """

    is_resumable: bool = False

    def on_fit_start(self, state: FitState) -> None:
        """Called before the first step of a restart."""

    def on_step(self, state: FitState) -> None:
        """Called after each optimizer step."""

    def on_epoch(self, state: FitState) -> None:
        """Called after each epoch, when its row of the history is complete."""

    def on_fit_end(self, state: FitState) -> None:
        """Called after the last step of a restart."""


def checked_callbacks(callbacks: Any) -> list[Callback]:
    """Returns callbacks as a list.

    Raises:
        ValueError: If they are no sequence, or one of them has not the methods of a `Callback`.
    """
    if not isinstance(callbacks, Iterable):
        raise ValueError(f"callbacks= takes a sequence of Callbacks, not {_shown(callbacks)}: write [callback]")
    found = list(callbacks)
    for one in found:
        if isinstance(one, type) or not all(callable(getattr(one, name, None)) for name in _CALLBACK):
            raise ValueError(
                f"callbacks= takes Callbacks, not {_shown(one)}: derive its class from Callback, and call it"
            )
    return found


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, (str, int, float)) else f"an object of type {type(value).__name__}"
