"""Batch normalisation over the examples of all processes.

`torch.nn.SyncBatchNorm` computes on GPUs only, and changes the network that a fit leaves. Here the function that layers
call is intercepted while a step is taken, and the layers stay what they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["SharedStatistics"]


class SharedStatistics(TorchFunctionMode):
    """Inside of it, layers of batch normalisation in training mode normalise by the examples of all processes.

    Args:
        sum_over_all: Makes a tensor the sum over all processes, in place.
    """

    def __init__(self, sum_over_all: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._sum = sum_over_all

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        """Calls what was called, but for `torch.nn.functional.batch_norm` in training mode."""
        if function is functional.batch_norm:
            return self._normalised(*arguments, **(named or {}))
        return function(*arguments, **(named or {}))

    def _normalised(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        """As `torch.nn.functional.batch_norm`, by mean and variance over all processes."""
        if not training:
            return functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        others = [axis for axis in range(input.ndim) if axis != 1]
        count = input.new_tensor([input.numel() // input.shape[1]])
        self._sum(count)
        shape = [1, -1, *[1] * (input.ndim - 2)]
        mean = self._over_all(input.sum(others)) / count
        centred = input - mean.view(shape)
        variance = self._over_all(centred.square().sum(others)) / count  # in two passes: no large numbers cancel
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                unbiased = variance * (count / (count - 1.0).clamp(min=1.0))
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        found = centred * torch.rsqrt(variance + eps).view(shape)
        if weight is not None:
            found = found * weight.view(shape)
        return found if bias is None else found + bias.view(shape)

    def _over_all(self, sums: Tensor) -> Tensor:
        found: Tensor = _SumOverAll.apply(sums, self._sum)
        return found


class _SumOverAll(torch.autograd.Function):
    """The sum over all processes; the loss of each depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(context: Any, value: Tensor, sum_over_all: Callable[[Tensor], None]) -> Tensor:
        context.sum_over_all = sum_over_all
        whole = value.clone()
        sum_over_all(whole)
        return whole

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0].contiguous().clone()
        context.sum_over_all(whole)
        return whole, None
