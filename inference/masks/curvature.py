"""The curvature of the log-likelihood in each weight: its diagonal Fisher information, of the examples of one step."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.squared_gradients import SquaredGradients
from bayesprune.models.networks.evaluation_mode import evaluation_mode

__all__ = ["fisher_of_batch"]

CHUNK = 32
"""Examples whose gradients are held at once where they are needed one by one."""


def fisher_of_batch(guide: Guide, x: Tensor, y: Tensor, names: Collection[str]) -> dict[str, Tensor]:
    """Diagonal empirical Fisher information of all the data, estimated from the examples of one batch.

    h_j = data_size x the mean over examples of (d log p(y | x) / d w_j)^2, at the guide's centre, behind masks, with
    the network in evaluation mode, where examples do not depend on each other. It is that of the labels that there are,
    no expectation over the model's own (Kunstner, Balles & Hennig 2019 on what that changes).

    Of a `torch.nn.Linear` that runs once a pass on `(batch, in)` the sum of squares is (d^2)^T (a^2), of its inputs a
    and the gradients d of its outputs: exact, in one backward pass. Gradients of all else are taken example by example.

    Args:
        guide: The guide; its model is known to it.
        x: Inputs, `(batch, ...)`.
        y: Their targets.
        names: Tensors that are asked for.

    Returns:
        h by name, `(out, in, ...)`, in 1 / weight^2 of all the data; of weights that are out too.
    """
    model = guide.model
    network = model.network
    with torch.no_grad():
        centre = model.weights_at(guide.means())
    with evaluation_mode(network), torch.enable_grad():
        sums = _of_linear_layers(guide, centre, x, y, names)
        rest = {name: centre[name] for name in names if name not in sums}
        if rest:
            sums |= _one_by_one(guide, centre, rest, x, y)
    return {name: total * (model.data_size / len(x)) for name, total in sums.items()}


def _of_linear_layers(
    guide: Guide, centre: Mapping[str, Tensor], x: Tensor, y: Tensor, names: Collection[str]
) -> dict[str, Tensor]:
    """Sums of squares of the layers whose inputs and outputs have them, by name of tensor."""
    network = guide.model.network
    modules = {f"{path}.weight" if path else "weight": one for path, one in network.named_modules()}
    layers = {name: modules[name] for name in names if type(modules.get(name)) is nn.Linear}
    if not layers or guide.model.has_tied_weights:
        return {}
    ran: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}

    def listen(name: str) -> object:
        def heard(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
            ran[name].append((given[0].detach(), output))

        return layers[name].register_forward_hook(heard)

    hooks = [listen(name) for name in layers]
    try:
        needed = {name: weight.detach().requires_grad_() for name, weight in centre.items()}
        outputs = functional_call(network, needed, (x,))
    finally:
        for hook in hooks:
            hook.remove()  # type: ignore[attr-defined]
    once = {name: calls[0] for name, calls in ran.items() if len(calls) == 1 and calls[0][0].ndim == 2}
    if not once:
        return {}
    log_prob = guide.model.likelihood.log_prob(outputs, y).sum()
    slopes = torch.autograd.grad(log_prob, [output for _, output in once.values()], allow_unused=True)
    return {
        name: slope.square().T @ given.square()
        for (name, (given, _)), slope in zip(once.items(), slopes, strict=True)
        if slope is not None
    }


def _one_by_one(
    guide: Guide, centre: Mapping[str, Tensor], rest: dict[str, Tensor], x: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """Sums of squares of the tensors `rest`, by gradients of single examples."""
    network, likelihood = guide.model.network, guide.model.likelihood
    fixed = {name: parameter.detach() for name, parameter in network.named_parameters()}
    fixed |= {name: weight for name, weight in centre.items() if name not in rest}
    buffers = dict(network.named_buffers())

    def log_prob(weights: dict[str, Tensor], one: Tensor, target: Tensor) -> Tensor:
        outputs = functional_call(network, {**fixed, **buffers, **weights}, (one.unsqueeze(0),))
        return likelihood.log_prob(outputs, target.unsqueeze(0)).sum()

    squares = SquaredGradients(grad(log_prob), rest)
    sums = {name: torch.zeros_like(weight) for name, weight in rest.items()}
    for part, targets in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
        for name, square in squares(part, targets).items():
            sums[name] += square
    return sums
