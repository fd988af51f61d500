"""Figure: scores that were predicted from features beside those that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesprune.analysis.plots.style import PRIOR, check_path, colour, finished, legend_below, new_figure, styled
from bayesprune.analysis.structure.prediction import ALL, FeatureScore, PerformancePrediction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_COLUMNS = 3
_MARGIN = 0.05


def plot_prediction(
    result: PerformancePrediction,
    features: Sequence[str] | None = None,
    regressor: str | None = None,
    path: str | Path | None = None,
) -> Figure:
    """Draws predictions, each by a regressor that was not fitted on it, over the scores that were measured.

    A panel a set of features, with one regressor: predictions averaged over repeats, with two stated sds up and down
    where it states any, the dashed line on which they are right, and R2 and Spearman's correlation in the title.
    Families have colours and marks of their own. All panels have the same axes.

    Args:
        result: What `predict_performance` returned.
        features: Names of sets of features; default None: all features, and the best baseline if there is one.
        regressor: Its name; default None: that of the largest R2 with all features.
        path: File to write or replace, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no such regressor or set of features, or the format of the path is unknown.
    """
    check_path(path)
    rows = _rows(result, features, regressor)
    with styled():
        columns = min(len(rows), _COLUMNS)
        lines = -(-len(rows) // columns)
        title = f"Scores of {len(result.scores)} graphs predicted by {rows[0].regressor}, out of fold"
        figure, axes = new_figure(lines, columns, title, (3.4, 3.1), sharex=True, sharey=True)
        for axis, row in zip(axes, rows, strict=False):
            _panel(axis, result, row)
        for axis in axes[len(rows) :]:
            axis.set_axis_off()
        for number in range(0, len(axes), columns):
            axes[number].set_ylabel("predicted")
        return finished(figure, path)


def _rows(result: PerformancePrediction, features: Sequence[str] | None, regressor: str | None) -> list[FeatureScore]:
    known = list(dict.fromkeys(row.regressor for row in result.rows))
    if regressor is None:
        regressor = max(known, key=lambda name: result[name, ALL].r2)
    if regressor not in known:
        raise ValueError(f"regressor={regressor!r} has predicted nothing here: one of {', '.join(known)} is expected")
    if features is None:
        features = [ALL, *([result.best_baseline[regressor]] if regressor in result.best_baseline else [])]
    there = {row.features: row for row in result.rows if row.regressor == regressor}
    if isinstance(features, str) or not features or (missing := [name for name in features if name not in there]):
        wrong = features if isinstance(features, str) or not features else missing[0]
        raise ValueError(f"features={wrong!r} are not among what was used: give a list of some of {', '.join(there)}")
    return [there[name] for name in features]


def _panel(axis: Any, result: PerformancePrediction, row: FeatureScore) -> None:
    ends = np.concatenate([result.scores, row.predictions])
    room = _MARGIN * float(np.ptp(ends))
    low, high = float(ends.min()) - room, float(ends.max()) + room
    axis.plot([low, high], [low, high], color=PRIOR, ls=(0, (4, 2)), lw=0.8, label="predicted = measured")
    families = np.array(result.groups if result.groups is not None else [""] * len(result.scores))
    for number, family in enumerate(sorted(set(families))):
        these = families == family
        look = {"color": colour(number), "marker": _MARKERS[number % len(_MARKERS)]}
        axis.errorbar(
            result.scores[these],
            row.predictions[these],
            yerr=2.0 * row.sds[these] if np.isfinite(row.sds).all() else None,
            ls="none",
            ms=3.2,
            mew=0.0,
            alpha=0.75,
            elinewidth=0.5,
            ecolor=(look["color"], 0.35),
            label=family or None,
            **look,
        )
    axis.set_title(f"{row.features}: R2 {row.r2:.2f}, rho {row.spearman:.2f}")
    axis.set_xlabel("measured")
    legend_below(axis)
