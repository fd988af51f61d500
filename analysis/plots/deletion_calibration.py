"""Figure: does an inclusion probability predict what deleting does to the held-out loss?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesprune.analysis.deletion.deletion_calibration import DeletionCalibration
from bayesprune.analysis.deletion.rank_correlations import ALL, CEILING
from bayesprune.analysis.plots.short_names import short_names
from bayesprune.analysis.plots.style import (
    COLOURS,
    PANEL,
    PRIOR,
    check_path,
    colour,
    finished,
    legend_below,
    new_figure,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELLED = 6
"""At most this many tensors get a colour of their own."""
CURVE = COLOURS[-1]
LETTERS = 26
"""Of a tensor's name."""
ACROSS = 3
"""Panels in a row where several fits are drawn."""


def plot_deletion_calibration(
    calibration: DeletionCalibration | Mapping[str, DeletionCalibration], path: str | Path | None = None
) -> Figure:
    """Draws what `deletion_calibration` has measured, of one fit or of several side by side.

    Panels: the reliability curve, which is the share of harmful deletions by score with its interval (and, for
    inclusion probabilities, the line on which share and probability are equal); every deletion's change of the
    held-out loss with the mean of each bin, linear near zero and logarithmic beyond; and the rank correlation of
    score and change by tensor with its interval: of every score where several were compared, and of the ceiling, a bar
    behind them, where one was measured. Of several fits: the reliability curve of each, and the rank
    correlations of all.

    Args:
        calibration: What `deletion_calibration` returned, or such results by name.
        path: File to write or replace, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.

    Returns:
        The figure.

    Raises:
        ValueError: If the format of the path is unknown or its folder does not exist, or there is nothing to draw.
    """
    check_path(path)
    if isinstance(calibration, Mapping):
        return _side_by_side(dict(calibration), path)
    count = calibration.deletions.sizes["deletion"]
    title = f"Deletion calibration: {calibration.score}, {count} deletions of one {calibration.per} each"
    with styled():
        rows = calibration.correlation.sizes["layer"]  # names one below the other
        figure, axes = new_figure(1, 3, title, (PANEL[0], max(PANEL[1] + 0.3, 0.16 * rows + 1.2)))
        _reliability(axes[0], calibration)
        _changes(axes[1], calibration)
        _correlations(axes[2], calibration)
        for axis in axes[:2]:
            axis.set_xlabel(calibration.score)
            if calibration.kind is not None:
                axis.set_xlim(-0.02, 1.02)
            legend_below(axis)
        return finished(figure, path)


def _side_by_side(calibrations: dict[str, DeletionCalibration], path: str | Path | None) -> Figure:
    """One reliability curve a fit, and the rank correlations of all fits in the last panel, where letters name them."""
    if not calibrations:
        raise ValueError("there is no calibration to draw: give what deletion_calibration returned, by name")
    panels = len(calibrations) + 1
    columns = min(ACROSS, panels)
    with styled():
        figure, axes = new_figure(-(-panels // columns), columns, "Deletion calibration", (2.7, 2.6))
        for axis, letter, (name, calibration) in zip(axes, ascii_lowercase, calibrations.items(), strict=False):
            _reliability(axis, calibration)
            axis.set_title(f"{letter}  {name}\n    held-out loss {calibration.loss:.3g}", fontsize=8.5)
            axis.set_xlabel(calibration.score)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=2)
        _correlations_of_all(axes[panels - 1], list(calibrations.values()))
        for axis in axes[panels:]:
            axis.remove()
        return finished(figure, path)


def _correlations_of_all(axis: Any, calibrations: list[DeletionCalibration]) -> None:
    """Rank correlations: a row for each fit, a colour for each layer."""
    layers = [str(layer) for layer in calibrations[0].correlation.layer.values]
    axis.axvline(0.0, color=PRIOR, lw=0.6)
    for number, layer in enumerate(layers):
        shift = (number - (len(layers) - 1) / 2) * 0.7 / len(layers)
        shade = CURVE if layer == ALL else colour(number - 1)
        for place, calibration in enumerate(calibrations):
            if layer not in calibration.correlation.layer.values:
                continue
            row = calibration.correlation.sel(layer=layer)
            value = float(row.spearman)
            bars = np.clip([[value - float(row.lower)], [float(row.upper) - value]], 0.0, None)
            label = layer if place == 0 else None
            axis.errorbar(
                value, place + shift, xerr=bars, color=shade, marker="o", markersize=3, elinewidth=0.8, label=label
            )
    axis.set_yticks(range(len(calibrations)), ascii_lowercase[: len(calibrations)])
    axis.set_ylim(len(calibrations) - 0.5, -0.5)
    axis.set_xlim(-1.05, 1.05)
    axis.set_xlabel("rank correlation with change of loss")
    if len(layers) <= LABELLED + 1:
        axis.legend(fontsize=6.5, ncols=2, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2)


def _reliability(axis: Any, calibration: DeletionCalibration) -> None:
    curve = calibration.curve
    if calibration.kind is not None:
        axis.plot([0, 1], [0, 1], color=PRIOR, lw=0.8, ls="--", label="share = probability")
    share = curve.share.values
    bars = np.abs(np.stack([share - curve.share_lower.values, curve.share_upper.values - share]))
    label = f"by bin, {calibration.probability:.0%} interval"
    axis.errorbar(curve.score.values, share, bars, color=CURVE, marker="o", markersize=3, elinewidth=0.8, label=label)
    axis.set_ylim(-0.03, 1.03)
    axis.set_ylabel("share of harmful deletions")
    axis.set_title(f"Harmful: loss up by > {calibration.threshold:g} s.e.")


def _changes(axis: Any, calibration: DeletionCalibration) -> None:
    deletions, curve = calibration.deletions, calibration.curve
    # Linear up to about the median standard error: below that a change is noise, and a logarithm would spread it out.
    # A power of ten, so that the marks beside 0 stand a decade off.
    errors = deletions.error.values[deletions.error.values > 0]
    axis.set_yscale("symlog", linthresh=10.0 ** np.round(np.log10(np.median(errors))) if len(errors) else 1e-6)
    axis.yaxis.get_major_locator().set_params(numticks=7)
    names = [str(name) for name in calibration.correlation.layer.values if name != ALL]
    one_of_many = len(names) > LABELLED
    for number, name in enumerate(names):
        of = deletions.tensor.values == name
        axis.plot(
            deletions.score.values[of],
            deletions.change.values[of],
            ls="",
            marker="o",
            markersize=2.5,
            alpha=0.6,
            color=PRIOR if one_of_many else colour(number),
        )
    axis.plot(curve.score.values, curve.change.values, color=CURVE, marker="_", label="mean of the bin")
    axis.axhline(0.0, color=PRIOR, lw=0.6)
    axis.set_ylabel("change of loss [nats per example]")
    axis.set_title(f"Held-out loss, {calibration.loss:.3g} before")


def _correlations(axis: Any, calibration: DeletionCalibration) -> None:
    table = calibration.correlation
    names = [str(name) for name in table.layer.values]
    place = np.arange(len(names))
    axis.axvline(0.0, color=PRIOR, lw=0.6)
    title = f"Spearman, {calibration.probability:.0%} interval"
    if calibration.comparison is None:
        value = _dots(axis, table, place, CURVE, None)
        for row in place[~np.isfinite(value)]:
            axis.text(0.03, row, "not defined", va="center", fontsize=7.0)
    else:
        both = calibration.comparison
        if CEILING in both.predictor.values:
            ceiling = both.sel(predictor=CEILING)
            ends = [np.nan_to_num(ceiling[key].values) for key in ("lower", "upper")]
            axis.barh(place, ends[1] - ends[0], left=ends[0], height=0.8, color=PRIOR, alpha=0.25, lw=0)
            axis.plot(ceiling.spearman.values, place, ls="", marker="|", markersize=12, color=PRIOR, label=CEILING)
        scores = [str(name) for name in both.predictor.values if name != CEILING]
        for number, name in enumerate(scores):
            shift = (number - (len(scores) - 1) / 2) * 0.7 / len(scores)
            _dots(axis, both.sel(predictor=name), place + shift, COLOURS[number % len(COLOURS)], name)
        legend_below(axis)
    axis.set_yticks(place, list(map(short_names(names, LETTERS).get, names)))
    if calibration.comparison is None and len(names) <= LABELLED + 1:  # the names say the colours of the dots beside
        for number, text in enumerate(axis.get_yticklabels()[1:]):
            text.set_color(colour(number))
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(-1.05, 1.05)
    axis.set_xlabel("rank correlation with change of loss")
    axis.set_title(title)


def _dots(axis: Any, table: Any, place: Any, shade: str, label: str | None) -> Any:
    """Correlations with their intervals, one a layer; returns the correlations."""
    value = table.spearman.values
    # A percentile interval need not hold the estimate; a bar cannot have a negative length.
    bars = np.clip(np.stack([value - table.lower.values, table.upper.values - value]), 0.0, None)
    axis.errorbar(value, place, xerr=bars, ls="", color=shade, marker="o", markersize=4, elinewidth=0.8, label=label)
    return value
