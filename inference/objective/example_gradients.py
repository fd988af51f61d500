"""Gradients of single examples: side by side where `torch.func.vmap` can, else one by one."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

__all__ = ["ExampleGradients"]


class ExampleGradients:
    """Gradients of single examples at one point; example by example where vmap cannot cross a module.

    Recurrent layers are such: their forward pass writes into tensors of its own, which have no dimension of examples.

    Args:
        gradient: From tensors by name, one input `(...)` and its target, the gradients by name.
        point: The tensors.
    """

    def __init__(self, gradient: Callable[..., dict[str, Tensor]], point: dict[str, Tensor]) -> None:
        self._gradient, self._point = gradient, point
        self._side_by_side = vmap(gradient, in_dims=(None, 0, 0))
        self._crosses: bool | None = None

    def __call__(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The gradients for examples `(n, ...)` with their targets, `(n, *shape)` by name."""
        if self._crosses is not False:
            try:
                with warnings.catch_warnings():  # an LSTM has no rule of its own, and goes example by example inside
                    warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
                    found = self._side_by_side(self._point, x, y)
                self._crosses = True
                return {name: value.detach() for name, value in found.items()}
            except RuntimeError:
                if self._crosses:
                    raise
                self._crosses = False
        each = [self._gradient(self._point, one, target) for one, target in zip(x, y, strict=True)]
        return {name: torch.stack([one[name].detach() for one in each]) for name in self._point}
