"""Derivatives of gates by a loop over examples and gates, and deletions toggled exactly, in double precision.

A gate g multiplies the weights of a group in front of a plain forward pass. Its slope is the mean over examples of
d loss_i / dg at 1; the Fisher information the mean of sum_c p_c (d log p_c / dg)^2 over the model's own labels, by a
derivative for every label of every example; the empirical one the mean of (d loss_i / dg)^2.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["curvature_of_labels", "empirical", "outputs_under", "slope", "toggled", "true_curvature"]


def outputs_under(network: nn.Module, sets: Mapping[str, Tensor], gate: Tensor, x: Tensor) -> Tensor:
    """Outputs where a gate multiplies the weights of a set."""
    weights = {
        name: torch.where(mask, gate, torch.ones_like(gate)) * network.get_parameter(name).detach()
        for name, mask in sets.items()
    }
    return functional_call(network, weights, (x,))


def _derivative(value: Tensor, gate: Tensor) -> Tensor:
    found = torch.autograd.grad(value, gate, retain_graph=True, allow_unused=True)[0]
    return torch.zeros(()).double() if found is None else found


def _open() -> Tensor:
    return torch.ones((), dtype=torch.float64, requires_grad=True)


def slope(network: nn.Module, log_prob: object, sets: Mapping[str, Tensor], x: Tensor, y: Tensor) -> float:
    """Mean of d loss_i / dg."""
    total = 0.0
    for one, target in zip(x, y, strict=True):
        gate = _open()
        loss = -log_prob(outputs_under(network, sets, gate, one[None]), target[None]).sum()
        total += float(_derivative(loss, gate))
    return total / len(x)


def empirical(network: nn.Module, log_prob: object, sets: Mapping[str, Tensor], x: Tensor, y: Tensor) -> float:
    """Mean of (d loss_i / dg)^2."""
    total = 0.0
    for one, target in zip(x, y, strict=True):
        gate = _open()
        loss = -log_prob(outputs_under(network, sets, gate, one[None]), target[None]).sum()
        total += float(_derivative(loss, gate)) ** 2
    return total / len(x)


def curvature_of_labels(network: nn.Module, sets: Mapping[str, Tensor], x: Tensor) -> float:
    """Mean over examples of sum_c p_c (d log p_c / dg)^2, outputs being logits `(n, classes)`."""
    total = 0.0
    for one in x:
        gate = _open()
        logs = outputs_under(network, sets, gate, one[None])[0].log_softmax(dim=-1)
        total += sum(float(log.detach().exp()) * float(_derivative(log, gate)) ** 2 for log in logs)
    return total / len(x)


def true_curvature(network: nn.Module, log_prob: object, sets: Mapping[str, Tensor], x: Tensor, y: Tensor) -> float:
    """d^2 loss / dg^2 of the mean loss itself, by differentiating twice."""
    gate = _open()
    loss = -log_prob(outputs_under(network, sets, gate, x), y).mean()
    first = torch.autograd.grad(loss, gate, create_graph=True)[0]
    return float(torch.autograd.grad(first, gate)[0])


@torch.no_grad()
def toggled(network: nn.Module, log_prob: object, sets: Mapping[str, Tensor], x: Tensor, y: Tensor) -> float:
    """Mean loss with the gate at 0 less that with it at 1."""
    losses = [-log_prob(outputs_under(network, sets, torch.tensor(g).double(), x), y).mean() for g in (0.0, 1.0)]
    return float(losses[0] - losses[1])
