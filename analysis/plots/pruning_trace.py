"""Figure: how objective, scores, sparsity and inclusion moved during training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from bayesprune.analysis.plots.short_names import short_names
from bayesprune.analysis.plots.style import (
    COLOURS,
    SEQUENTIAL,
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


def plot_pruning_trace(fit: Fit | xr.Dataset, path: str | Path | None = None) -> Figure:
    """Draws the pruning trace over epochs, a thin line for each restart.

    Panels: the two parts of the negative ELBO per datum; the first validation score, where there was
    validation data; sparsity of every tensor and of the network, or the share of weights near zero where a prior has
    no atom; and for priors with gates the histogram of
    the inclusion probabilities of all weights in the first restart, else the weight of the KL term and the
    learning rate.

    Args:
        fit: The fit, or the trace of one in progress, as `read_trace` reads it.
        path: File to write or replace, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.

    Returns:
        The figure.

    Raises:
        ValueError: If the format of the path is unknown, or a data set is no trace that `read_trace` reads.
    """
    check_path(path)
    trace = trace_of(fit)
    scores = [str(name) for name in trace.data_vars if str(name).startswith("validation_")]
    panels = [_objective, *([_score] if scores else []), _sparsity]
    panels.append(_histogram if "inclusion_histogram" in trace else _schedules)
    restarts = trace.sizes["restart"]
    title = "Pruning trace" + (f", {restarts} restarts" if restarts > 1 else "")
    with styled():
        columns = 2 if len(panels) == 4 else 3
        figure, axes = new_figure(-(-len(panels) // columns), columns, title)
        for axis, draw in zip(axes, panels, strict=True):
            axis.set_xlabel("epoch")
            draw(figure, axis, trace)
            axis.xaxis.get_major_locator().set_params(integer=True)
            if trace.sizes["epoch"] == 1:
                axis.set_xticks(trace.epoch.values)
        return finished(figure, path)


def trace_of(fit: Fit | xr.Dataset) -> xr.Dataset:
    """The trace of a fit, or one that was read, with ``data_size`` and ``is_map`` among its attributes.

    Raises:
        ValueError: If a trace lacks these attributes.
    """
    if isinstance(fit, xr.Dataset):
        if not {"data_size", "is_map"} <= set(fit.attrs):
            raise ValueError("this trace does not say whose it is: pass the fit, or what read_trace reads")
        return fit
    return fit.trace.assign_attrs(data_size=fit.model.data_size, is_map=int(fit.guide.is_map))


def restart_lines(axis: Any, values: xr.DataArray, label: str, **how: Any) -> None:
    """One line a restart, the first with the label; a single epoch gets a mark."""
    for number, row in enumerate(values.transpose("restart", "epoch").values):
        mark = "o" if np.isfinite(row).sum() == 1 else None
        axis.plot(
            values.epoch.values,
            row,
            marker=mark,
            markersize=3,
            label=None if number else label,
            **{"lw": 1.3 if len(values.restart) == 1 else 0.9, **how},
        )  # fmt: skip


def _objective(figure: Any, axis: Any, trace: xr.Dataset) -> None:
    size, is_map = trace.attrs["data_size"], bool(trace.attrs["is_map"])
    restart_lines(
        axis,
        -trace["expected_log_likelihood"] / size,
        "\N{MINUS SIGN}log-likelihood" if is_map else "\N{MINUS SIGN}E[log-likelihood]",
        **line_look(0),
    )
    restart_lines(axis, trace["kl"] / size, "\N{MINUS SIGN}log prior" if is_map else "KL", **line_look(1))
    axis.set_ylabel("nats per datum")
    axis.set_title("Minus log joint, its two parts" if is_map else "Negative ELBO, its two parts")
    values = np.concatenate([(trace[k] / size).values.ravel() for k in ("expected_log_likelihood", "kl")])
    values = np.abs(values[np.isfinite(values)])
    if not is_map and values.min() > 0 and values.max() > 10 * np.median(values):
        axis.set_yscale("log")
    legend_below(axis)


def _score(figure: Any, axis: Any, trace: xr.Dataset) -> None:
    name = next(str(n) for n in trace.data_vars if str(n).startswith("validation_"))
    restart_lines(axis, trace[name], name, color=COLOURS[2])
    score = name.removeprefix("validation_")
    axis.set_title(f"Validation {'NLL' if score == 'nll' else score}")
    axis.set_ylabel("nats per example" if score == "nll" else "RMSE" if score == "rmse" else f"{score} (fraction)")


def _sparsity(figure: Any, axis: Any, trace: xr.Dataset) -> None:
    """The fraction of zeros of each tensor; of those whose prior has no atom the share of weights near zero."""
    tensors = [str(name) for name in trace.tensor.values]
    short = short_names(tensors, LETTERS)
    near: set[str] = set()
    if "near_zero" in trace:
        near = {name for name in tensors if bool(trace["near_zero"].sel(tensor=name).notnull().any())}
    for number, name in enumerate(tensors):
        few = len(tensors) <= LABELLED
        look = line_look(number) if few else {"color": "#B0B0B0"}
        label = short[name] if few else ("each tensor" if number == 0 else "_")
        restart_lines(
            axis, trace["near_zero" if name in near else "sparsity"].sel(tensor=name, drop=True), label, **look
        )
    if len(tensors) > 1:
        whole = trace["network_near_zero" if near else "network_sparsity"]
        restart_lines(axis, whole, "network", color="black", ls=":", lw=1.8)
    axis.set_ylim(-0.03, 1.03)
    if not near:
        axis.set_ylabel("fraction of zeros")
    else:
        axis.set_ylabel(f"{'share' if len(near) == len(tensors) else 'zeros, or'} near zero (< 0.1 rms)")
    axis.set_title("Near zero" if len(near) == len(tensors) else "Sparsity")
    legend_below(axis)


def _histogram(figure: Any, axis: Any, trace: xr.Dataset) -> None:
    counts = trace["inclusion_histogram"].isel(restart=0).sum("gated_tensor", skipna=False).dropna("epoch")
    shares = (counts / counts.isel(epoch=0).sum()).transpose("bin", "epoch").values
    from matplotlib.colors import LogNorm

    epochs = counts.epoch.values
    image = axis.imshow(
        np.where(shares > 0, shares, np.nan),
        cmap=SEQUENTIAL,
        norm=LogNorm(vmin=min(shares[shares > 0].min(), 0.1), vmax=1.0),
        origin="lower",
        aspect="auto",
        extent=(epochs[0] - 0.5, epochs[-1] + 0.5, 0.0, 1.0),
        interpolation="nearest",
    )  # fmt: skip
    axis.set_ylabel("inclusion probability")
    axis.set_title("Inclusion" + (", restart 0" if trace.sizes["restart"] > 1 else ""))
    figure.colorbar(image, ax=axis, label="share of weights")


def _schedules(figure: Any, axis: Any, trace: xr.Dataset) -> None:
    rates = trace["learning_rate"].isel(restart=[0])
    restart_lines(axis, trace["kl_weight"].isel(restart=[0]), "weight of the KL term", color=COLOURS[3])
    restart_lines(
        axis, rates / float(rates.max()), f"learning rate / {float(rates.max()):.2g}", color=COLOURS[4], ls="--"
    )
    axis.set_ylim(bottom=-0.03)
    axis.set_ylabel("factor")
    axis.set_title("Schedules")
    legend_below(axis)
