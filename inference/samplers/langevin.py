"""Stochastic gradient Langevin dynamics and stochastic gradient HMC, as torch optimizers.

They see the loss divided by the number of data N, as every optimizer of a fit does: the gradient g is that of U / N,
U = -log p(data | w) - log p(w). Libraries that hold these methods take a log posterior of their own and differentiate
it themselves, or are not kept any more; what is needed here is the noise beside a step of a fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["SAMPLERS", "SGHMC", "SGLD", "is_sampler"]


class _Langevin(torch.optim.Optimizer):
    """What both have: a temperature and a number of data, which stand in the parameter groups and may be changed."""

    def __init__(
        self, params: Iterable[Any], lr: float, data_size: int, temperature: float, defaults: dict[str, float]
    ) -> None:
        name = type(self).__name__
        if not lr > 0.0 or not math.isfinite(lr):
            raise ValueError(f"{name}(lr=...) is a step size, a positive number, not {lr}")
        if data_size < 1:
            raise ValueError(f"{name}(data_size=...) is the number of data, at least 1, not {data_size}")
        if not temperature >= 0.0 or not math.isfinite(temperature):
            raise ValueError(f"{name}(temperature=...) is 1 for the posterior, 0 for no noise, not {temperature}")
        super().__init__(params, {"lr": lr, "data_size": data_size, "temperature": temperature, **defaults})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Takes one step; random numbers are those of torch's global generator of each parameter's device.

        Args:
            closure: Calculates the loss anew; default None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        raise NotImplementedError

    @staticmethod
    def _add_noise(to: Tensor, variance: float) -> None:
        """Adds independent Normal noise, in place; none of no variance, and then no random numbers are taken."""
        if variance > 0.0:
            to.add_(torch.randn_like(to), alpha=math.sqrt(variance))


class SGLD(_Langevin):
    """w <- w - lr g + sqrt(2 lr T / N) eps (Welling & Teh 2011).

    Its stationary density is exp(-U / T), up to the step size and the noise of minibatches. On a Gaussian of precision
    N h and with full batches its variance is T / (N h) times 1 / (1 - lr h / 2): that is what the step size costs.

    Args:
        params: Parameters, or groups of them.
        lr: Step size of the loss divided by `data_size`.
        data_size: Number of data N.
        temperature: T: 1 (default) is the posterior; 0 is gradient descent.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, params: Iterable[Any], lr: float, data_size: int, temperature: float = 1.0) -> None:
        super().__init__(params, lr, data_size, temperature, {})

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        rate = group["lr"]
        parameter.add_(gradient, alpha=-rate)
        self._add_noise(parameter, 2.0 * rate * group["temperature"] / group["data_size"])


class SGHMC(_Langevin):
    """v <- (1 - a) v - lr g + sqrt(2 lr a T / N) eps, then w <- w + v (Chen, Fox & Guestrin 2014, equation 15).

    The estimate of the gradient's noise that they subtract is zero here. With a = 1 it is SGLD. On a Gaussian of
    precision N h and with full batches its variance is T / (N h) times 1 / (1 - lr h / (2 (2 - a))).

    Args:
        params: Parameters, or groups of them.
        lr: Step size of the loss divided by `data_size`.
        data_size: Number of data N.
        temperature: T: 1 (default) is the posterior; 0 is gradient descent with momentum 1 - a.
        friction: a, in (0, 1]; default 0.1.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, data_size: int, temperature: float = 1.0, friction: float = 0.1
    ) -> None:
        if not 0.0 < friction <= 1.0:
            raise ValueError(f"SGHMC(friction=...) is in (0, 1], not {friction}: 1 is SGLD")
        super().__init__(params, lr, data_size, temperature, {"friction": friction})

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, rate, friction = self.state[parameter], group["lr"], group["friction"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        momentum = state["momentum_buffer"]
        momentum.mul_(1.0 - friction).add_(gradient, alpha=-rate)
        self._add_noise(momentum, 2.0 * rate * friction * group["temperature"] / group["data_size"])
        parameter.add_(momentum)


SAMPLERS: dict[str, Callable[[Iterable[Any], float, int], torch.optim.Optimizer]] = {"sgld": SGLD, "sghmc": SGHMC}
"""Samplers by the name that `fit(optimizer=...)` takes: made of groups, a step size and a number of data."""


def is_sampler(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the noise of an optimizer has a temperature that can be set in each of its groups."""
    return all("temperature" in group and "data_size" in group for group in optimizer.param_groups)
