"""Which edge of a network's graph each weight of it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

__all__ = ["EdgePlace", "PlacesEdges", "edge_places"]


@dataclass(frozen=True)
class EdgePlace:
    """The edges that a weight matrix has.

    Attributes:
        tensor: Name of the weight, `(gates x targets, sources)`.
        targets: The vertex of each row, one gate's.
        sources: The vertex of each column.
        gates: How many gates a vertex has, whose rows stand one gate after the other; default 1.
        mask: Boolean, `(targets, sources)`: which of these edges there are; None (default): all.
    """

    tensor: str
    targets: tuple[int, ...]
    sources: tuple[int, ...]
    gates: int = 1
    mask: Tensor | None = None

    @property
    def there(self) -> Tensor:
        """Boolean, `(targets, sources)`: the edges there are."""
        if self.mask is None:
            return torch.ones(len(self.targets), len(self.sources), dtype=torch.bool)
        return self.mask


@runtime_checkable
class PlacesEdges(Protocol):
    """A network that says which edges its weights are."""

    def edge_places(self) -> tuple[EdgePlace, ...]:
        """Those of each of its weights that is part of the graph."""


def edge_places(network: nn.Module) -> tuple[EdgePlace, ...]:
    """Which edges the weights of a network are, by weight.

    A network of this package that is made of a graph says it by itself (`PlacesEdges`). In any other, linear layers
    follow each other: inputs are the first vertices, then come the units of each layer, in the order of the layers.

    Args:
        network: The network.

    Raises:
        ValueError: If it is neither of the two.
    """
    if isinstance(network, PlacesEdges):
        return network.edge_places()
    layers = [(name, one) for name, one in network.named_modules() if isinstance(one, nn.Linear)]
    sizes = [one.in_features for _, one in layers[:1]] + [one.out_features for _, one in layers]
    others = [name for name, one in network.named_parameters() if one.ndim > 1 and not _is_of(name, layers)]
    if not layers or others or any(one.in_features != size for (_, one), size in zip(layers, sizes, strict=False)):
        raise ValueError(
            f"which edges the weights of a {type(network).__name__} are is not known: give a network of a graph, or "
            "linear layers of which each takes the outputs of the one before"
        )
    found, start = [], 0
    for name, one in layers:
        middle, end = start + one.in_features, start + one.in_features + one.out_features
        weight = f"{name}.weight" if name else "weight"
        found.append(EdgePlace(weight, tuple(range(middle, end)), tuple(range(start, middle)), mask=_mask_of(one)))
        start = middle
    return tuple(found)


def _is_of(parameter: str, layers: list[tuple[str, nn.Linear]]) -> bool:
    return any(parameter == (f"{name}.weight" if name else "weight") for name, _ in layers)


def _mask_of(layer: nn.Module) -> Tensor | None:
    mask = getattr(layer, "mask", None)
    return mask if isinstance(mask, Tensor) else None
