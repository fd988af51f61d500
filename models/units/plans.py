"""Plans of removals, as pure functions: what two of them leave, and tensors that are left in their places of before.

A plan is what `bayesprune.models.units.compact.CompactResult.plan` has.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["composed_plan", "kept_indices", "plan_of", "restored", "restored_tensor"]


def kept_indices(plan: Mapping[str, Any]) -> dict[str, dict[int, Tensor]]:
    """Kept indices of the tensors that a plan cuts, by name and dimension."""
    return {
        name: {int(dim): torch.tensor(indices, dtype=torch.int64) for dim, indices in entry["kept"].items()}
        for name, entry in plan["tensors"].items()
    }


def plan_of(left: Container[str], plan: Mapping[str, Any]) -> dict[str, Any]:
    """A plan without the tensors that are gone altogether, as those of removed branches.

    Args:
        left: Names of the tensors that are left.
        plan: The plan; it is left as it was.
    """
    return {**plan, "tensors": {name: entry for name, entry in plan["tensors"].items() if name in left}}


def composed_plan(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """The plan of what two removals one after the other leave, in the indices of before the first.

    It is for `cut` and `restored`: it does not say what is left of each set of units.
    """
    tensors = copy.deepcopy(first["tensors"])
    for name, entry in second["tensors"].items():
        known = tensors.setdefault(name, {"shape": entry["shape"], "kept": {}})
        for dim, indices in entry["kept"].items():
            before = known["kept"].get(dim)
            known["kept"][dim] = indices if before is None else [before[index] for index in indices]
    gone = [*first.get("branches_removed", ()), *second.get("branches_removed", ())]
    return {"tensors": tensors, "bias_added": [], "branches_removed": gone}


def restored(network: nn.Module, tensors: Mapping[str, Tensor], plan: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of a network with units removed, as they stand in the network of before, with zeros for what is gone.

    Args:
        network: The network of before.
        tensors: Tensors of what is left, by name; those of removed branches are missing.
        plan: What is left.

    Returns:
        Tensors of the shapes of before, by name, on the CPU; among them those of removed branches, all zero.
    """
    gone = [name for name in dict(network.named_parameters()) if name not in tensors]
    found = {name: restored_tensor(name, value, plan) for name, value in tensors.items()}
    return found | {name: torch.zeros_like(network.get_parameter(name), device="cpu") for name in gone}


def restored_tensor(name: str, value: Tensor, plan: Mapping[str, Any], fill: float = 0.0) -> Tensor:
    """One tensor of what is left, of the shape of before, on the CPU; see `restored`.

    Args:
        name: Its name.
        value: What is left.
        plan: What is left, as `restored` takes it.
        fill: What stands for what is gone; default 0.
    """
    entry, value = plan["tensors"].get(name), value.detach().cpu()
    if entry is None:
        return value
    whole = torch.full(tuple(entry["shape"]), fill, dtype=value.dtype)
    index = [torch.tensor(entry["kept"].get(str(dim), range(size))) for dim, size in enumerate(entry["shape"])]
    whole[torch.meshgrid(*index, indexing="ij")] = value
    return whole
