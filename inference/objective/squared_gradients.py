"""Squared gradients of single examples, summed."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from bayesprune.inference.objective.example_gradients import ExampleGradients

__all__ = ["SquaredGradients"]


class SquaredGradients:
    """Sums over examples of squared gradients at one point, of the gradients that `ExampleGradients` takes.

    Args:
        gradient: From tensors by name, one input `(...)` and its target, the gradients by name.
        point: The tensors.
    """

    def __init__(self, gradient: Callable[..., dict[str, Tensor]], point: dict[str, Tensor]) -> None:
        self._gradients = ExampleGradients(gradient, point)

    def __call__(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The sums for examples `(n, ...)` with their targets."""
        return {name: value.square().sum(dim=0) for name, value in self._gradients(x, y).items()}
