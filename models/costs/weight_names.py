"""Names of a network's weights, for priors on all of them or on all but some layers'."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from bayesprune.models.costs.macs import own_weights

__all__ = ["weight_names"]


def weight_names(network: nn.Module, exclude: Sequence[str] = ()) -> tuple[str, ...]:
    """Names a network's weights, without scales of normalisation and biases, for a prior on each of them.

    The pattern ``"*.weight"`` matches the scales of normalisation too; this names what `costs` counts as weights,
    tensors of two or more dimensions: those of linear layers and convolutions, the first, depthwise and last among
    them. So the priors of `BayesianNetwork` are ``dict.fromkeys(weight_names(network), SoftThreshold())``.

    Args:
        network: The network.
        exclude: Layers that are left out, by name or pattern, such as ``("conv1", "*.depthwise", "fc")``; or weights,
            such as ``"conv1.weight"``. Default none.

    Returns:
        Names of parameter tensors in the network's order; of a tied one the first.

    Raises:
        ValueError: If there are no such weights, something in `exclude` matches none of them, or none is left.
    """
    if isinstance(exclude, str):
        raise ValueError(f"exclude takes several names, not the text {exclude!r}: write exclude=({exclude!r},)")
    found: dict[int, tuple[str, str]] = {}
    for layer, module in network.named_modules():
        for key, weight in own_weights(module):
            found.setdefault(id(weight), (layer, f"{layer}.{key}" if layer else key))
    weights = list(found.values())
    if not weights:
        raise ValueError("the network has no weights of two or more dimensions: give patterns of its parameters")
    excluded: set[str] = set()
    for pattern in exclude:
        matched = {name for layer, name in weights if fnmatchcase(layer, pattern) or fnmatchcase(name, pattern)}
        if not matched:
            raise ValueError(
                f"exclude={pattern!r} matches no layer with weights: expected names or patterns of "
                f"{', '.join(layer or name for layer, name in weights)}"
            )
        excluded |= matched
    left = tuple(name for _, name in weights if name not in excluded)
    if not left:
        raise ValueError(f"exclude={tuple(exclude)!r} leaves no weights: exclude fewer layers")
    return left
