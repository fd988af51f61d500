"""Figure: how units and operations went while the network was trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from bayesprune.analysis.plots.gates import mark_rounding, restart_title
from bayesprune.analysis.plots.short_names import short_names
from bayesprune.analysis.plots.style import (
    COLOURS,
    POSTERIOR,
    PRIOR,
    check_path,
    finished,
    legend_below,
    line_look,
    new_figure,
    styled,
)
from bayesprune.analysis.tables.gate_records import gate_records
from bayesprune.inference.fit_result import Fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELLED = 6
"""At most this many sets of units get a colour and a place in the legend of their own."""
LETTERS = 44
"""Of the name of a set in the legend."""
PANEL = (4.2, 3.4)


def plot_units(fit: Fit | xr.Dataset, restart: int = 0, path: str | Path | None = None) -> Figure:
    """Draws which share of the units, and of the operations, is left at each step of training.

    The left panel has the units that are physically in the network, by set and in all, and with layer gates the
    residual branches whose gate probability is not zero, as shares of those at the start. The right panel has
    multiply-accumulate operations (MACs) of one example as shares of those of the whole network: expected under the
    gate probabilities, and of the network as it was at that step.

    Args:
        fit: The fit, or the trace of one in progress, as `read_trace` reads it.
        restart: Which restart; default the first.
        path: File to write or replace, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.

    Returns:
        The figure.

    Raises:
        ValueError: If the fit has no unit gates or no such restart, or the format of the path is unknown.
    """
    check_path(path)
    records = gate_records(fit, restart)
    with styled():
        figure, (left, right) = new_figure(1, 2, "Units and MACs left" + restart_title(fit, restart), PANEL)
        _units(left, records)
        _macs(right, records)
        for axis in (left, right):
            mark_rounding(axis, records)
            axis.set_ylim(-0.03, 1.05)
            axis.set_xlabel("step")
            legend_below(axis)
        return finished(figure, path)


def _units(axis: Any, records: xr.Dataset) -> None:
    """Steps down for each set, the whole network, and residual branches."""
    units, names = records["units_left"].values, records["unit_group"].values
    few = len(names) <= LABELLED
    short = short_names(map(str, names), LETTERS)
    for number, name in enumerate(names):
        label = short[str(name)] if few else ("each set" if number == 0 else None)
        look = line_look(number) if few else {"color": PRIOR}
        _steps(axis, records, units[:, number], label, lw=1.3 if few else 0.7, **look)
    if len(names) > 1:
        _steps(axis, records, units.sum(axis=1), "all units", color="black", ls=":", lw=1.8)
    branches = records["theta"].values[:, records["is_layer"].values] > 0.0
    if branches.size:
        _steps(axis, records, branches.sum(axis=1), "residual branches", color="black", ls="-.")
    axis.set_ylabel("share of the start")
    axis.set_title("Units in the network")


def _steps(axis: Any, records: xr.Dataset, counts: np.ndarray, label: str | None, **how: Any) -> None:
    """Counts as shares of the first; what was recorded holds until the next record."""
    axis.plot(records["gate_step"].values, counts / counts[0], drawstyle="steps-post", label=label, **how)


def _macs(axis: Any, records: xr.Dataset) -> None:
    steps, whole = records["gate_step"].values, records.attrs["dense_macs"]
    axis.plot(steps, records["expected_macs"].values / whole, color=COLOURS[1], label="expected under the gates")
    axis.plot(
        steps,
        records["realised_macs"].values / whole,
        color=POSTERIOR,
        drawstyle="steps-post",
        label="of the network as it is",
    )
    axis.set_ylabel("share of the whole network")
    axis.set_title("MACs of one example")
