"""Figure: the way that gates and scales took during training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from scipy.special import expit

from bayesprune.analysis.plots.pruning_trace import trace_of
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
from bayesprune.models.checks.given_numbers import restart_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS = 3
LETTERS = 34
"""Of a name in a legend or a title."""
LABELLED = 6
"""At most this many lines of a panel, or tensors with a panel of bands, get a colour and a name of their own."""
BANDS = ((0.05, 0.95), (0.25, 0.75))
"""Quantiles over weights between which the bands lie, the wide one first."""


@dataclass(frozen=True, eq=False)
class Kind:
    """Quantities of a trace that share a panel; see `bayesprune.inference.watching.pruning_trace.scale_record`.

    Attributes:
        title: Of the panel.
        label: Of its axis.
        prefixes: How the names of the quantities begin, and what their labels end in.
        transform: From what is recorded to what is drawn.
        axis: ``"linear"`` or ``"log"``.
        unit: Whether the values lie between 0 and 1.
    """

    title: str
    label: str
    prefixes: dict[str, str]
    transform: Callable[[np.ndarray], np.ndarray] = np.asarray
    axis: str = "linear"
    unit: bool = False


KINDS = (
    # "mean " is looked for last: it begins other names too.
    Kind("Scales", "scale", {"log ": "", "mean log ": ", geometric mean"}, np.exp, "log"),
    Kind("Latents in (0, 1)", "value", {"logit ": "", "mean logit ": ", at the mean logit"}, expit, unit=True),
    Kind("Root mean squares", "root mean square", {"rms ": ""}),
    Kind("Mean inclusion of gates", "inclusion probability", {"mean ": ""}, unit=True),
)


def plot_trajectories(
    fit: Fit | xr.Dataset, tensors: str | Sequence[str] | None = None, restart: int = 0, path: str | Path | None = None
) -> Figure:
    """Draws how inclusion probabilities and scales moved during training.

    Panels, those that the prior has: the mean inclusion probability of each site of gates; each recorded scale, of
    large sites the geometric mean; latents between 0 and 1; the root mean square of large real sites, such as the
    weights; and for each tensor with gates the median over its weights and the bands that hold 50 % and 90 % of them,
    read off the histogram of each epoch (uniform within a bin, so good to a twentieth). A line is one restart; bands
    are of one restart.

    Args:
        fit: The fit, or the trace of one in progress, as `read_trace` reads it.
        tensors: A tensor or several that get a panel of bands; default None: the first six with gates.
        restart: Whose bands; default the first.
        path: File to write or replace, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.

    Returns:
        The figure.

    Raises:
        ValueError: If the trace has neither gates nor scales; for a tensor without gates or a restart that does not
            exist; or a path whose format is unknown.
    """
    check_path(path)
    trace = trace_of(fit)
    restart = restart_number(restart, trace.sizes["restart"])
    gated = [str(name) for name in trace.gated_tensor.values] if "inclusion_histogram" in trace else []
    banded = gated[:LABELLED] if tensors is None else [tensors] if isinstance(tensors, str) else list(tensors)
    for name in banded:
        if name not in gated:
            known = f"there are {', '.join(gated)}" if gated else "the prior has no gates"
            raise ValueError(f"there is no tensor {name!r} whose gates the trace holds: {known}")
    lines = recorded_kinds(trace)
    if not lines:
        raise ValueError("the trace of this fit holds neither gates nor scales: use plot_pruning_trace")
    panels = len(lines) + len(banded)
    columns = min(ACROSS, panels)
    restarts = trace.sizes["restart"]
    title = "Trajectories" + (f", {restarts} restarts" if restarts > 1 else "")
    with styled():
        figure, axes = new_figure(math.ceil(panels / columns), columns, title)
        for axis, (kind, names) in zip(axes, lines.items(), strict=False):
            _lines(axis, trace, kind, names)
        short = short_names(banded, LETTERS - 8)  # the restart follows
        for axis, name in zip(axes[len(lines) :], banded, strict=False):
            _bands(axis, trace, name, short[name], restart)
        if banded:
            legend_below(axes[len(lines)])
        for axis in axes[panels:]:
            axis.remove()
        return finished(figure, path)


def recorded_kinds(trace: xr.Dataset) -> dict[Kind, list[str]]:
    """The quantities of a trace that can be drawn, by kind; kinds without any are left out."""
    found: dict[Kind, list[str]] = {kind: [] for kind in KINDS}
    for name in map(str, trace.quantity.values):
        for kind in KINDS:
            if name.startswith(tuple(kind.prefixes)):
                found[kind].append(name)
                break
    return {kind: names for kind, names in found.items() if names}


def _lines(axis: Any, trace: xr.Dataset, kind: Kind, names: Sequence[str]) -> None:
    """A line for each quantity and restart, over steps."""
    few = len(names) <= LABELLED
    labels = {}
    for name in names:
        prefix = next(prefix for prefix in kind.prefixes if name.startswith(prefix))
        labels[name] = name.removeprefix(prefix) + kind.prefixes[prefix]
    short = short_names(labels.values(), LETTERS)
    for number, name in enumerate(names):
        label = short[labels[name]] if few else f"each of {len(names)}"
        for restart in range(trace.sizes["restart"]):
            values = kind.transform(trace["scales"].sel(quantity=name).isel(restart=restart).values)
            axis.plot(
                trace["iterate_step"].isel(restart=restart).values,
                values,
                **(line_look(number) if few else {"color": PRIOR}),
                lw=1.1 if few else 0.6,
                marker="o" if np.isfinite(values).sum() == 1 else None,
                markersize=3,
                label=label if restart == 0 and (few or number == 0) else None,
            )
    if kind.unit:
        axis.set_ylim(-0.03, 1.03)
    axis.set_yscale(kind.axis)
    axis.set_ylabel(kind.label)
    axis.set_title(kind.title)
    axis.set_xlabel("step")
    legend_below(axis)


def _bands(axis: Any, trace: xr.Dataset, name: str, title: str, restart: int) -> None:
    """Median and quantile bands over a tensor's weights, by epoch."""
    counts = trace["inclusion_histogram"].isel(restart=restart).sel(gated_tensor=name).dropna("epoch", how="all")
    counts = counts.transpose("epoch", "bin")
    epochs = counts.epoch.values
    for number, (low, high) in enumerate(BANDS):
        ends = [_quantile(counts.values, end) for end in (low, high)]
        label = f"{high - low:.0%} of the weights"
        axis.fill_between(epochs, *ends, color=COLOURS[0], alpha=(0.2, 0.4)[number], lw=0, label=label)
    axis.plot(
        epochs,
        _quantile(counts.values, 0.5),
        color=COLOURS[0],
        marker="o" if len(epochs) == 1 else None,
        markersize=3,
        label="median",
    )
    axis.set_ylim(-0.03, 1.03)
    axis.set_ylabel("inclusion probability")
    axis.set_xlabel("epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)
    if len(epochs) == 1:
        axis.set_xticks(epochs)
    axis.set_title(title + (f", restart {restart}" if trace.sizes["restart"] > 1 else ""))


def _quantile(counts: np.ndarray, share: float) -> np.ndarray:
    """Quantile of each row of a histogram over [0, 1] of equal bins, uniform within a bin."""
    edges = np.linspace(0.0, 1.0, counts.shape[1] + 1)
    below = np.concatenate([np.zeros((len(counts), 1)), counts.cumsum(axis=1)], axis=1) / counts.sum(axis=1)[:, None]
    return np.array([np.interp(share, row, edges) for row in below])
