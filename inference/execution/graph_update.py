"""Optimizer steps that a compiler can fuse with the gradients: Adam and SGD as torch.optim computes them.

The state stays in the torch optimizer, in its own tensors, so that the same optimizer can take the next step itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NUMBERS_PER_GROUP = 2


@dataclass(frozen=True)
class Rule:
    """How an optimizer changes a parameter, given its gradient and its state.

    Attributes:
        states: Names of the optimizer's state tensors of a parameter.
        is_adam: Whether it is Adam (else SGD with momentum).
    """

    states: tuple[str, ...]
    is_adam: bool

    def apply(
        self, parameter: Tensor, gradient: Tensor, states: Sequence[Tensor], numbers: Tensor, fixed: tuple[float, ...]
    ) -> None:
        """Changes a parameter and its states in place.

        Args:
            parameter: The parameter.
            gradient: Of its shape.
            states: As `states` names them.
            numbers: The two numbers of `numbers_of`.
            fixed: The constants of `fixed_of`.
        """
        if not self.is_adam:
            if states:
                states[0].mul_(fixed[0]).add_(gradient)
                gradient = states[0]
            parameter.sub_(numbers[0] * gradient)
            return
        first, second = states
        beta1, beta2, eps = fixed
        first.lerp_(gradient, 1.0 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
        parameter.sub_(numbers[0] * first / (second.sqrt() * numbers[1] + eps))


def rule_of(optimizer: torch.optim.Optimizer) -> Rule | None:
    """Returns the rule of an optimizer, or None where it is not one of those written here.

    Those are `torch.optim.Adam` without weight decay, AMSGrad and maximize, and `torch.optim.SGD` with or without
    momentum, without dampening, Nesterov, weight decay and maximize; all groups alike in whether there is momentum.
    """
    groups = optimizer.param_groups
    if type(optimizer) not in (torch.optim.Adam, torch.optim.SGD):
        return None  # its groups may lack what is asked for below
    if any(torch.is_tensor(group["lr"]) or group["weight_decay"] or group["maximize"] for group in groups):
        return None
    if any(group.get("differentiable") for group in groups):
        return None
    if type(optimizer) is torch.optim.Adam and not any(group["amsgrad"] for group in groups):
        return Rule(("exp_avg", "exp_avg_sq"), is_adam=True)
    if type(optimizer) is torch.optim.SGD and not any(group["dampening"] or group["nesterov"] for group in groups):
        momentum = {group["momentum"] > 0 for group in groups}
        if len(momentum) == 1:
            return Rule(("momentum_buffer",) if momentum.pop() else (), is_adam=False)
    return None


def fixed_of(rule: Rule, group: dict[str, Any]) -> tuple[float, ...]:
    """The constants of a parameter group that the rule needs: betas and eps, or the momentum."""
    return (*group["betas"], group["eps"]) if rule.is_adam else (group["momentum"],)


def numbers_of(rule: Rule, group: dict[str, Any], step: int) -> tuple[float, float]:
    """The numbers of a parameter group that change with the step, which is counted from 1.

    Adam: the rate over the first moment's bias, and one over the root of the second moment's bias. SGD: the rate.
    """
    if not rule.is_adam:
        return group["lr"], 0.0
    beta1, beta2 = group["betas"]
    return group["lr"] / (1.0 - beta1**step), float((1.0 - beta2**step) ** -0.5)


def prepare_state(rule: Rule, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]) -> int | None:
    """Makes the state tensors that the first step would make.

    Returns:
        Steps taken so far, or None if parameters have taken different numbers of steps.
    """
    counts = set()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not any(parameter is each for each in parameters):
                continue
            state = optimizer.state[parameter]
            if rule.is_adam:
                on = parameter.device if group["fused"] or group["capturable"] else torch.device("cpu")
                counts.add(int(state["step"]) if "step" in state else 0)
                state.setdefault("step", torch.zeros((), dtype=torch.float32, device=on))
            for name in rule.states:
                if state.get(name) is None:
                    state[name] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return (counts or {0}).pop() if len(counts) <= 1 else None


def write_step(rule: Rule, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter], step: int) -> None:
    """Tells the optimizer how many steps its parameters have taken."""
    if rule.is_adam:
        for parameter in parameters:
            optimizer.state[parameter]["step"].fill_(step)
