"""Dead units: which units of a traced network can be removed without changing its outputs.

A unit is dead if nothing that matters reads it: every weight that reads it is zero, or belongs to a dead unit, or
what it reads is a constant that can be moved into the reader's bias.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bayesprune.models.tracing.activation import NO_CHANNEL, collapsed, spread
from bayesprune.models.tracing.channel_records import Use
from bayesprune.models.tracing.channel_trace import ChannelTrace
from bayesprune.models.units.channel_groups import Units, unit_sets

__all__ = ["LiveUnits", "find_live", "never_empty"]


@dataclass
class LiveUnits:
    """Which units stay.

    Attributes:
        trace: The traced network.
        roots: The channel that stands for each unit, `(channels,)`.
        sets: Units by the layers that make them.
        uses: Readings of channels, one a tensor.
        live: Whether a unit stays, by its root, `(channels + 1,)`; the last entry, that of `NO_CHANNEL`, is true.
        kept: Why units that seem dead stay, a sentence by set.
        emptied: Sets of which only one unit stays, because all are dead.
    """

    trace: ChannelTrace
    roots: Tensor
    sets: dict[str, Units]
    uses: list[Use]
    live: Tensor
    kept: dict[str, str] = field(default_factory=dict)
    emptied: list[str] = field(default_factory=list)

    def root_of(self, channel: Tensor) -> Tensor:
        """Units of channels, by their roots."""
        return spread(lambda part: torch.where(part == NO_CHANNEL, NO_CHANNEL, self.roots[part.clamp_min(0)]), channel)

    def stays(self, channel: Tensor) -> Tensor:
        """Which of these channels stay."""
        return self.live[self.root_of(channel)]

    def members(self, units: Units) -> Tensor:
        """Roots of the units of a set, in their order, `(count,)`."""
        root = torch.full((units.count,), -1)
        for part in units.slices:
            if part.role == "output":
                mine = part.unit >= 0
                root[part.unit[mine]] = self.root_of(self.trace.recording.slices[part.tensor, part.dim].channel)[mine]
        return root


def find_live(trace: ChannelTrace, round_to: int = 1) -> LiveUnits:
    """Finds the units that have to stay.

    Args:
        trace: The traced network.
        round_to: Dead units stay until the number of units in a set is a multiple of this.
    """
    roots = trace.recording.ties.roots()
    live = torch.zeros(len(roots) + 1, dtype=torch.bool)
    live[trace.recording.ties.pinned()] = True
    live[NO_CHANNEL] = True
    found = LiveUnits(trace, roots, unit_sets(trace), _merged(trace.recording.uses), live)
    reads = [_reads(use) for use in found.uses]
    _follow(found, reads)
    _explain(found, reads)
    never_empty(found)
    _round(found, round_to)
    return found


def _merged(uses: list[Use]) -> list[Use]:
    """One use a tensor: a layer that is called several times reads a constant only if it is the same every time."""
    merged: dict[str, Use] = {}
    for use in uses:
        before = merged.get(use.tensor)
        if before is not None:
            value = torch.where(before.value == use.value, use.value, torch.nan)
            use = Use(use.tensor, use.bias, use.inputs, use.outputs, use.weight, value)
        merged[use.tensor] = use
    return list(merged.values())


def _reads(use: Use) -> Tensor:
    """Which weights read something that cannot be moved into the bias, `(groups, rows of a group, columns)`."""
    nonzero = (use.weight != 0).any(dim=-1)
    return nonzero.view(len(use.inputs), -1, use.inputs.shape[1]) & torch.isnan(use.value).unsqueeze(1)


def _follow(found: LiveUnits, reads: list[Tensor]) -> None:
    """Marks all that live units read, until nothing is added; loops of recurrent cells take several rounds."""
    rows = [found.root_of(use.outputs).view(len(use.inputs), -1, 1) for use in found.uses]
    columns = [found.root_of(use.inputs) for use in found.uses]
    while True:
        before = int(found.live.sum())
        for row, column, read in zip(reversed(rows), reversed(columns), reversed(reads), strict=True):
            found.live[column[(read & found.live[row]).any(dim=1)]] = True
        if int(found.live.sum()) == before:
            return


def _explain(found: LiveUnits, reads: list[Tensor]) -> None:
    """Says why units stay although every weight that makes them is zero."""
    loud = {use.tensor: (use.weight != 0).flatten(1).any(dim=1) for use in found.uses}
    for made in found.trace.recording.slices.values():
        if made.role == "output" and made.dim == 1 and made.tensor not in loud:  # an embedding, which reads nothing
            weight = found.trace.module.get_parameter(made.tensor)
            loud[made.tensor] = (weight != 0).any(dim=0).cpu()
    for name, units in found.sets.items():
        quiet = torch.ones(units.count, dtype=torch.bool)
        for part in units.slices:
            if part.role == "output" and part.tensor in loud:
                quiet[part.unit[loud[part.tensor] & (part.unit >= 0)]] = False
        root = found.members(units)
        stay = root[quiet & found.live[root]]
        if len(stay) == 0:
            continue
        reason = found.trace.recording.ties.reason(int(stay[0]))
        if reason is None:
            readers = [
                use.tensor.rsplit(".", 1)[0]
                for use, read in zip(found.uses, reads, strict=True)
                if bool((read.any(dim=1) & torch.isin(found.root_of(use.inputs), stay)).any())
            ]
            reason = f"they emit something else than zero, which {', '.join(readers)} cannot take into the bias exactly"
        found.kept[name] = f"{len(stay)} without incoming weights stay: {reason}"


def never_empty(found: LiveUnits) -> None:
    """Keeps one unit wherever nothing would be left of a layer or of an activation, and says so."""
    owners = {root: name for name, units in found.sets.items() for root in found.members(units).tolist()}
    lines = [part.channel for part in found.trace.recording.slices.values() if part.role == "output"]
    lines += [channel for channels in found.trace.nodes.values() for channel in channels]
    for channel in lines:
        own = found.root_of(collapsed(channel).reshape(-1)).unique()
        if bool(found.live[own].any()):
            continue
        first = int(own.min())
        found.live[first] = True
        name = owners.get(first)
        if name is not None:
            count = found.sets[name].count if len(own) == found.sets[name].count else len(own)
            found.kept[name] = f"all {count} units are dead: one is kept, because a layer cannot be empty"
            found.emptied.append(name)


def _round(found: LiveUnits, multiple: int) -> None:
    """Brings dead units back until the number of units in each set is a multiple, or all are there."""
    for units in found.sets.values():
        members = found.members(units)
        left = int(found.live[members].sum())
        wanted = min(-(-left // multiple) * multiple, len(members))
        found.live[members[~found.live[members]][: wanted - left]] = True
