"""Channel groups: which rows, columns, and normalisation parameters of a network belong to one unit.

A unit (channel group) is a channel with everything that it owns: the row or filter that makes it, the entries of
batch normalisation that act on it, the columns that read it, and the same of all channels that can only be removed
together with it (both sides of a residual sum, the halves of a gated unit, the positions of grouped convolutions).
Gates, priors of whole units and removal read the same groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.models.tracing.activation import NO_CHANNEL
from bayesprune.models.tracing.channel_trace import ChannelTrace, trace_channels

__all__ = ["ChannelGroups", "UnitSlice", "Units"]


@dataclass(frozen=True)
class UnitSlice:
    """Which unit each index along one dimension of a parameter or buffer belongs to.

    Attributes:
        tensor: Name of the parameter or buffer, e.g. ``"conv1.weight"``.
        dim: The dimension.
        role: ``"output"`` (it makes the unit), ``"input"`` (it reads the unit) or ``"pass"`` (it acts on the unit
            alone, as batch normalisation does).
        unit: Number of the unit, or -1 for an index that belongs to another set; int64, `(size of dim,)`.
    """

    tensor: str
    dim: int
    role: str
    unit: Tensor


@dataclass(frozen=True)
class Units:
    """Units that are made by the same layers.

    Attributes:
        name: Name of the first layer that makes them.
        layers: Names of all layers that make them; several where a residual sum ties them.
        count: How many units there are.
        slices: All that they own.
        removable: Which of them may be removed, boolean, `(count,)`.
        refused: Why some may not, or None.
    """

    name: str
    layers: tuple[str, ...]
    count: int
    slices: tuple[UnitSlice, ...]
    removable: Tensor
    refused: str | None


class ChannelGroups:
    """The units of a network, found by following its channels through its torch.fx graph.

    Understood are linear layers, convolutions (grouped, depthwise and transposed ones too), recurrent cells and
    single recurrent layers, batch and instance normalisation, pooling, flatten and other changes of shape, residual
    sums, products, concatenation, split, channel shuffle, and functions of single numbers. Normalisation across
    channels (LayerNorm, GroupNorm) is understood, but removal would change it: units that pass through it stay.

    Args:
        network: The network; it is copied, not changed. It must be traceable by torch.fx: no control flow that
            depends on data.
        example_input: An input, `(n, ...)`, or a tuple of inputs; only its shape matters, an n of 1 or 2 is enough.
        unknown: What to do with an operation that is not understood: ``"refuse"`` (default) raises an error,
            ``"keep"`` keeps all units that it touches.

    Attributes:
        sets: Units by name of the first layer that makes them, in the order of the network.

    Raises:
        ValueError: If the network cannot be traced, shares parameters between layers, does not take the example
            input, or holds an operation that is not understood.
    """

    def __init__(self, network: nn.Module, example_input: Any, unknown: str = "refuse") -> None:
        self.sets = unit_sets(trace_channels(network, example_input, unknown))

    def __getitem__(self, name: str) -> Units:
        """The units of a set, or those that a layer makes.

        Raises:
            KeyError: If no layer of that name makes units.
        """
        for units in self.sets.values():
            if name == units.name or name in units.layers:
                return units
        raise KeyError(f"no layer {name!r} makes units: there are {', '.join(self.sets)}")

    def __str__(self) -> str:
        width = max((len(name) for name in self.sets), default=0)
        lines = []
        for name, units in self.sets.items():
            also = f", also made by {', '.join(units.layers[1:])}" if len(units.layers) > 1 else ""
            stays = int((~units.removable).sum())
            reason = f"; {stays} stay: {units.refused}" if stays else ""
            lines.append(f"{name:<{width}}  {units.count:>6} units{also}{reason}")
        return "\n".join(lines)

    def zero(self, network: nn.Module, units: Mapping[str, Sequence[int] | Tensor]) -> None:
        """Sets all that makes these units to zero, in place: their rows, biases, and what scales and shifts them.

        A unit then emits zero everywhere (running statistics are left alone, as they no longer matter), provided
        that the functions it passes through give zero at zero.

        Args:
            network: The network that the groups were made of, or a copy.
            units: Numbers of units by name of set.
        """
        parameters = dict(network.named_parameters())
        with torch.no_grad():
            for name, numbers in units.items():
                chosen = torch.as_tensor(numbers, dtype=torch.int64)
                for part in self[name].slices:
                    if part.role != "input" and part.tensor in parameters:
                        index = torch.isin(part.unit, chosen).nonzero().squeeze(1)
                        parameter = parameters[part.tensor]
                        parameter.index_fill_(part.dim, index.to(parameter.device), 0.0)


def unit_sets(trace: ChannelTrace) -> dict[str, Units]:
    """Gathers traced channels into sets of units that the same layers make."""
    roots, pinned = trace.recording.ties.roots(), set(trace.recording.ties.pinned().tolist())
    made: dict[str, Tensor] = {}  # layer -> the units of its outputs
    for part in trace.recording.slices.values():
        if part.role == "output":
            layer = part.tensor.rsplit(".", 1)[0]
            made.setdefault(layer, roots[part.channel].unique())
    layers: list[list[str]] = []  # of each set
    members: list[set[int]] = []
    home: dict[int, int] = {}  # unit -> its set
    for layer, own in made.items():
        units = set(own.tolist())
        joined = sorted({home[unit] for unit in units if unit in home})
        place = joined[0] if joined else len(layers)
        if not joined:
            layers.append([])
            members.append(set())
        for other in joined[1:]:
            layers[place] += layers[other]
            units |= members[other]
            layers[other], members[other] = [], set()
        layers[place].append(layer)
        members[place] |= units
        home.update(dict.fromkeys(units, place))
    number, place_of = torch.full((len(roots) + 1,), -1), torch.full((len(roots) + 1,), -1)  # the last: NO_CHANNEL
    order = [torch.tensor(sorted(units), dtype=torch.int64) for units in members]
    for place, own in enumerate(order):
        number[own], place_of[own] = torch.arange(len(own)), place
    slices: list[list[UnitSlice]] = [[] for _ in layers]
    for part in trace.recording.slices.values():
        root = torch.where(part.channel == NO_CHANNEL, len(roots), roots[part.channel])
        for place in place_of[root].unique().tolist():
            if place >= 0:
                unit = torch.where(place_of[root] == place, number[root], -1)
                slices[place].append(UnitSlice(part.tensor, part.dim, part.role, unit))
    found = {}
    for names, own, parts in zip(layers, order, slices, strict=True):
        if names:
            stay = [root for root in own.tolist() if root in pinned]
            removable = torch.tensor([root not in pinned for root in own.tolist()])
            refused = trace.recording.ties.reason(stay[0]) if stay else None
            found[names[0]] = Units(names[0], tuple(names), len(own), tuple(parts), removable, refused)
    return found
