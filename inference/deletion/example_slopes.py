"""What each example says of the weights of a network: the pieces that derivatives of gates are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

from bayesprune.inference.deletion.curvature import Root, curvature_roots
from bayesprune.inference.objective.example_gradients import ExampleGradients
from bayesprune.models.likelihoods.likelihood import Likelihood

__all__ = ["ExampleSlopes"]

AGREES = 1e-3
"""How far two ways to the same gradient may differ, as a share of the sizes of what it is a sum of."""
NUMBERS = 2**25
"""Numbers of gradients of single examples that are held at once."""


@dataclass(frozen=True)
class ExampleSlopes:
    """Derivatives of one batch, in the network's weights.

    Of an `nn.Linear` that runs once a pass on `(batch, in)`, and whose weight is read by nothing else, the gradient of
    an example is the outer product of its output's gradient and its input, so that both are kept in its place. Of all
    else (convolutions, recurrent and shared weights) gradients of single examples are taken.

    Attributes:
        first: Sums over the batch of the derivative of the loss in each weight, `(out, in, ...)`, by name of tensor.
        given: Inputs of linear layers, `(n, in)`, by name of their weight.
        singly: Names of the other tensors.
    """

    first: dict[str, Tensor]
    given: dict[str, Tensor]
    singly: tuple[str, ...]
    _network: nn.Module
    _x: Tensor
    _outputs: Tensor
    _ran: dict[str, Tensor]
    _roots: list[Root]

    @classmethod
    def of(
        cls,
        network: nn.Module,
        likelihood: Likelihood,
        x: Tensor,
        y: Tensor,
        names: Sequence[str],
        curvature: str,
        generator: torch.Generator,
    ) -> ExampleSlopes:
        """Runs the network, in evaluation mode, on a batch.

        Args:
            network: The network.
            likelihood: What its outputs mean.
            x: Inputs, `(n, ...)`.
            y: Targets.
            names: The tensors in question.
            curvature: See `curvature_roots`.
            generator: The same.
        """
        weights = {name: network.get_parameter(name).detach().requires_grad_() for name in names}
        with torch.enable_grad():
            ran, outputs = _watched(network, weights, x)
            loss = -likelihood.log_prob(outputs, y).sum()
            asked = [*weights.values(), *(output for _, output in ran.values())]
            found = torch.autograd.grad(loss, asked, retain_graph=True, allow_unused=True)
        slopes = {
            name: torch.zeros_like(weight) if slope is None else slope.detach()
            for (name, weight), slope in zip(weights.items(), found, strict=False)
        }
        linear = {
            name: (given, output)
            for (name, (given, output)), slope in zip(ran.items(), found[len(weights) :], strict=True)
            if slope is not None and _is_all(slope, given, slopes[name])
        }
        roots = list(curvature_roots(likelihood, outputs, y, curvature, generator))
        return cls(
            slopes,
            {name: given for name, (given, _) in linear.items()},
            tuple(name for name in names if name not in linear),
            network,
            x,
            outputs,
            {name: output for name, (_, output) in linear.items()},
            roots,
        )

    @property
    def signs(self) -> list[Tensor]:
        """Signs of the roots of the curvature, each `(n,)`."""
        return [root.sign for root in self._roots]

    def at_outputs(self) -> Iterator[dict[str, Tensor]]:
        """For each root its gradients at the outputs of linear layers, `(n, out)` by name of their weight."""
        names = list(self._ran)
        for root in self._roots:
            if not names:
                yield {}
                continue
            found = torch.autograd.grad(
                self._outputs, [self._ran[name] for name in names], root.vector, retain_graph=True, allow_unused=True
            )
            yield {
                name: torch.zeros_like(self._ran[name]) if slope is None else slope.detach()
                for name, slope in zip(names, found, strict=True)
            }

    def one_by_one(self) -> Iterator[tuple[int, slice, dict[str, Tensor]]]:
        """Gradients of single examples of the other tensors: number of the root, which examples, and the gradients.

        The gradients are `(examples, out, in, ...)`, by name of tensor.
        """
        if not self.singly:
            return
        network = self._network
        point = {name: network.get_parameter(name).detach() for name in self.singly}
        fixed = {name: one.detach() for name, one in network.named_parameters() if name not in point}
        fixed |= dict(network.named_buffers())

        def product(weights: dict[str, Tensor], one: Tensor, vector: Tensor) -> Tensor:
            outputs = functional_call(network, {**fixed, **weights}, (one.unsqueeze(0),))
            return (outputs.reshape(-1) * vector.reshape(-1)).sum()

        gradients = ExampleGradients(grad(product), point)
        step = max(1, NUMBERS // sum(weight.numel() for weight in point.values()))
        for number, root in enumerate(self._roots):
            for begin in range(0, len(self._x), step):
                part = slice(begin, begin + step)
                yield number, part, gradients(self._x[part], root.vector[part])


def _watched(
    network: nn.Module, weights: dict[str, Tensor], x: Tensor
) -> tuple[dict[str, tuple[Tensor, Tensor]], Tensor]:
    """Inputs and outputs of linear layers that ran once on `(batch, in)`, by name of weight; and the outputs."""
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {}
    hooks = []
    for path, module in network.named_modules():
        name = f"{path}.weight" if path else "weight"
        if type(module) is nn.Linear and name in weights:

            def heard(layer: nn.Module, given: tuple[Tensor, ...], output: Tensor, name: str = name) -> None:
                calls.setdefault(name, []).append((given[0].detach(), output))

            hooks.append(module.register_forward_hook(heard))
    try:
        outputs: Tensor = functional_call(network, weights, (x,))
    finally:
        for hook in hooks:
            hook.remove()
    return {name: ran[0] for name, ran in calls.items() if len(ran) == 1 and ran[0][0].ndim == 2}, outputs


def _is_all(slope: Tensor, given: Tensor, whole: Tensor) -> bool:
    """Whether the layer is all that reads its weight: its own gradient is the whole one."""
    terms = float((slope.abs().T @ given.abs()).max())
    return float((slope.T @ given - whole).abs().max()) <= AGREES * terms
