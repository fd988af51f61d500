"""The dense gradient of a step with respect to the weights that the network ran with.

A zero is added to every weight where the network reads it, after masks, gates and whatever else lies between a draw and
the network, and the loss is differentiated with respect to that zero. So nothing has to know how weights came about,
several evaluations of the network in one step (particles, estimators of gates) add up as the loss adds them up, and
where a weight is itself a latent, what the prior pulls at the latent is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["with_shifts"]


@contextmanager
def with_shifts(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Inside, the network adds a zero to weights whenever it is run; differentiate with respect to these zeros.

    It holds for parameters that `torch.func.functional_call` has put in place too, tied ones by all their names. Layers
    that would draw their outputs have to draw their weights inside (`OutputsDrawn.draws_of_weights`).

    Args:
        network: The network.
        names: Names of its parameter tensors.

    Yields:
        Zeros that require a gradient, of the tensors' shapes, by name.
    """
    shifts = {name: torch.zeros_like(network.get_parameter(name)).requires_grad_() for name in names}
    replaced: list[tuple[nn.Module, str, Any]] = []

    def shift(network: nn.Module, arguments: Any) -> None:
        moved: dict[int, Tensor] = {}
        for name, zero in shifts.items():
            owner, _, own = name.rpartition(".")
            weight = network.get_submodule(owner)._parameters[own]
            assert weight is not None
            moved[id(weight)] = weight + zero
        for module in network.modules():
            for own, weight in module._parameters.items():
                if id(weight) in moved:
                    replaced.append((module, own, weight))
                    module._parameters[own] = moved[id(weight)]  # type: ignore[assignment]

    def restore(*_: Any) -> None:
        while replaced:
            module, own, weight = replaced.pop()
            module._parameters[own] = weight

    hooks = (
        network.register_forward_pre_hook(shift),
        network.register_forward_hook(restore, always_call=True),
    )
    try:
        yield shifts
    finally:
        for hook in hooks:
            hook.remove()
        restore()
