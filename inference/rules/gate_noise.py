"""How noisy the gradient of gates' probabilities is, against the price that presses them to zero."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["NOISY", "GateNoise"]

NOISY = 3.0
"""From this ratio of step * variance of theta's gradient to the price on, a fit says that it pruned prematurely."""


class GateNoise:
    """The mean variance of the gradient, by half of the squared difference of two steps in a row.

    Args:
        theta: The probabilities, `(gates,)`.
    """

    def __init__(self, theta: Tensor) -> None:
        self._gradient = theta.new_empty(0)
        self._variance, self._watched = theta.new_zeros((), dtype=torch.float64), 0

    def watch(self, gradient: Tensor, live: Tensor) -> None:
        """Adds a step.

        Args:
            gradient: Its gradient, `(gates,)`; a step after units have been removed begins anew.
            live: Which gates are trained, boolean, `(gates,)`.
        """
        if len(self._gradient) == len(gradient):
            squares = torch.where(live, 0.5 * (gradient - self._gradient).square(), 0.0)
            self._variance = self._variance + squares.sum() / live.sum().clamp_min(1)
            self._watched += 1
        self._gradient = gradient.clone()

    def ratio(self, rate: float, price: float) -> float:
        """Step * variance over the price; from `NOISY` on it warns that noise has decided, and not the price.

        A theta that drifts upwards by step * d a step, from `start`, ever hits zero with a probability of about
        exp(-2 start d / (step * variance)): below d = step * variance the noise decides.

        Args:
            rate: Step of theta.
            price: Mean price of a gate in nats per datum.
        """
        ratio = rate * float(self._variance) / max(self._watched, 1) / price
        if ratio > NOISY:
            warnings.warn(
                f"the noise of theta's gradient raises the price of a unit by about {ratio:.1f} times that price, so "
                "that units of use were pruned prematurely: take more epochs, a higher price, a larger travel= or an "
                "estimator of less noise",
                UserWarning,
                stacklevel=2,
            )
        return ratio

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"gradient": self._gradient, "variance": float(self._variance), "watched": self._watched}

    def load_state_dict(self, kept: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned."""
        device = self._variance.device
        self._gradient, self._watched = kept["gradient"].to(device), kept["watched"]
        self._variance = torch.tensor(kept["variance"], dtype=torch.float64, device=device)
