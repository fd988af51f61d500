"""Tensors of many processes made one: in flat vectors, of which there is one for a dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["overwritten", "sums_of_gradients"]


def sums_of_gradients(
    tensors: Sequence[Tensor], weight: float, numbers: Tensor, sum_over_all: Callable[[Tensor], None]
) -> Tensor:
    """Makes gradients their sum over processes, IN PLACE, each process's times its weight.

    One vector of a dtype goes around: the gradients, and whether there is one, so that all processes agree on what has
    none. With it goes what a process wants to be summed besides.

    Args:
        tensors: The tensors, in the same order in all processes.
        weight: Factor on the gradients of this process.
        numbers: A vector.
        sum_over_all: Makes a vector the sum over all processes, in place.

    Returns:
        The sum of the numbers.
    """
    groups = _by_dtype(tensors)
    if numbers.dtype not in groups:
        numbers = numbers.clone()
        sum_over_all(numbers)
    for dtype, group in groups.items():
        more = numbers if dtype == numbers.dtype else numbers.new_empty(0, dtype=dtype)
        pieces = [torch.zeros_like(one) if one.grad is None else one.grad for one in group]
        there = pieces[0].new_tensor([float(one.grad is not None) for one in group])
        flat = torch.cat([*(piece.reshape(-1) for piece in pieces), there, more])
        size = len(flat) - len(there) - len(more)
        flat[:size] *= weight
        sum_over_all(flat)
        # Reading a number of a GPU waits for it, and there is nothing to learn where all are there.
        everywhere = all(one.grad is not None for one in group)
        found = [1.0] * len(group) if everywhere else flat[size : size + len(there)].tolist()
        for one, gradient, counted in zip(group, _cut(flat, group), found, strict=True):
            one.grad = gradient if counted else None
        if dtype == numbers.dtype:
            numbers = flat[size + len(there) :].clone()  # the rest of the vector is not kept with it
    return numbers


def overwritten(tensors: Sequence[Tensor], exchange: Callable[[Tensor], None]) -> None:
    """Overwrites tensors by what an exchange makes of them, in flat vectors, IN PLACE.

    Args:
        tensors: The tensors, in the same order in all processes.
        exchange: Changes a vector in place: to that of the first process, or to the mean of all.
    """
    for group in _by_dtype(tensors).values():
        flat = torch.cat([one.detach().reshape(-1) for one in group])
        whole = flat.to(torch.uint8) if flat.dtype == torch.bool else flat  # not every backend knows bool
        exchange(whole)
        with torch.no_grad():
            for one, value in zip(group, _cut(whole, group), strict=True):
                one.copy_(value)


def _by_dtype(tensors: Sequence[Tensor]) -> dict[torch.dtype, list[Tensor]]:
    groups: dict[torch.dtype, list[Tensor]] = {}
    for one in tensors:
        groups.setdefault(one.dtype, []).append(one)
    return groups


def _cut(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """A flat vector in pieces of the shapes of tensors; what is left over at its end is left out."""
    sizes = [one.numel() for one in like]
    pieces = flat[: sum(sizes)].split(sizes)
    return [piece.view(one.shape) for piece, one in zip(pieces, like, strict=True)]
