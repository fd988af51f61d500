"""Costs: weights, multiply-accumulate operations and bytes of a network, by layer and in total.

These are exact counts, and no promise of speed: hardware gains little from zeros that are spread about
(`sparse_macs`), and from smaller layers less than `compact_macs` says. `bayesprune.models.costs.latency` measures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bayesprune.models.costs.macs import Macs, count_macs, count_nonzero, own_weights

__all__ = ["CostRow", "Costs", "costs"]

_INDEX_BYTES = 4  # int32
_NONE = Macs(0, 0)


@dataclass(frozen=True)
class CostRow:
    """What a layer costs, or a whole network.

    Attributes:
        weights: Entries of weight tensors, those of two or more dimensions; biases and parameters of normalisation
            are not among them.
        nonzero: How many of these weights are not zero.
        parameters: Entries of all parameters.
        compact_parameters: Entries of the compact network's parameters; 0 for a layer that is gone, None where no
            compact network was given.
        dense_macs: Multiply-accumulate operations for one example.
        sparse_macs: Those with a weight that is not zero.
        compact_macs: `dense_macs` of the compact network; 0 for a layer that is gone, None without one.
        dense_bytes: Bytes on disk of parameters and saved buffers, each in its dtype, without the file's header.
        csr_bytes: The same with each weight tensor as a CSR matrix `(out, rest)`: values that are not zero, an int32
            column for each, and `out + 1` int32 row pointers.
    """

    weights: int
    nonzero: int
    parameters: int
    compact_parameters: int | None
    dense_macs: int
    sparse_macs: int
    compact_macs: int | None
    dense_bytes: int
    csr_bytes: int

    @property
    def density(self) -> float:
        """Fraction of the weights that are not zero; 1 where there are no weights."""
        return self.nonzero / self.weights if self.weights else 1.0

    @property
    def sparsity(self) -> float:
        """Fraction of the weights that are zero; 0 where there are no weights."""
        return 1.0 - self.density

    def as_dict(self) -> dict[str, Any]:
        """The counts by name, for JSON."""
        return {
            "weights": self.weights,
            "nonzero": self.nonzero,
            "parameters": self.parameters,
            "compact_parameters": self.compact_parameters,
            "dense_macs": self.dense_macs,
            "sparse_macs": self.sparse_macs,
            "compact_macs": self.compact_macs,
            "dense_bytes": self.dense_bytes,
            "csr_bytes": self.csr_bytes,
        }


@dataclass(frozen=True)
class Costs(CostRow):
    """What a network costs: its own counts are the totals. `str()` is a table.

    Attributes:
        layers: A row for each module that holds parameters, saved buffers or MACs, by dotted name, in the network's
            order; what the network itself holds or does is the last row, "(network)" or, without parameters,
            "(functions)". A tied parameter stands in each of its rows and is counted once in the totals.
    """

    layers: dict[str, CostRow]

    def as_dict(self) -> dict[str, Any]:
        """Totals by name, and under ``"layers"`` the same for each layer, for JSON."""
        return {**super().as_dict(), "layers": {name: row.as_dict() for name, row in self.layers.items()}}

    def __str__(self) -> str:
        heads = [name.replace("macs", "MACs").replace("csr", "CSR").replace("_", " ") for name in super().as_dict()]
        lines = [["layer", *heads[:2], "density", *heads[2:]]]
        for name, row in [*self.layers.items(), ("total", self)]:
            numbers = ["-" if value is None else f"{value:,}" for value in CostRow.as_dict(row).values()]
            lines.append([name, *numbers[:2], f"{row.density:.4f}" if row.weights else "-", *numbers[2:]])
        used = [column for column in zip(*lines, strict=True) if set(column[1:]) != {"-"}]
        widths = [max(map(len, column)) for column in used]
        return "\n".join(
            "  ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(pairs))
            for pairs in (list(zip(line, widths, strict=True)) for line in zip(*used, strict=True))
        )


def costs(network: nn.Module, example_input: Any, compacted: nn.Module | None = None) -> Costs:
    """Counts what a network costs, zeros in place, and beside it its compact form.

    MACs are for one example: half of what `torch.utils.flop_counter.FlopCounterMode` counts in one forward pass in
    evaluation mode, divided by the number of examples. An operation on a layer's weights is counted in that layer's
    row, any other (products of attention) in the row of the module whose forward it happens in. The network is not
    modified; on the meta device, where weights have no values, all count as not zero.

    Args:
        network: The network; weights may be of a sparse layout.
        example_input: A tensor `(n, ...)`, or a tuple of the network's inputs with n examples each; 1 is enough.
        compacted: The compact form of the network, default None; layers are matched by name.

    Returns:
        Rows by layer, and totals.

    Raises:
        ValueError: If the network holds no parameters, has lazy ones, or does not take the example input.
    """
    _check(network)
    macs, tensors = count_macs(network, example_input), _tensors_by_module(network)
    compact_macs: dict[str, Macs] | None = None
    compact_tensors: dict[str, list[_Tensor]] = {}
    if compacted is not None:
        _check(compacted)
        compact_macs, compact_tensors = count_macs(compacted, example_input), _tensors_by_module(compacted)
    # Layers of the original in its order, then those that only the compact network has; the network itself last.
    names = dict.fromkeys([name for name in tensors if tensors[name] or name in macs])
    names |= dict.fromkeys([name for name in compact_tensors if compact_tensors[name] or name in (compact_macs or {})])
    rows: dict[str, CostRow] = {}
    for name in sorted(names, key=lambda name: name == ""):
        rows[name or ("(network)" if tensors[""] else "(functions)")] = _row(
            tensors.get(name, []),
            macs.get(name, _NONE),
            None if compact_macs is None else compact_macs.get(name, _NONE).dense,
            None if compact_macs is None else _parameters(compact_tensors.get(name, [])),
        )
    total = _row(
        _once(tensors),
        Macs(sum(row.dense_macs for row in rows.values()), sum(row.sparse_macs for row in rows.values())),
        None if compact_macs is None else sum(one.dense for one in compact_macs.values()),
        None if compact_macs is None else _parameters(_once(compact_tensors)),
    )
    return Costs(**total.as_dict(), layers=rows)


@dataclass(frozen=True)
class _Tensor:
    """The size of one tensor that a module holds; `csr_bytes` and `nonzero` are those of weights."""

    identity: int
    kind: Literal["weight", "parameter", "buffer"]
    entries: int
    nonzero: int
    dense_bytes: int
    csr_bytes: int


def _tensors_by_module(network: nn.Module) -> dict[str, list[_Tensor]]:
    """Parameters and saved buffers that each module itself holds, by its name."""
    held: dict[str, list[_Tensor]] = {}
    for name, module in network.named_modules():
        weights, saved = dict(own_weights(module)), module.state_dict()
        held[name] = []
        for key, parameter in module.named_parameters(recurse=False):
            held[name].append(_size_of(parameter, "weight" if key in weights else "parameter"))
        for key, buffer in module.named_buffers(recurse=False):
            if key in saved:
                held[name].append(_size_of(buffer, "buffer"))
    return held


def _size_of(tensor: Tensor, kind: Literal["weight", "parameter", "buffer"]) -> _Tensor:
    entries, bytes_each = math.prod(tensor.shape), tensor.element_size()
    if kind != "weight":
        return _Tensor(id(tensor), kind, entries, 0, entries * bytes_each, entries * bytes_each)
    nonzero = count_nonzero(tensor)
    csr_bytes = nonzero * (bytes_each + _INDEX_BYTES) + (tensor.shape[0] + 1) * _INDEX_BYTES
    return _Tensor(id(tensor), kind, entries, nonzero, entries * bytes_each, csr_bytes)


def _once(tensors: dict[str, list[_Tensor]]) -> list[_Tensor]:
    """All tensors of a network, tied ones once."""
    return list({one.identity: one for held in tensors.values() for one in held}.values())


def _parameters(tensors: list[_Tensor]) -> int:
    return sum(one.entries for one in tensors if one.kind != "buffer")


def _row(tensors: list[_Tensor], macs: Macs, compact_macs: int | None, compact_parameters: int | None) -> CostRow:
    return CostRow(
        weights=sum(one.entries for one in tensors if one.kind == "weight"),
        nonzero=sum(one.nonzero for one in tensors),
        parameters=_parameters(tensors),
        compact_parameters=compact_parameters,
        dense_macs=macs.dense,
        sparse_macs=macs.sparse,
        compact_macs=compact_macs,
        dense_bytes=sum(one.dense_bytes for one in tensors),
        csr_bytes=sum(one.csr_bytes for one in tensors),
    )


def _check(network: Any) -> None:
    if not isinstance(network, nn.Module):
        raise ValueError(f"costs takes a network (nn.Module), not a {type(network).__name__}: pass its network")
    parameters = list(network.named_parameters())
    if not parameters:
        raise ValueError("the network holds no parameters, so there is nothing to count: pass one with layers")
    for name, parameter in parameters:
        if is_lazy(parameter):
            raise ValueError(f"{name} is lazy and has no shape yet: call the network once before its costs are counted")
