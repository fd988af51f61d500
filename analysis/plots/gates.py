"""Figure: the way of every unit's gate probability during training."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from bayesprune.analysis.plots.architecture import ARROW
from bayesprune.analysis.plots.short_names import short_names
from bayesprune.analysis.plots.style import COLOURS, POSTERIOR, check_path, finished, new_figure, styled
from bayesprune.analysis.tables.gate_records import gate_records
from bayesprune.inference.fit_result import Fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS = 3
DRAWN = 12
"""At most this many sets of units get a panel; the title names the others."""
LETTERS = 42
"""Of the title on the width of one panel."""
NAME = 28
"""Letters of a name in the title of its panel."""
LAYERS = "layer gates"
KINDS = {False: ("gone", COLOURS[1]), True: ("in the network", POSTERIOR)}
"""Label and colour of the lines, by whether the last gate probability is above 1/2; those that stay lie on top."""


def plot_gates(fit: Fit | xr.Dataset, restart: int = 0, path: str | Path | None = None) -> Figure:
    """Draws the gate probability theta of every unit against the step.

    A panel a set of units, and one for all layer gates where there are any; a line is a unit, coloured by whether it is
    in the network in the end (theta above 1/2 in the last record). Titles say how many units there were at the start
    and how many stay. A vertical line marks the step after which theta was rounded.

    Args:
        fit: The fit, or the trace of one in progress, as `read_trace` reads it.
        restart: Which restart; default the first.
        path: File to write or replace, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.

    Returns:
        The figure. Of more than 12 sets the first 12 are drawn, and the title names the others.

    Raises:
        ValueError: If the fit has no unit gates or no such restart, or the format of the path is unknown.
    """
    check_path(path)
    records = gate_records(fit, restart)
    of_layers = records["is_layer"].values
    names = dict.fromkeys(records["unit_set"].values[~of_layers])
    panels = {str(name): ~of_layers & (records["unit_set"].values == name) for name in names}
    if of_layers.any():
        panels = {LAYERS: of_layers, **panels}
    drawn, omitted = list(panels)[:DRAWN], list(panels)[DRAWN:]
    columns = min(ACROSS, len(drawn))
    title = "Gate probabilities" + restart_title(fit, restart)
    if omitted:
        title = textwrap.fill(f"{title}; not drawn: {', '.join(omitted)}", LETTERS * columns)
    with styled():
        figure, axes = new_figure(math.ceil(len(drawn) / columns), columns, title, sharex=True, sharey=True)
        short = short_names(drawn, NAME)
        for axis, name in zip(axes, drawn, strict=False):
            _lines(axis, short[name], records["gate_step"].values, records["theta"].values[:, panels[name]])
            mark_rounding(axis, records)
        _legend(figure)
        for axis in axes[::columns]:
            axis.set_ylabel("gate probability")
        for axis in axes[len(drawn) - columns : len(drawn)]:  # the lowest of each column
            axis.tick_params(labelbottom=True)
            axis.set_xlabel("step")
        for axis in axes[len(drawn) :]:
            axis.remove()
        return finished(figure, path)


def restart_title(fit: Fit | xr.Dataset, restart: int) -> str:
    """What the title of a figure of one restart says of it: nothing where it is the only one."""
    trace = fit if isinstance(fit, xr.Dataset) else fit.trace
    return f", restart {restart}" if trace.sizes["restart"] > 1 else ""


def mark_rounding(axis: Any, records: xr.Dataset) -> None:
    """Draws a vertical line at the step after which theta was rounded, if it was."""
    step = records.attrs["gate_rounding_step"]
    if step >= 0:
        axis.axvline(step, color="black", lw=0.8, ls=":", label="rounding")


def _lines(axis: Any, name: str, steps: np.ndarray, theta: np.ndarray) -> None:
    """A thin line for each unit of one set."""
    stays = theta[-1] > 0.5
    for kind, (label, shade) in KINDS.items():
        lines = axis.plot(steps, theta[:, stays == kind], color=shade, lw=0.6, alpha=0.7, rasterized=True)
        for line in lines[:1]:
            line.set_label(label)
    axis.set_ylim(-0.03, 1.03)
    axis.set_title(f"{name}, {len(stays)} {ARROW} {stays.sum()}")


def _legend(figure: Figure) -> None:
    """One legend for all panels, below them: inside it would hide lines."""
    found: dict[str, Any] = {}
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    legend = figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=len(found))
    for handle in legend.get_lines():
        handle.set(linewidth=1.3, alpha=1.0)
