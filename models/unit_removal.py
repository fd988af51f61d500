"""Removal of closed units from a model while it is trained: what is left, and how the model is made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.gates.network_gates import NetworkGates
from bayesprune.models.units.channel_groups import Units
from bayesprune.models.units.cutting import cut, units_plan
from bayesprune.models.units.plans import composed_plan, kept_indices, plan_of
from bayesprune.models.units.residual_branches import residual_branches

__all__ = ["Removed", "without_units"]


@dataclass(frozen=True)
class Removed:
    """A model without the units that were removed.

    Attributes:
        model: The model of what is left.
        kept: Kept indices of the tensors that were cut, by name and dimension, in those of the model before.
        gates: Numbers of the gates that are left among all those of the model before, `(gates,)`.
        emptied: Names of sets all of whose units, more than one, were closed: one of them was kept.
    """

    model: BayesianNetwork
    kept: dict[str, dict[int, Tensor]]
    gates: Tensor
    emptied: tuple[str, ...]


def without_units(model: BayesianNetwork, closed: Mapping[str, Tensor]) -> Removed:
    """Removes units and residual branches whose gates are closed for good; the model itself is left as it is.

    Args:
        model: A model with gates of units.
        closed: Which gates are closed, boolean, `(count,)`, by site.

    Returns:
        The model of what is left, at the same values, and what of the old one is in it.
    """
    whole: set[str] = set()
    while True:
        removed, lost = _without(model, closed, whole)
        if not lost:
            return removed
        whole |= lost


def _without(model: BayesianNetwork, closed: Mapping[str, Tensor], whole: set[str]) -> tuple[Removed, set[str]]:
    """As `without_units`, but some sets stay as they are; also the sets of which a unit that stays lost its gate.

    That happens where the last unit of a part is tied to something that must stay, for example because it is no longer
    told from a number that was added to several units. Without its gate it would be open again.
    """
    gates = NetworkGates.among(model.ways)
    units: dict[str, Tensor] = {}
    branches, emptied = [], []
    for site, gates_of in gates.sets.items():
        if gates_of.is_layer:
            branches += [gates_of.owner] * bool(closed[site].any())
            continue
        gone = torch.zeros(gates.groups[gates_of.owner].count, dtype=torch.bool)
        gone[gates_of.numbers[closed[site].cpu()]] = True
        if gates_of.owner in whole:
            gone[:] = False
        if len(gone) > 1 and bool(gone.all()):
            emptied.append(gates_of.owner)
        _keep_groups(model.network, gates.groups[gates_of.owner], gone)
        units[gates_of.owner] = gone
    plan = units_plan(model.network, model.example_input, gates.groups, units, branches)
    network = cut(model.network, model.example_input, plan, keep_mode=True)
    kept = kept_indices(plan)
    from_declared = plan
    if model.plan is not None and model.declared is not None:
        names = _declared_names(model.declared, model.example_input, [gates.branches[name].output for name in branches])
        from_declared = composed_plan(model.plan, {**plan, "branches_removed": names})
    made = model.with_network(network, plan_of(network.state_dict(), from_declared))
    found = _gates_left(NetworkGates.among(made.ways), gates, kept)
    lost, start = set(), 0
    for gates_of in gates.sets.values():
        if not gates_of.is_layer:
            stay = torch.isin(gates_of.numbers, torch.tensor(plan["units"][gates_of.owner]["kept"], dtype=torch.int64))
            if not bool(torch.isin(start + stay.nonzero().squeeze(1), found).all()):
                lost.add(gates_of.owner)
        start += gates_of.count
    return Removed(made, kept, found, tuple(emptied)), lost - whole


def _declared_names(declared: nn.Module, example_input: Tensor, outputs: list[tuple[str, ...]]) -> list[str]:
    """Names of branches in the network as it was declared, by what scales them: names change when others leave."""
    if not outputs:
        return []
    known = {branch.output: name for name, branch in residual_branches(declared, example_input).items()}
    return [known[output] for output in outputs]


def _keep_groups(network: nn.Module, units: Units, gone: Tensor) -> None:
    """Lets at least two units stay that a grouped convolution reads, in place.

    With a single channel for each of its groups it would be a depthwise convolution, and a depthwise one of a single
    group an ordinary one: their units are others, which had no gates.
    """
    for part in units.slices:
        layer, _, tensor = part.tensor.rpartition(".")
        module = network.get_submodule(layer)
        if tensor == "weight" and isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and module.groups > 1:
            is_depthwise = module.weight.shape[1] == 1
            if part.dim == (0 if is_depthwise else 1):
                own = part.unit[part.unit >= 0].unique()
                closed = own[gone[own]]
                gone[closed[: max(0, 2 - len(own) + len(closed))]] = False


def _gates_left(now: NetworkGates, before: NetworkGates, kept: dict[str, dict[int, Tensor]]) -> Tensor:
    """Numbers of the gates that are left among all those of before, `(gates,)`."""
    starts, total = {}, 0
    for site, one in before.sets.items():
        starts[site] = total
        total += one.count
    branches = {branch.output: starts[f"{name}.layer_gate"] for name, branch in before.branches.items()}
    found = [torch.zeros(0, dtype=torch.int64)]
    for one in now.sets.values():
        if one.is_layer:  # by what it scales: its name may change when another branch goes
            found.append(torch.tensor([branches[now.branches[one.owner].output]]))
            continue
        units = before.groups[one.owner]
        earlier = before.sets[f"{units.name}.gate"]
        place = torch.full((units.count,), -1)
        place[earlier.numbers] = starts[earlier.site] + torch.arange(earlier.count)
        found.append(place[_numbers_before(now.groups[one.owner], units, kept)[one.numbers]])
    return torch.cat(found)


def _numbers_before(now: Units, before: Units, kept: dict[str, dict[int, Tensor]]) -> Tensor:
    """The number that each unit of a set had before a removal, `(count,)`."""
    earlier = {(part.tensor, part.dim): part.unit for part in before.slices}
    number = torch.full((now.count,), -1)
    for part in now.slices:
        unit = earlier[part.tensor, part.dim]
        indices = kept.get(part.tensor, {}).get(part.dim)
        mine = part.unit >= 0
        number[part.unit[mine]] = (unit if indices is None else unit[indices])[mine]
    return number
