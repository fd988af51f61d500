"""Figure: how good networks are against how small they are, along the paths of one or several priors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesprune.analysis.plots.short_names import short_names
from bayesprune.analysis.plots.style import check_path, colour, finished, legend_below, line_look, new_figure, styled
from bayesprune.inference.sparsity_path.sparsity_path import COSTS, SparsityPath

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SCORES", "front_axes", "front_line", "plot_front"]

LETTERS = 60
"""Of the label of a path."""
PANEL = (5.2, 3.4)
LOGARITHMIC = 10.0
"""Sizes are drawn on a logarithmic axis where the largest is more than this many times the smallest."""
_SIZES = {
    "sparsity": "weights left [%]",
    "density": "weights left [%]",
    "nonzero": "weights left",
    "macs": "MACs with a weight that is not zero",
    "sparse_macs": "MACs with a weight that is not zero",
    "compact_macs": "MACs of the compact network",
    "compact_parameters": "parameters of the compact network",
    "latency": "latency of the compact network [ms]",
}
_UNITS = {"sparsity": 100.0, "density": 100.0, "latency": 1e3}
SCORES = {"accuracy": "accuracy", "rmse": "RMSE", "nll": "NLL [nats per example]", "ece": "ECE"}


def plot_front(
    paths: SparsityPath | Mapping[str, SparsityPath],
    score: str | None = None,
    against: str = "sparsity",
    split: str | None = None,
    worst: float | None = None,
    path: str | Path | None = None,
) -> Figure:
    """Draws the front of one or several paths: the points that validation data did not find dominated.

    Lines are means over restarts with a band of one standard deviation to each side; the dots behind them are all the
    pruned networks, one a restart. Smaller networks stand to the right.

    Args:
        paths: A path, or several by their labels.
        score: ``"accuracy"``, ``"rmse"``, ``"nll"`` or ``"ece"``; default None: the first that the path has.
        against: ``"sparsity"`` (default), ``"sparse_macs"``, ``"compact_macs"``, ``"compact_parameters"`` or
            ``"latency"``.
        split: ``"validation"`` or ``"test"``, what is drawn; the front is always chosen on validation data. Default
            None: the test data where all paths have them.
        worst: Where the axis of the score ends, for networks that are of no use; default None: all are shown.
        path: File to write or replace, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no path, a path lacks score, size or split, or the format of the file is unknown.
    """
    check_path(path)
    named = {paths.knob: paths} if isinstance(paths, SparsityPath) else dict(paths)
    if not named:
        raise ValueError("plot_front needs at least one path: pass it, or several by their labels")
    score = next(iter(named.values())).score if score is None else score
    fronts = {label: one.front(score, against) for label, one in named.items()}
    have_test = all("test" in one.table.split.values for one in named.values())
    split = ("test" if have_test else "validation") if split is None else split
    for label, one in named.items():
        if split not in one.table.split.values:
            raise ValueError(
                f"the path {label} has no scores on {split!r} data: it has {', '.join(one.table.split.values)}"
            )
    short = short_names(named, LETTERS)
    with styled():
        figure, (axis,) = new_figure(1, 1, _title(split, named), PANEL)
        for number, (label, one) in enumerate(named.items()):
            table, front, size = one.table.sel(split=split), fronts[label].sel(split=split), COSTS[against]
            spread = front[f"{score}_sd"]
            front_line(
                axis, against, (table[size], table[score]), (front[size], front[score]), spread, short[label], number
            )
        front_axes(axis, score, against)
        if worst is not None:
            axis.set_ylim(**{"bottom" if score == "accuracy" else "top": worst})
        legend_below(axis)
        return finished(figure, path)


def _title(split: str, named: Mapping[str, SparsityPath]) -> str:
    """What is drawn, and of what the lines are means."""
    restarts = {one.table.sizes["restart"] for one in named.values()}
    number = f"{restarts.pop()} " if len(restarts) == 1 else ""
    lines = "lines: 1 restart" if number == "1 " else f"lines: mean and sd of {number}restarts"
    return f"Fronts: {split} data, chosen on validation data\n{lines}; dots: every pruned network"


def front_line(
    axis: Any, against: str, dots: tuple[Any, Any], front: tuple[Any, Any], spread: Any, label: str, number: int = 0
) -> None:
    """All networks as dots, the front as a line with a band.

    Args:
        axis: The axis.
        against: Name of the size.
        dots: Sizes and scores of all networks, arrays of any one shape.
        front: Sizes and scores of those on the front, in their order.
        spread: Half the width of the band at each of them; none is drawn where one is NaN.
        label: What the line is called.
        number: Of the line, for its look.
    """
    unit, shade = _UNITS.get(against, 1.0), colour(number)
    (sizes, scores), (x, y) = ([np.asarray(values) for values in pair] for pair in (dots, front))
    axis.plot(
        unit * sizes.ravel(), scores.ravel(),
        ls="", marker="o", markersize=2.0, alpha=0.3, markeredgewidth=0.0, color=shade,
    )  # fmt: skip
    x, spread = unit * x, np.asarray(spread)
    axis.plot(x, y, marker="o", markersize=3.5, label=label, **line_look(number))
    if np.isfinite(spread).all():
        axis.fill_between(x, y - spread, y + spread, color=shade, alpha=0.2, lw=0)


def front_axes(axis: Any, score: str, against: str) -> None:
    """Smaller networks to the right, on a logarithmic axis where sizes go far; what both axes are.

    Args:
        axis: The axis, on which all is drawn.
        score: Name of the score, without the part of the data.
        against: Name of the size.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    sizes = np.concatenate([line.get_xdata() for line in axis.lines])
    positive = sizes[np.isfinite(sizes) & (sizes > 0)]
    if len(positive) and positive.max() > LOGARITHMIC * positive.min():
        axis.set_xscale("log")
        if against in ("sparsity", "density"):  # short numbers: there is room for more of them
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.invert_xaxis()
    axis.set_xlabel(_SIZES[against])
    axis.set_ylabel(SCORES[score])
