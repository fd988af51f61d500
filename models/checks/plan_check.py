"""What a plan of removed units may hold when it comes from a file: indices in bounds and names, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import nn

__all__ = ["check_plan", "layer_without_bias"]

_LINEAR = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d
)  # fmt: skip


def check_plan(plan: Any) -> None:
    """Refuses a plan whose parts are of another type than `CompactResult.plan` has, or whose indices are out of bounds.

    Args:
        plan: The plan, as JSON holds it.

    Raises:
        ValueError: In one sentence.
    """
    if not isinstance(plan, Mapping) or not isinstance(plan.get("tensors"), Mapping):
        raise ValueError("the plan is damaged: a mapping with the entry tensors is expected")
    for key in ("bias_added", "branches_removed"):
        names = plan.get(key, [] if key == "branches_removed" else None)
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"the plan is damaged: its {key} is no list of names")
    folded = plan.get("folded", {})
    if not isinstance(folded, Mapping) or not all(_is_count(rank) and rank for rank in folded.values()):
        raise ValueError("the plan is damaged: its folded does not say a rank of each layer")
    for name, entry in plan["tensors"].items():
        shape, kept = (entry.get(key) if isinstance(entry, Mapping) else None for key in ("shape", "kept"))
        if not isinstance(shape, (list, tuple)) or not all(map(_is_count, shape)) or not isinstance(kept, Mapping):
            raise ValueError(f"the plan is damaged: its tensor {name} needs a shape and what was kept")
        for dim, indices in kept.items():
            if not str(dim).isdecimal() or int(dim) >= len(shape):
                raise ValueError(f"the plan is damaged: its tensor {name} has no dimension {dim}")
            _check_indices(indices, shape[int(dim)], f"dimension {dim} of {name}")
    units = plan.get("units", {})
    if not isinstance(units, Mapping):
        raise ValueError("the plan is damaged: its units are no mapping")
    for name, entry in units.items():
        if not isinstance(entry, Mapping) or not _is_count(entry.get("of")):
            raise ValueError(f"the plan is damaged: its units {name} do not say of how many")
        _check_indices(entry.get("kept"), entry["of"], f"the units {name}")


def layer_without_bias(network: nn.Module, name: str) -> nn.Module:
    """The linear layer or convolution of this name, which a plan says got a bias.

    It is looked up among the network's modules: no attribute is read by a name out of a file.

    Raises:
        ValueError: If the network has no such layer, or it has a bias already.
    """
    layer = dict(network.named_modules(remove_duplicate=False)).get(name)
    if not isinstance(layer, _LINEAR) or layer.bias is not None:
        raise ValueError(f"the plan is of another network: it has no layer {name!r} without a bias")
    return layer


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_indices(indices: Any, size: int, what: str) -> None:
    if (
        not isinstance(indices, (list, tuple))
        or not all(map(_is_count, indices))
        or any(index >= size for index in indices)
        or any(one >= other for one, other in pairwise(indices))
    ):
        raise ValueError(f"the plan is damaged: what it keeps of {what} is no list of rising indices below {size}")
