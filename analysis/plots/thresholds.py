"""Figure: learned thresholds, what they left, and what drew them up, over training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from bayesprune.analysis.plots.pruning_trace import restart_lines, trace_of
from bayesprune.analysis.plots.short_names import short_names
from bayesprune.analysis.plots.style import (
    COLOURS,
    PRIOR,
    check_path,
    finished,
    legend_below,
    line_look,
    new_figure,
    styled,
)
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.rules.budget import Budget
from bayesprune.inference.rules.thresholds import Thresholds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LETTERS = 30
"""Of a tensor's name in the legend."""
LABELLED = 6
"""At most this many tensors get a colour and a place in the legend of their own."""
LOWEST = 1e-5
"""Share of the largest threshold below which none is drawn: there it is zero in effect."""
HIGHEST_BOTTOM = 0.1
"""Where the axis of densities begins at most."""
Ends = Mapping[tuple[int, str], Mapping[str, float]]
"""Where thresholds ended, by restart and tensor."""
LANDED = 1e-3
"""Relative difference between the end and the last epoch from which on both are drawn."""


def has_thresholds(trace: xr.Dataset) -> bool:
    """Whether a trace has learned thresholds to draw.

    Args:
        trace: The trace.
    """
    return "threshold" in trace and "tensor" in trace["threshold"].dims


def plot_thresholds(fit: Fit | xr.Dataset, path: str | Path | None = None) -> Figure:
    """Draws learned thresholds and densities over epochs, a thin line for each restart.

    Panels: the threshold of every tensor, of several of one tensor the median and, of the first restart, a band from
    the 5 % to the 95 % quantile, on a logarithmic axis that leaves out those below 1e-5 of the largest, which are
    asleep (s itself, where all are zero); the density of every tensor and of the network, with the target of a budget
    where there was one, and a cross where nothing was left of a tensor; and what the budget multiplied its knob by, if
    it moved it. Open circles are where a fit ended after the last correction of its budget, which comes after the last
    epoch.

    Args:
        fit: The fit, or the trace of one in progress, as `read_trace` reads it.
        path: File to write or replace, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.

    Returns:
        The figure.

    Raises:
        ValueError: If the fit has no learned thresholds, the format of the path is unknown, or a data set is no trace
            that `read_trace` reads.
    """
    check_path(path)
    trace = trace_of(fit)
    if not has_thresholds(trace):
        raise ValueError(
            "this fit has no learned thresholds to draw: plot_pruning_trace draws any, and a prior such as "
            "SoftThreshold() learns thresholds"
        )
    ends = {} if isinstance(fit, xr.Dataset) else _ends(fit)
    target = _of_budget(trace, "target")
    if not isinstance(fit, xr.Dataset) and not _is_of_density(fit):
        target = None
    panels: list[Callable[[Any], None]] = [
        lambda axis: _thresholds(axis, trace, ends),
        lambda axis: _densities(axis, trace, ends, target),
    ]
    knobs = _knobs(trace)
    if any(bool((knob.dropna("epoch") != 1.0).any()) for knob in knobs.values()):
        panels.append(lambda axis: _moved(axis, knobs))
    restarts = trace.sizes["restart"]
    with styled():
        title = "Learned thresholds" + (f", {restarts} restarts" if restarts > 1 else "")
        figure, axes = new_figure(1, len(panels), title)
        for axis, draw in zip(axes, panels, strict=True):
            axis.set_xlabel("epoch")
            draw(axis)
            axis.xaxis.get_major_locator().set_params(integer=True)
            if trace.sizes["epoch"] == 1:
                axis.set_xticks(trace.epoch.values)
            legend_below(axis)
        return finished(figure, path)


def _tensors(trace: xr.Dataset) -> list[str]:
    """Names of the tensors with thresholds."""
    return [str(name) for name in trace.tensor.values if bool(trace["threshold"].sel(tensor=name).notnull().any())]


def _looks(names: list[str]) -> dict[str, tuple[str | None, dict[str, Any]]]:
    """Label and look of each tensor's line."""
    if len(names) > LABELLED:
        return {name: (None if number else "each tensor", {"color": PRIOR}) for number, name in enumerate(names)}
    short = short_names(names, LETTERS)
    return {name: (short[name], line_look(number)) for number, name in enumerate(names)}


def _thresholds(axis: Any, trace: xr.Dataset, ends: Ends) -> None:
    """The thresholds, or s where all of them round to zero."""
    looks = _looks(_tensors(trace))
    floor = LOWEST * float(np.nanmax(trace["threshold"].values))
    values = trace["threshold"] if floor > 0.0 else trace["threshold_s"]
    for name, (label, look) in looks.items():
        one = values.sel(tensor=name, drop=True)
        restart_lines(axis, one.where(one > floor) if floor > 0.0 else one, label or "_", **look)
        if floor > 0.0 and "threshold_low" in trace and len(looks) <= LABELLED:
            low, high = (
                trace[f"threshold_{end}"].sel(tensor=name).isel(restart=0).clip(floor).values for end in ("low", "high")
            )
            axis.fill_between(trace.epoch.values, low, high, color=look["color"], alpha=0.2, lw=0)
    _marks(axis, values, ends, str(values.name), looks)
    axis.set_yscale("log" if floor > 0.0 else "linear")
    axis.set_ylabel("threshold of |raw|" if floor > 0.0 else "s")
    axis.set_title("Thresholds" if floor > 0.0 else "s: all thresholds are zero")


def _densities(axis: Any, trace: xr.Dataset, ends: Ends, target: xr.DataArray | None) -> None:
    """Colours are those of the thresholds, whose legend names the tensors."""
    looks, densities = _looks(_tensors(trace)), 1.0 - trace["sparsity"]
    for name, (_, look) in looks.items():
        one = densities.sel(tensor=name, drop=True)
        restart_lines(axis, one.where(one > 0.0), "_", **look)
    if trace.sizes["tensor"] > 1:
        whole = 1.0 - trace["network_sparsity"]
        restart_lines(axis, whole.where(whole > 0.0), "network", color="black", ls=":", lw=1.8)
    if target is not None:
        restart_lines(axis, target.isel(restart=[0]), "target of the budget", color="black", lw=0.7)
    _marks(axis, densities, ends, "density", looks)
    axis.set_yscale("log")
    bottom = min(axis.get_ylim()[0], HIGHEST_BOTTOM)
    axis.set_ylim(bottom, 1.15)
    axis.set_ylabel("share of weights left")
    axis.set_title("Density")
    label = "nothing left"
    for name, (_, look) in looks.items():
        for row in densities.sel(tensor=name, drop=True).transpose("restart", "epoch"):
            empty = row.epoch.values[row.values == 0.0]
            if len(empty):
                axis.plot(empty[:1], [bottom], "x", color=look["color"], label=label, clip_on=False, zorder=5)
                label = "_"


def _moved(axis: Any, knobs: Mapping[str, xr.DataArray]) -> None:
    """One line, or those of a budget by layer, with the names of their knobs."""
    for number, (name, knob) in enumerate(knobs.items()):
        look = line_look(number) if 1 < len(knobs) <= LABELLED else {"color": COLOURS[3]}
        restart_lines(axis, knob, name if 1 < len(knobs) <= LABELLED else "_", **look)
    axis.set_yscale("log")
    axis.set_ylabel("factor on the prior's knob")
    axis.set_title("What the budget moved")


def _marks(axis: Any, values: xr.DataArray, ends: Ends, key: str, looks: Mapping[str, Any]) -> None:
    """Where restarts ended, of those that ended elsewhere than in their last epoch."""
    label = "at the end"
    for (number, name), end in ends.items():
        row = values.sel(tensor=name).isel(restart=number).dropna("epoch")
        there = end.get(key, 0.0)
        if there != 0.0 and abs(there - float(row[-1])) > LANDED * abs(there):
            axis.plot(
                row.epoch.values[-1:], [there], "o", mfc="none", ms=4, color=looks[name][1]["color"], label=label
            )  # fmt: skip
            label = "_"


def _ends(fit: Fit) -> Ends:
    """Where thresholds and densities ended, by restart and tensor."""
    told = fit.settings.get(Thresholds.name) or []
    return {(number, name): end for number, one in enumerate(told) for name, end in one["tensors"].items()}


def _is_of_density(fit: Fit) -> bool:
    told = fit.settings.get(Budget.name) or []
    return bool(told) and told[0]["kind"] == "density"


def _knobs(trace: xr.Dataset) -> dict[str, xr.DataArray]:
    """Factors on the knobs of a budget, by the name of each where there are several."""
    names = [str(name) for name in trace["budget_name"].values] if "budget" in trace else []
    moved = [name for name in names if name == "knob" or name.startswith("knob ")]
    return {name.removeprefix("knob "): trace["budget"].sel(budget_name=name, drop=True) for name in moved}


def _of_budget(trace: xr.Dataset, key: str) -> xr.DataArray | None:
    """What a budget recorded; None where there was none."""
    if "budget" not in trace or key not in trace["budget_name"].values:
        return None
    return trace["budget"].sel(budget_name=key, drop=True)
