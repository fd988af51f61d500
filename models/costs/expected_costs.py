"""Expected costs: MACs and parameters of a network whose units are open at random.

A weight is there if the unit that its row makes and the unit that its column reads are both open. With independent
gates its expectation is the product of their probabilities, unless both are one unit (recurrent cells, the stream of
a residual network): then it is that probability itself. So expected costs are multi-affine in the probabilities, and
their derivative is the marginal cost of a gate: the expected cost with it open less that with it closed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.models.costs.macs import count_macs, own_weights
from bayesprune.models.units.channel_groups import ChannelGroups

__all__ = ["ExpectedCosts"]


class ExpectedCosts:
    """Expected MACs and parameters of a network with independent Bernoulli gates on units and residual branches.

    The MACs of a layer are spread evenly over its weights, which is exact for the layers that `ChannelGroups`
    understands; MACs without weights (products of attention) count as if all units were open. Parameters are weights,
    biases and the scales and shifts of normalisation; buffers are not counted. A layer none of whose units is open
    costs nothing, although a network that is really cut keeps one.

    Args:
        network: The network; it is run once on the example and left as it was.
        example_input: An input, `(n, ...)`, or a tuple of inputs; MACs are those of one example.
        groups: Its units.
        branches: By name of residual branch, names of the modules that go with it when it is removed; what is inside
            them goes too. Default None: no branches.

    Attributes:
        units: How many units there are, by name of set.
        branches: Names of the branches.
        tables: The counts, as a module: what registers it has them move with itself. For probabilities on another
            device they are copied there once.
        whole: MACs and parameters with everything open.

    Raises:
        ValueError: If the network does not take the example or costs nothing, or a branch names a module that is not
            there.
    """

    def __init__(
        self,
        network: nn.Module,
        example_input: Any,
        groups: ChannelGroups,
        branches: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        within = {name: _inside(network, name, modules) for name, modules in (branches or {}).items()}
        self.units = {name: units.count for name, units in groups.sets.items()}
        self.branches = tuple(within)
        self.tables = _tables(_blocks(network, example_input, groups, list(within.values())))
        self._copies: dict[torch.device, _Tables] = {}
        macs, parameters = self.expected({}, None).tolist()
        self.whole: tuple[float, float] = (macs, parameters)

    def macs(self, theta: Mapping[str, Tensor], layers: Mapping[str, Tensor] | None = None) -> Tensor:
        """Expected MACs of one example.

        Args:
            theta: Probabilities that units are open, `(units,)`, by name of set; sets not given are open.
            layers: Probabilities that branches are there, one number each, by name; branches not given are there.
                Default None: all are.

        Returns:
            A scalar in float64, as float32 does not hold large counts exactly. Its derivative with respect to a
            probability is that gate's marginal cost.

        Raises:
            ValueError: If a name is unknown or a shape is wrong.
        """
        return self.expected(theta, layers)[0]

    def parameters(self, theta: Mapping[str, Tensor], layers: Mapping[str, Tensor] | None = None) -> Tensor:
        """Expected number of parameters; arguments, result and errors are those of `macs`."""
        return self.expected(theta, layers)[1]

    def expected(self, theta: Mapping[str, Tensor], layers: Mapping[str, Tensor] | None = None) -> Tensor:
        """Both at once, MACs and parameters, float64, `(2,)`; arguments and errors are those of `macs`."""
        layers = layers or {}
        tables = self._on(next((value.device for value in (*theta.values(), *layers.values())), None))
        costs, of = tables.exact("costs"), tables.exact
        unit = _joined("set of units", theta, self.units, costs)
        branch = _joined("branch", layers, dict.fromkeys(self.branches, 1), costs)
        pairs = (of("rows") @ unit + of("free_rows")) * (of("columns") @ unit + of("free_columns"))
        tied = unit[tables.tied]
        pairs = pairs + of("both") @ (tied - tied.square())  # one gate, though the product has it twice
        there = torch.where(tables.within, branch, 1.0).prod(dim=1)
        return costs @ (pairs * there)

    def _on(self, device: torch.device | None) -> _Tables:
        """The tables on a device; by default where they are."""
        if device is None or device == self.tables.tied.device:
            return self.tables
        if device not in self._copies:
            self._copies[device] = copy.deepcopy(self.tables).to(device)
        return self._copies[device]


# ------------------------------------------------------------------------------------------------ what is counted


@dataclass(frozen=True)
class _Line:
    """To which units the indices along a dimension belong: how many to each, `(units,)`, and how many to none."""

    units: Tensor
    free: float


@dataclass(frozen=True)
class _Block:
    """A tensor, or several of one dimension, as rows and columns.

    Attributes:
        rows: Units of the rows.
        columns: Units of the columns; one free column where there are none.
        macs: Cost of a pair of a row and a column.
        parameters: Likewise.
        within: Which branches it goes with.
    """

    rows: _Line
    columns: _Line
    macs: float
    parameters: float
    within: tuple[bool, ...]


class _Tables(nn.Module):
    """All blocks of a network.

    What is float64 is kept as its bits: to float32, in which most models are, PyTorch would round every buffer.

    Args:
        exact: Float64 tensors: `rows` and `columns`, `(blocks, units)`; `free_rows` and `free_columns`, `(blocks,)`;
            `both`, how many pairs of a row and a column the tied units have, `(blocks, tied)`; `costs`, MACs and
            parameters of a pair, `(2, blocks)`.
        tied: Units that have rows and columns in one block, int64, `(tied,)`.
        within: Which branches a block goes with, boolean, `(blocks, branches)`.
    """

    tied: Tensor
    within: Tensor

    def __init__(self, exact: Mapping[str, Tensor], tied: Tensor, within: Tensor) -> None:
        super().__init__()
        for name, table in exact.items():
            self.register_buffer(name, table.view(torch.int64), persistent=False)
        self.register_buffer("tied", tied, persistent=False)
        self.register_buffer("within", within, persistent=False)

    def exact(self, name: str) -> Tensor:
        """A table as float64."""
        bits: Tensor = getattr(self, name)
        return bits.view(torch.float64)


def _tables(blocks: list[_Block]) -> _Tables:
    rows, columns = (
        torch.stack([line.units for line in lines])
        for lines in ([block.rows for block in blocks], [block.columns for block in blocks])
    )
    tied = ((rows * columns) != 0).any(dim=0).nonzero().squeeze(1)

    def vector(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=rows.dtype)

    macs, parameters = vector([block.macs for block in blocks]), vector([block.parameters for block in blocks])
    exact = {
        "rows": rows,
        "columns": columns,
        "free_rows": vector([block.rows.free for block in blocks]),
        "free_columns": vector([block.columns.free for block in blocks]),
        "both": (rows * columns)[:, tied],
        "costs": torch.stack([macs, parameters]),
    }
    return _Tables(exact, tied, torch.tensor([block.within for block in blocks], dtype=torch.bool))


def _blocks(
    network: nn.Module, example_input: Any, groups: ChannelGroups, branches: list[set[nn.Module]]
) -> list[_Block]:
    macs = count_macs(network, example_input)
    lines = _lines(groups)
    nothing = torch.zeros(sum(units.count for units in groups.sets.values()), dtype=torch.float64)
    one = _Line(nothing, 1.0)
    blocks: list[_Block] = []
    single: dict[tuple[bool, ...], _Block] = {}  # biases and normalisation of the same branches are added up
    for name, module in network.named_modules():
        within = tuple(module in inside for inside in branches)
        weights = dict(own_weights(module))
        dense = float(macs[name].dense) if name in macs else 0.0
        if dense and not weights:
            blocks.append(_Block(one, one, dense, 0.0, within))
        each = dense / max(sum(weight.numel() for weight in weights.values()), 1)
        for key, parameter in module.named_parameters(recurse=False):
            own = lines.get(f"{name}.{key}" if name else key, {})
            others = float(math.prod(size for dim, size in enumerate(parameter.shape) if dim not in own))
            rows, columns = [*own.values(), one, one][:2]
            if key in weights:
                blocks.append(_Block(rows, columns, others * each, others, within))
            else:
                before = single.get(within, _Block(_Line(nothing, 0.0), one, 0.0, 1.0, within))
                total = _Line(before.rows.units + others * rows.units, before.rows.free + others * rows.free)
                single[within] = replace(before, rows=total)
    if not single and not blocks:
        raise ValueError("the network has no parameters and no MACs, so that it costs nothing: pass one with layers")
    return [*blocks, *single.values()]


def _lines(groups: ChannelGroups) -> dict[str, dict[int, _Line]]:
    """Lines of all tensors, by name and dimension; units are numbered through all sets."""
    owners: dict[tuple[str, int], Tensor] = {}
    first, total = 0, sum(units.count for units in groups.sets.values())
    for units in groups.sets.values():
        for part in units.slices:
            before = owners.get((part.tensor, part.dim), torch.full_like(part.unit, -1))
            owners[part.tensor, part.dim] = torch.where(part.unit >= 0, part.unit + first, before)
        first += units.count
    lines: dict[str, dict[int, _Line]] = {}
    for (tensor, dim), owner in owners.items():
        counts = torch.bincount(owner[owner >= 0], minlength=total).to(torch.float64)
        lines.setdefault(tensor, {})[dim] = _Line(counts, float((owner < 0).sum()))
    return lines


def _inside(network: nn.Module, branch: str, names: tuple[str, ...]) -> set[nn.Module]:
    """All modules that go with a branch."""
    modules = dict(network.named_modules())
    for name in names:
        if name not in modules:
            raise ValueError(f"branch {branch!r} holds a module {name!r}, but the network has none of that name")
    return {module for name in names for module in modules[name].modules()}


def _joined(what: str, given: Mapping[str, Tensor], sizes: Mapping[str, int], like: Tensor) -> Tensor:
    """All probabilities in one vector of the dtype of `like`; those not given are one."""
    for name, value in given.items():
        if name not in sizes:
            raise ValueError(f"there is no {what} {name!r}, only {', '.join(sizes) or 'none'}: take one of these names")
        if value.numel() != sizes[name]:
            raise ValueError(f"{what} {name!r} has {sizes[name]} gates, but got {value.numel()} probabilities")
    parts = [
        given[name].flatten().to(like.dtype) if name in given else like.new_ones(size) for name, size in sizes.items()
    ]
    return torch.cat(parts) if parts else like.new_ones(0)
