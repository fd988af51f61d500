"""Figure: the network before and after pruning, layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from bayesprune.analysis.plots.short_names import short_names
from bayesprune.analysis.plots.style import (
    COLOURS,
    POSTERIOR,
    PRIOR,
    check_path,
    finished,
    legend_below,
    new_figure,
    styled,
)
from bayesprune.inference.pruning.prune import PruneResult
from bayesprune.models.tracing.not_followed import NotFollowedError
from bayesprune.models.units.architecture import layer_sizes, notation
from bayesprune.models.units.compact import CompactResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST = 8
"""Networks of more layers are not written out as a row of widths."""
LETTERS = 26
"""Of a layer's name."""
ARROW = "\N{RIGHTWARDS ARROW}"


@dataclass(frozen=True)
class _Layer:
    """A layer's width and weights, before pruning and after removal; `used` counts inputs that are read."""

    name: str
    inputs: int
    used: int
    units: tuple[int, int]
    weights: tuple[int, int, int]


def plot_architecture(result: PruneResult | CompactResult, path: str | Path | None = None) -> Figure:
    """Draws units and weights of each linear layer and convolution, before pruning and after the removal of dead units.

    The title has the widths in the notation of `bayesprune.models.units.architecture.architecture`, ``784-300-100-10``;
    networks of more than 8 layers, or of a form that it lists, are not written out. Inputs cannot be removed; the
    subtitle says how many are still read. Weights are those of the dense layer, those that are not zero, and those that
    the compact layer stores.

    Args:
        result: A pruned network, which is compacted for this, or a compact one.
        path: File to write or replace, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.

    Returns:
        The figure.

    Raises:
        ValueError: As `PruneResult.compact` does; if there is no linear layer or convolution; or if the format of the
            path is unknown.
    """
    check_path(path)
    try:
        compacted = result.compact() if isinstance(result, PruneResult) else result
    except NotFollowedError as problem:
        raise problem.otherwise('pass result.compact(unknown="keep")') from problem
    layers = _layers(compacted)
    if not layers:
        raise ValueError("the network has no linear layer and no convolution, so there are no widths to draw")
    with styled():
        panel = (3.8, 0.42 * len(layers) + 1.8)
        figure, (left, right) = new_figure(1, 2, _title(layers, compacted), panel, sharey=True)
        units = np.array([layer.units for layer in layers])
        weights = np.array([layer.weights for layer in layers])
        _bars(left, units, ("before", "left"), (PRIOR, POSTERIOR))
        _bars(right, weights, ("before", "not zero", "stored, compact"), (PRIOR, COLOURS[1], POSTERIOR))
        for axis, what in ((left, "units"), (right, "weights")):
            axis.set_xlabel(what)
            legend_below(axis)
        right.set_xscale("log")
        right.set_xlim(0.7, 8.0 * weights.max())  # room for the numbers
        names = [layer.name for layer in layers]
        left.set_yticks(range(len(layers)), list(map(short_names(names, LETTERS).get, names)))
        left.set_ylim(len(layers) - 0.5, -0.5)
        return finished(figure, path)


def _layers(result: CompactResult) -> list[_Layer]:
    """The layers of a compact network with the sizes that they had, in the order of the modules."""
    found = []
    then, sizes = (layer_sizes(result.network, shapes) for shapes in (_shapes(result), None))
    for name, module in result.network.named_modules():
        if not isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            continue
        now = module.weight.detach()
        before = _shapes(result).get(f"{name}.weight", list(now.shape))
        if getattr(module, "transposed", False):  # inputs come first
            reads = (now != 0).flatten(1).any(dim=1)
        else:
            groups = getattr(module, "groups", 1)
            reads = (now != 0).reshape(groups, -1, now.shape[1], now[0, 0].numel()).any(dim=3).any(dim=1)
        found.append(
            _Layer(
                name or type(module).__name__,
                then[name][0],
                int(reads.sum()),
                (then[name][1], sizes[name][1]),
                (math.prod(before), int(torch.count_nonzero(now)), now.numel()),
            )
        )
    return found


def _shapes(result: CompactResult) -> dict[str, list[int]]:
    """Shapes that tensors had before they were cut, by name."""
    return {name: entry["shape"] for name, entry in result.plan["tensors"].items()}


def _title(layers: list[_Layer], result: CompactResult) -> str:
    report = result.report
    counts = f"{report.parameters_before:,} {ARROW} {report.parameters_after:,} parameters"
    first = layers[0]
    before, after = (
        notation(result.network, layer_sizes(result.network, shapes)) for shapes in (_shapes(result), None)
    )
    if len(layers) > LONGEST or "," in after:
        return f"{len(layers)} layers, {counts}"
    return f"{before} {ARROW} {after}, {counts}\n{first.used} of {first.inputs} inputs are read"


def _bars(axis: Any, counts: np.ndarray, labels: tuple[str, ...], colours: tuple[str, ...]) -> None:
    """Bars of one layer side by side, the number at the end of each."""
    thickness = 0.8 / len(labels)
    for column, (label, shade) in enumerate(zip(labels, colours, strict=True)):
        rows = np.arange(len(counts)) + (column - (len(labels) - 1) / 2) * thickness
        bars = axis.barh(rows, counts[:, column], height=thickness, color=shade, label=label)
        axis.bar_label(bars, [f"{count:,}" for count in counts[:, column]], fontsize=7, padding=2)
    axis.margins(x=0.15)
