"""Sets of gates: those of units that the same layers make and of residual branches, and the tensors they act on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bayesprune.models.units.channel_groups import ChannelGroups, Units
from bayesprune.models.ways.buffer_dict import BufferDict
from bayesprune.models.ways.way import WaySites

__all__ = ["GateSet", "GateSlice", "along", "branch_gate_sets", "find_slices", "unit_gate_sets"]


@dataclass(frozen=True)
class GateSet(WaySites):
    """The gates of the units that the same layers make, or the one gate of a residual branch.

    Attributes:
        site: Name of the Pyro site of the gates, `(count,)`.
        numbers: Number of each gate's unit in its set, `(count,)`; units that may not be removed have no gate.
        owner: Name of the set of units (as in `ChannelGroups`), or of the branch.
        probability_site: Name of the site of their prior probability pi, `(count,)`.
        is_layer: Whether it is the gate of a branch.
    """

    owner: str
    probability_site: str
    is_layer: bool


class GateSlice(nn.Module):
    """What one dimension of a tensor has to do with gates.

    Args:
        tensor: Name of the parameter.
        dim: The dimension.
        parts: Site and number of the gate of each index, -1 for an index without one; `(size of dim,)` each.

    Attributes:
        tensor: Name of the parameter.
        dim: The dimension.
    """

    def __init__(self, tensor: str, dim: int, parts: Sequence[tuple[str, Tensor]]) -> None:
        super().__init__()
        self.tensor, self.dim = tensor, dim
        self._sites = tuple(site for site, _ in parts)
        self._is_whole = tuple(bool((number >= 0).all()) for _, number in parts)
        numbers = {str(place): number for place, (_, number) in enumerate(parts)}
        self._numbers = BufferDict(numbers, persistent=False)
        self._taken = BufferDict({place: number.clamp_min(0) for place, number in numbers.items()}, persistent=False)

    @property
    def layer(self) -> str:
        """Name of the layer that the parameter belongs to."""
        return self.tensor.rpartition(".")[0]

    def mask(self, values: Mapping[str, Tensor]) -> Tensor:
        """The gate of each index, one where there is none; `(..., size of dim)` for gates `(..., count)`."""
        mask: Tensor | None = None
        for place, (site, is_whole) in enumerate(zip(self._sites, self._is_whole, strict=True)):
            taken = values[site].index_select(-1, self._taken[str(place)])
            taken = taken if is_whole else torch.where(self._numbers[str(place)] >= 0, taken, 1.0)
            mask = taken if mask is None else mask * taken
        assert mask is not None
        return mask

    def gate_number(self, sets: Mapping[str, GateSet]) -> Tensor:
        """Number of each index's gate among all gates, -1 for none."""
        starts, total = {}, 0
        for site, one in sets.items():
            starts[site] = total
            total += one.count
        found = torch.full_like(self._numbers["0"], -1)
        for place, site in enumerate(self._sites):
            number = self._numbers[str(place)]
            found = torch.where(number >= 0, starts[site] + number, found)
        return found


def unit_gate_sets(groups: ChannelGroups, takes_gates: Callable[[Units], bool]) -> dict[str, GateSet]:
    """The gates of units that may be removed, by site.

    Args:
        groups: The units of a network.
        takes_gates: Whether the units of a set have gates at all.
    """
    sets = {}
    for units in groups.sets.values():
        numbers = units.removable.nonzero().squeeze(1)
        if len(numbers) and takes_gates(units):
            site = f"{units.name}.gate"
            sets[site] = GateSet(site, numbers, units.name, f"{units.name}.gate_probability", False)
    return sets


def branch_gate_sets(branches: Iterable[str]) -> dict[str, GateSet]:
    """The gates of residual branches, one each, by site.

    Args:
        branches: Names of the branches.
    """
    sets = {}
    for name in branches:
        site = f"{name}.layer_gate"
        sets[site] = GateSet(site, torch.zeros(1).long(), name, f"{name}.layer_gate_probability", True)
    return sets


def find_slices(sets: Mapping[str, GateSet], groups: ChannelGroups) -> tuple[list[GateSlice], list[GateSlice]]:
    """What reads units with a gate, and what makes them.

    Args:
        sets: The gates, by site; those of branches have no slices.
        groups: The units of the network.
    """
    roles: dict[str, dict[tuple[str, int], list[tuple[str, Tensor]]]] = {"input": {}, "output": {}}
    for gates in sets.values():
        if gates.is_layer:
            continue
        units = groups[gates.owner]
        number = torch.full((units.count + 1,), -1)  # of gates in place of units; the last for indices of other sets
        number[gates.numbers] = torch.arange(gates.count)
        for part in units.slices:
            if part.role in roles:
                roles[part.role].setdefault((part.tensor, part.dim), []).append((gates.site, number[part.unit]))
    readers, makers = (
        [GateSlice(tensor, dim, parts) for (tensor, dim), parts in found.items()] for found in roles.values()
    )
    return readers, makers


def along(vector: Tensor, dim: int, ndim: int) -> Tensor:
    """A vector along one dimension of a tensor of `ndim`."""
    return vector.reshape([-1 if axis == dim else 1 for axis in range(ndim)])
