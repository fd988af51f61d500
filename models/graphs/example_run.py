"""A graph run on an example: what each node really gives, and which tensors it changes in place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten

__all__ = ["ExampleRun", "placed", "tensors_of"]


class ExampleRun(fx.Interpreter):
    """Runs a graph on an example.

    Attributes:
        examples: What each node gives, by name; tensors on the meta device, as their shapes are what is wanted.
        changed: Nodes whose tensors a node changes in place, and whether its result is that tensor as a whole; by name.
            Tensors that share memory change together, whether autograd knows of it (views) or not (`.data`).
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.extra_traceback = False
        self.examples: dict[str, Any] = {}
        self.changed: dict[str, list[tuple[fx.Node, bool]]] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node, and notes what it gives and changes."""
        before = {other: _versions(found) for other, found in self.env.items()}
        found = super().run_node(n)
        self.examples[n.name] = _meta(found)
        memory = {
            place
            for other, versions in before.items()
            for place, version, earlier in zip(
                _places(self.env[other]), _versions(self.env[other]), versions, strict=True
            )
            if version != earlier
        }
        if memory:
            self.changed[n.name] = [
                (other, self.env[other] is found) for other in before if memory.intersection(_places(self.env[other]))
            ]
        return found


def placed(part: Any, network: nn.Module) -> Any:
    """An example input on the network's device and, for numbers with a fraction, in its dtype."""
    like = next(network.parameters(), None)
    if not torch.is_tensor(part) or like is None:
        return part
    return part.to(like.device, like.dtype if part.is_floating_point() else part.dtype)


def tensors_of(found: Any) -> list[Tensor]:
    """All tensors among nested results."""
    return [part for part in tree_flatten(found)[0] if torch.is_tensor(part)]


def _versions(found: Any) -> list[int]:
    """How often tensors have been changed in place, so far as autograd knows; its views count together."""
    return [part._version for part in tensors_of(found)]


def _places(found: Any) -> list[int]:
    """Where the memory of tensors begins."""
    return [
        part.untyped_storage().data_ptr() if part.layout is torch.strided else id(part) for part in tensors_of(found)
    ]


def _meta(found: Any) -> Any:
    if isinstance(found, (tuple, list)):
        return tuple(_meta(part) for part in found)
    return torch.empty_like(found, device="meta") if torch.is_tensor(found) else found
