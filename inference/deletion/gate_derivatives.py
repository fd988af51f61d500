"""First and second derivatives of the mean loss in gates that multiply groups of weights, each gate at 1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bayesprune.inference.deletion.example_slopes import NUMBERS, ExampleSlopes
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.networks.evaluation_mode import evaluation_mode

__all__ = ["GateDerivatives", "group_derivatives", "set_derivatives"]

DENSE = 0.05
"""Share of a tensor from which on a set of its weights is multiplied as a dense matrix."""


@dataclass(frozen=True)
class GateDerivatives:
    """Derivatives of the mean loss, nats an example, one a gate; gates are at 1, all else is held.

    Attributes:
        slope: d loss / dg.
        curvature: d^2 loss / dg^2, as `curvature_roots` has it.
        examples: Over how many examples.
    """

    slope: Tensor
    curvature: Tensor
    examples: int

    @property
    def change(self) -> Tensor:
        """loss(g = 0) - loss(g = 1) in second order: what deleting is predicted to cost, nats an example."""
        return 0.5 * self.curvature - self.slope


@torch.no_grad()
def group_derivatives(
    network: nn.Module,
    likelihood: Likelihood,
    batches: Iterable[tuple[Tensor, Tensor]],
    groups: Mapping[str, Tensor],
    curvature: str = "gauss-newton",
    seed: int = 0,
) -> dict[str, GateDerivatives]:
    """Derivatives in a gate on each group of weights, by name of tensor.

    Args:
        network: The network, at whose weights they are taken.
        likelihood: What its outputs mean.
        batches: Examples, on the network's device.
        groups: Number of the group of each weight, counted from 0, by tensor, `(out, in, ...)`.
        curvature: See `curvature_roots`.
        seed: Of the labels that ``"sampled"`` draws.

    Raises:
        ValueError: If there are no examples.
    """
    numbers = {name: one.to(network.get_parameter(name).device) for name, one in groups.items()}
    counts = {name: int(one.max()) + 1 for name, one in numbers.items()}
    kinds = {name: _kind(one) for name, one in numbers.items()}
    weights = {name: network.get_parameter(name).detach() for name in groups}
    slope, bent = (
        {name: torch.zeros(count, dtype=torch.float64, device=numbers[name].device) for name, count in counts.items()}
        for _ in range(2)
    )
    seen, generator = 0, torch.Generator().manual_seed(seed)
    with evaluation_mode(network):
        for x, y in batches:
            seen += len(x)
            found = ExampleSlopes.of(network, likelihood, x, y, list(groups), curvature, generator)
            for name, first in found.first.items():
                slope[name] += _summed(weights[name] * first, numbers[name], counts[name])
            through = {name: given @ weights[name].T for name, given in found.given.items() if kinds[name] == "output"}
            for at, sign in zip(found.at_outputs(), found.signs, strict=True):
                for name, delta in at.items():
                    weight, given = weights[name], found.given[name]
                    if kinds[name] == "weight":
                        squares = weight.square() * ((sign[:, None] * delta.square()).T @ given.square())
                        bent[name] += squares.flatten().double()
                    elif kinds[name] == "output":
                        bent[name] += (sign[:, None] * (delta * through[name]).square()).sum(dim=0).double()
                    elif kinds[name] == "input":
                        bent[name] += (sign[:, None] * (given * (delta @ weight)).square()).sum(dim=0).double()
                    else:
                        bent[name] += _of_products(weight, given, delta, sign, numbers[name], counts[name])
            for number, part, gradients in found.one_by_one():
                sign = found.signs[number][part]
                for name, gradient in gradients.items():
                    each = _each_summed(gradient * weights[name], numbers[name], counts[name])
                    bent[name] += (sign[:, None] * each.square()).sum(dim=0).double()
    _refuse_none(seen)
    return {name: GateDerivatives(slope[name] / seen, bent[name] / seen, seen) for name in groups}


@torch.no_grad()
def set_derivatives(
    network: nn.Module,
    likelihood: Likelihood,
    batches: Iterable[tuple[Tensor, Tensor]],
    sets: Sequence[Mapping[str, Tensor]],
    curvature: str = "gauss-newton",
    seed: int = 0,
) -> GateDerivatives:
    """Derivatives in a gate on each of some sets of weights, which may share weights and lie in several tensors.

    Args:
        network: As in `group_derivatives`.
        likelihood: The same.
        batches: The same.
        sets: True where a weight is of the set, `(out, in, ...)`, by name of tensor.
        curvature: See `curvature_roots`.
        seed: Of the labels that ``"sampled"`` draws.

    Raises:
        ValueError: If there are no examples.
    """
    names = sorted({name for one in sets for name in one})
    weights = {name: network.get_parameter(name).detach() for name in names}
    masked: list[dict[str, Tensor]] = []
    for one in sets:
        values = {name: weights[name] * mask.to(weights[name].device) for name, mask in one.items()}
        masked.append({name: _sparse(value) for name, value in values.items()})
    like = next(network.parameters())
    slope, bent = (torch.zeros(len(sets), dtype=torch.float64, device=like.device) for _ in range(2))
    seen, generator = 0, torch.Generator().manual_seed(seed)
    with evaluation_mode(network):
        for x, y in batches:
            seen += len(x)
            found = ExampleSlopes.of(network, likelihood, x, y, names, curvature, generator)
            for place, one in enumerate(masked):
                slope[place] += sum(float(_dot(value, found.first[name])) for name, value in one.items())
            through = [
                {name: (value @ found.given[name].T).T for name, value in one.items() if name in found.given}
                for one in masked
            ]
            each = torch.zeros(len(found.signs), len(x), len(sets), dtype=like.dtype, device=like.device)
            for number, at in enumerate(found.at_outputs()):
                for place, one in enumerate(through):
                    for name, value in one.items():
                        each[number, :, place] += (at[name] * value).sum(dim=1)
            for number, part, gradients in found.one_by_one():
                for place, one in enumerate(masked):
                    for name, value in one.items():
                        if name in gradients:
                            each[number, part, place] += gradients[name].flatten(1) @ value.to_dense().flatten()
            for number, sign in enumerate(found.signs):
                bent += (sign[:, None] * each[number].square()).sum(dim=0).double()
    _refuse_none(seen)
    return GateDerivatives(slope / seen, bent / seen, seen)


def _refuse_none(seen: int) -> None:
    if seen == 0:
        raise ValueError("deletion scores need at least one example: data= gave none")


def _kind(numbers: Tensor) -> str:
    """Which level the groups are, where one is quicker than another: weight, output, input, or any."""
    out = numbers.shape[0]
    if torch.equal(numbers.flatten(), torch.arange(numbers.numel(), device=numbers.device)):
        return "weight"
    if numbers.ndim != 2:
        return "any"
    if torch.equal(numbers, torch.arange(out, device=numbers.device)[:, None].expand_as(numbers)):
        return "output"
    if torch.equal(numbers, torch.arange(numbers.shape[1], device=numbers.device)[None].expand_as(numbers)):
        return "input"
    return "any"


def _summed(values: Tensor, numbers: Tensor, count: int) -> Tensor:
    """Sums over the weights of each group, `(count,)`, in float64."""
    sums = torch.zeros(count, dtype=torch.float64, device=values.device)
    return sums.index_add_(0, numbers.flatten(), values.flatten().double())


def _each_summed(values: Tensor, numbers: Tensor, count: int) -> Tensor:
    """The same for every example of `(n, out, in, ...)`, `(n, count)`."""
    sums = torch.zeros(len(values), count, dtype=values.dtype, device=values.device)
    return sums.index_add_(1, numbers.flatten(), values.flatten(1))


def _of_products(weight: Tensor, given: Tensor, delta: Tensor, sign: Tensor, numbers: Tensor, count: int) -> Tensor:
    """Sums over examples of squares of a linear layer's derivatives, of groups that are no rows or columns."""
    total = torch.zeros(count, dtype=torch.float64, device=weight.device)
    step = max(1, NUMBERS // weight.numel())
    for begin in range(0, len(given), step):
        part = slice(begin, begin + step)
        products = delta[part, :, None] * given[part, None, :] * weight
        each = _each_summed(products, numbers, count)
        total += (sign[part, None] * each.square()).sum(dim=0).double()
    return total


def _sparse(value: Tensor) -> Tensor:
    """A matrix of few numbers as a sparse one; all else as it is."""
    if value.ndim != 2 or int((value != 0).sum()) > DENSE * value.numel():
        return value
    return value.to_sparse_coo()


def _dot(value: Tensor, slope: Tensor) -> Tensor:
    """Sum of products with a dense tensor of the same shape."""
    if not value.is_sparse:
        return (value * slope).sum()
    rows, columns = value.coalesce().indices()
    return (value.coalesce().values() * slope[rows, columns]).sum()
