"""Figure: what masks did while they were trained: density, movement, dead channels and gradients, over epochs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from bayesprune.analysis.plots.pruning_trace import restart_lines, trace_of
from bayesprune.analysis.plots.short_names import short_names
from bayesprune.analysis.plots.style import (
    PRIOR,
    check_path,
    finished,
    legend_below,
    line_look,
    new_figure,
    styled,
)
from bayesprune.inference.fit_result import Fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LETTERS = 30
"""Of a tensor's name in the legend."""
LABELLED = 6
"""At most this many tensors get a colour and a place in the legend of their own."""
DECADE = 10.0
"""Ratio of the densities from which on their axis is logarithmic."""


def has_masks(trace: xr.Dataset) -> bool:
    """Whether a trace has masks that moved while weights were trained.

    Args:
        trace: The trace.
    """
    return "masks" in trace and "mask_density" in trace and "tensor" in trace["mask_density"].dims


def plot_masks(fit: Fit | xr.Dataset, path: str | Path | None = None) -> Figure:
    """Draws what the masks of sparse training did over epochs, a thin line for each restart.

    Panels: the density of every tensor and of the network; movement: the overlap of the masks with those of the epoch
    before and with the first ones (Jaccard), and the share of all weights that were ever active; the share of dead
    output channels of every tensor, through which no path from input to output leads (without an active weight, where
    paths are not known); and the Euclidean norm of the dense gradient of every tensor at the latest update, where
    weights grow by it. Where a tensor has lost its last path a cross is in the third panel.

    Args:
        fit: The fit, or the trace of one in progress, as `read_trace` reads it.
        path: File to write or replace, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.

    Returns:
        The figure.

    Raises:
        ValueError: If the fit has no such masks, the format of the path is unknown, or a data set is no trace that
            `read_trace` reads.
    """
    check_path(path)
    trace = trace_of(fit)
    if not has_masks(trace):
        raise ValueError(
            "this fit has no masks that were trained to draw: plot_pruning_trace draws any fit, and "
            "rules=[DynamicMasks(density=0.05)] trains masks"
        )
    panels: list[Callable[[Any, xr.Dataset], None]] = [_densities, _movement, _dead]
    if bool(trace["gradient_norm"].notnull().any()):
        panels.append(_gradients)
    restarts = trace.sizes["restart"]
    with styled():
        title = "Masks during training" + (f", {restarts} restarts" if restarts > 1 else "")
        columns = 2 if len(panels) == 4 else 3
        figure, axes = new_figure(-(-len(panels) // columns), columns, title)
        for axis, draw in zip(axes, panels, strict=True):
            axis.set_xlabel("epoch")
            draw(axis, trace)
            axis.xaxis.get_major_locator().set_params(integer=True)
            if trace.sizes["epoch"] == 1:
                axis.set_xticks(trace.epoch.values)
            legend_below(axis)
        return finished(figure, path)


def _looks(trace: xr.Dataset) -> dict[str, tuple[str, dict[str, Any]]]:
    """Label and look of the line of each tensor with a mask."""
    has = trace["mask_density"].notnull().any(("restart", "epoch")).values
    names = [str(name) for name, masked in zip(trace.tensor.values, has, strict=True) if masked]
    if len(names) > LABELLED:
        return {name: ("_" if number else "each tensor", {"color": PRIOR}) for number, name in enumerate(names)}
    short = short_names(names, LETTERS)
    return {name: (short[name], line_look(number)) for number, name in enumerate(names)}


def _of_all(trace: xr.Dataset, key: str) -> xr.DataArray:
    return trace["masks"].sel(masks_name=key, drop=True)


def _by_tensor(axis: Any, trace: xr.Dataset, values: xr.DataArray, labelled: bool) -> None:
    """A line a tensor; of many, what lies behind the network's."""
    for name, (label, look) in _looks(trace).items():
        restart_lines(axis, values.sel(tensor=name, drop=True), label if labelled else "_", **look)


def _densities(axis: Any, trace: xr.Dataset) -> None:
    """Colours are those of all panels, and their legend is here."""
    _by_tensor(axis, trace, trace["mask_density"], labelled=True)
    restart_lines(axis, _of_all(trace, "density"), "network", color="black", ls=":", lw=1.8)
    values = trace["mask_density"].values
    if np.nanmax(values) > DECADE * np.nanmin(values):
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0.0)
    axis.set_ylabel("share of weights active")
    axis.set_title("Density")


def _movement(axis: Any, trace: xr.Dataset) -> None:
    for number, (key, label) in enumerate(
        (
            ("overlap", "overlap, epoch before"),
            ("first_overlap", "overlap, first masks"),
            ("ever_active", "ever active"),
        )
    ):
        restart_lines(axis, _of_all(trace, key), label, **line_look(number))
    axis.set_ylim(-0.03, 1.03)
    axis.set_ylabel("share")
    axis.set_title("Movement")


def _dead(axis: Any, trace: xr.Dataset) -> None:
    """Effectively dead channels, where they are known."""
    known = bool(trace["effectively_dead_outputs"].notnull().any())
    shares = trace["effectively_dead_outputs" if known else "dead_outputs"]
    _by_tensor(axis, trace, shares, labelled=False)
    label = "no path is left"
    for name, (_, look) in _looks(trace).items():
        density = trace["effective_density"].sel(tensor=name, drop=True)
        for row in density.transpose("restart", "epoch"):
            cut = row.epoch.values[row.values == 0.0]
            if len(cut):
                axis.plot(cut[:1], [1.0], "x", color=look["color"], label=label, clip_on=False, zorder=5)
                label = "_"
    axis.set_ylim(-0.03, 1.03)
    axis.set_ylabel("share of output channels" if known else "share without a weight")
    axis.set_title("Dead channels")


def _gradients(axis: Any, trace: xr.Dataset) -> None:
    """Over all places, and of few tensors those over active places as thin dots."""
    looks = _looks(trace)
    positive = trace["gradient_norm"].where(trace["gradient_norm"] > 0.0)
    _by_tensor(axis, trace, positive, labelled=False)
    if len(looks) <= LABELLED:
        active = trace["active_gradient_norm"].where(trace["active_gradient_norm"] > 0.0)
        label = "over active weights"
        for name, (_, look) in looks.items():
            how = {"color": look["color"], "ls": "none", "marker": ".", "markersize": 3}
            for row in active.sel(tensor=name, drop=True).transpose("restart", "epoch"):
                axis.plot(row.epoch.values, row.values, label=label, **how)
                label = "_"
    if bool(positive.notnull().any()):
        axis.set_yscale("log")
    axis.set_ylabel("norm (nats per example)")
    axis.set_title("Gradient at the latest update")
