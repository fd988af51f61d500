"""The exact diagonal of the Hessian of a network's loss in its weights, as optimal brain damage asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.models.checks.first_line import first_line
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.networks.evaluation_mode import evaluation_mode

__all__ = ["hessian_diagonal"]

Ran = tuple[nn.Linear, Tensor, Tensor]
NO_DERIVATIVE = ("derivative", "not implemented")
"""What torch says where an operation has no second derivative."""
AGREES = 1e-3
"""How far two ways to the same gradient may differ, as a share of the sizes of what it is a sum of."""


MOST = 500_000
"""Backward passes, each of which takes milliseconds: a quarter of an hour of a small network."""


@torch.enable_grad()
def hessian_diagonal(
    network: nn.Module,
    likelihood: Likelihood,
    batches: Iterable[tuple[Tensor, Tensor]],
    active: Mapping[str, Tensor],
    count: int = 1,
) -> dict[str, Tensor]:
    """d^2 / dw^2 of the mean negative log-likelihood, of every weight that is there, with all others held.

    The network runs in evaluation mode, where no example depends on another. Of a `torch.nn.Linear` that runs once a
    pass on `(batch, in)`, and whose weight is read by nothing else, the curvature of weight (i, j) is a_j^2 times that
    of the layer's output i, for inputs a that do not depend on the weight: exact, by one backward pass an output. Of
    all other weights (convolutions, recurrent ones, shared ones) it takes one backward pass a weight.

    Args:
        network: The network.
        likelihood: What its outputs mean.
        batches: Examples, on the network's device.
        active: True where a weight is there, by name of tensor, `(out, in, ...)`; of others nothing is calculated.
        count: How many batches there are, so that what would take days is refused at once; default 1.

    Returns:
        Curvatures by name, in nats an example / weight^2; zero where `active` is false. Not all are positive.

    Raises:
        ValueError: If there are no examples, an operation of the network has no second derivative in torch, or it
            would take more than 500,000 backward passes.
    """
    sums = {name: torch.zeros_like(network.get_parameter(name)) for name in active}
    seen = 0
    asked = {parameter: parameter.requires_grad for parameter in network.parameters()}
    with evaluation_mode(network):
        for parameter in asked:
            parameter.requires_grad_(False)
        for name in active:
            network.get_parameter(name).requires_grad_(True)
        try:
            for x, y in batches:
                _add(sums, network, likelihood, x, y, active, count)
                seen += len(x)
        except (RuntimeError, NotImplementedError) as problem:
            if not any(word in str(problem) for word in NO_DERIVATIVE):
                raise
            raise ValueError(
                f"an operation of the network has no second derivative in torch ({first_line(problem)}): rank by "
                "another criterion, such as 'magnitude'"
            ) from problem
        finally:
            for parameter, is_asked in asked.items():
                parameter.requires_grad_(is_asked)
    if seen == 0:
        raise ValueError("optimal brain damage needs at least one example: data= gave none")
    return {name: total / seen for name, total in sums.items()}


def _add(
    sums: dict[str, Tensor],
    network: nn.Module,
    likelihood: Likelihood,
    x: Tensor,
    y: Tensor,
    active: Mapping[str, Tensor],
    count: int,
) -> None:
    weights = {name: network.get_parameter(name) for name in active}
    ran, outputs = _watched(network, weights, x)
    loss = -likelihood.log_prob(outputs, y).sum()
    slopes = dict(zip(weights, _slopes(loss, list(weights.values())), strict=True))
    _check_nodes(slope.grad_fn for slope in slopes.values() if slope is not None)
    singly = {}
    for name, slope in slopes.items():
        if slope is None:
            continue
        there, single = active[name].to(slope.device), ran.get(name)
        found = None if single is None else _of_linear(loss, single[1], single[2], slope.detach(), there)
        if found is None:
            singly[name] = slope, there
        else:
            sums[name] += found
    passes = count * sum(int(there.sum()) for _, there in singly.values())
    if passes > MOST:
        raise ValueError(
            f"optimal brain damage takes a backward pass for each weight that is of no linear layer, {passes:,} for "
            "these examples: give fewer by data=, or rank by another criterion, such as 'magnitude'"
        )
    for name, (slope, there) in singly.items():
        sums[name] += _one_by_one(slope, weights[name], there)


def _watched(network: nn.Module, weights: Mapping[str, Tensor], x: Tensor) -> tuple[dict[str, Ran], Tensor]:
    """Outputs, and the inputs and outputs of linear layers that ran once on `(batch, in)`, by name of their weight."""
    calls: dict[str, list[Ran]] = {}
    hooks = []
    for path, module in network.named_modules():
        name = f"{path}.weight" if path else "weight"
        if isinstance(module, nn.Linear) and name in weights:

            def heard(layer: nn.Linear, given: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                calls.setdefault(name, []).append((layer, given[0], output))

            hooks.append(module.register_forward_hook(heard))
    try:
        outputs = network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: ran[0] for name, ran in calls.items() if len(ran) == 1 and ran[0][1].ndim == 2}, outputs


def _slopes(loss: Tensor, weights: list[nn.Parameter] | list[Tensor]) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)


def _check_nodes(begins: Iterable[Any]) -> None:
    """Refuses operations that are differentiable once: gradients of their gradients would silently be left out."""
    nodes, seen = [node for node in begins if node is not None], set()
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        if type(node).__name__ == "Error":
            raise RuntimeError("a function that is marked as once_differentiable has no second derivative")
        nodes += [following for following, _ in node.next_functions if following is not None]


def _of_linear(loss: Tensor, given: Tensor, output: Tensor, slope: Tensor, there: Tensor) -> Tensor | None:
    """Sums over examples of a_j^2 d^2 loss / dz_i^2; None where the layer is not all that reads its weight."""
    (at_output,) = _slopes(loss, [output])
    if at_output is None:
        return None
    given = given.detach()
    at = at_output.detach()
    apart, terms = (at.T @ given - slope)[there], at.abs().T @ given.abs()
    if bool(there.any()) and float(apart.abs().max()) > AGREES * float(terms.max()):
        return None  # against the sum of sizes: the slopes themselves cancel where the network has been trained
    if not at_output.requires_grad:
        return torch.zeros_like(slope)
    rows = []
    for unit in range(output.shape[1]):
        bent = torch.autograd.grad(at_output[:, unit].sum(), output, retain_graph=True, allow_unused=True)[0]
        rows.append(torch.zeros_like(given[0]) if bent is None else bent[:, unit] @ given.square())
    return torch.stack(rows) * there


def _one_by_one(slope: Tensor, weight: Tensor, there: Tensor) -> Tensor:
    """Second derivatives of the weights that are there, a backward pass each."""
    found = torch.zeros_like(weight).flatten()
    if not slope.requires_grad:
        return found.view_as(weight)
    flat = slope.flatten()
    for place in there.flatten().nonzero().flatten().tolist():
        bent = torch.autograd.grad(flat[place], weight, retain_graph=True, allow_unused=True)[0]
        if bent is not None:
            found[place] = bent.flatten()[place]
    return found.view_as(weight).detach()
