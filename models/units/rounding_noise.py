"""What rounding alone does to a network's outputs: how far they move when its numbers move by their last digit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bayesprune.models.graphs.example_run import tensors_of

__all__ = ["rounding_noise"]

_DRAWS = 3


class _Formats(TorchDispatchMode):
    """Notes the shortest number format among all results."""

    def __init__(self) -> None:
        super().__init__()
        self.shortest = torch.float64

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs one operation."""
        found = func(*args, **(kwargs or {}))
        formats = [part.dtype for part in tensors_of(found) if part.is_floating_point()]
        self.shortest = max([self.shortest, *formats], key=lambda each: torch.finfo(each).eps)
        return found


def rounding_noise(run: Callable[[nn.Module], list[list[Tensor]]], network: nn.Module) -> list[float]:
    """Largest change of each output when every parameter and buffer moves by at most one unit in its last place.

    That is the place of the shortest number format that occurs inside: a forward in float64 may work in float32 for a
    while, and what is added up in another order there comes out as different as that.

    Args:
        run: Gives the outputs of a network, which it leaves as it is.
        network: The network, in the number format that it is run in.
    """
    with _Formats() as formats:
        before = run(network)
    largest = [0.0 for _ in before[0]]
    for seed in range(_DRAWS):
        moved = copy.deepcopy(network)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tensor in (*moved.parameters(), *moved.buffers()):
                if tensor.is_floating_point():
                    noise = 2 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - 1
                    shortest = max(torch.finfo(formats.shortest).eps, torch.finfo(tensor.dtype).eps)
                    tensor.mul_((1 + shortest * noise).to(tensor))
        for ones, others in zip(before, run(moved), strict=True):
            for place, (one, other) in enumerate(zip(ones, others, strict=True)):
                if one.shape == other.shape and one.numel():
                    apart = (one.double() - other.double()).abs()
                    if bool(apart.isfinite().any()):
                        largest[place] = max(largest[place], float(apart[apart.isfinite()].max()))
    return largest
