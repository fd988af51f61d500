"""Figure: how good the fits of a sweep are against how small they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import xarray as xr

from bayesprune.analysis.plots.front import SCORES, front_axes, front_line
from bayesprune.analysis.plots.style import check_path, finished, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ScoredFits", "plot_sweep"]

PANEL = (4.2, 3.2)


class ScoredFits(Protocol):
    """What is drawn: a `Sweep`, as `load_sweep` returns it."""

    @property
    def table(self) -> xr.Dataset:
        """Scores and sizes over `(setting, seed)`."""

    @property
    def score(self) -> str:
        """The score that counts first, without the part of the data."""

    @property
    def sizes(self) -> tuple[str, ...]:
        """Names of the sizes that were measured."""

    def front(self, score: str | None = None, against: str = "density") -> xr.Dataset:
        """The settings that no other beats, over `point`."""


def plot_sweep(
    sweep: ScoredFits,
    score: str | None = None,
    against: str | None = None,
    split: str | None = None,
    path: str | Path | None = None,
) -> Figure:
    """Draws the front of a sweep: the settings that validation data did not find dominated, one panel a size.

    The line goes through the means over seeds, with a band of one standard deviation to each side; its points bear the
    numbers that front.json and the printed table give them. The dots behind it are all the fits, one a seed. Smaller
    networks stand to the right.

    Args:
        sweep: What `load_sweep` returned.
        score: ``"accuracy"``, ``"rmse"``, ``"nll"`` or ``"ece"``; default None: the first that the sweep has.
        against: ``"density"``, ``"nonzero"``, ``"macs"`` or ``"latency"``; default None: every size that the sweep
            has, but for the number of weights, which is the density in other units.
        split: ``"validation"`` or ``"test"``, what is drawn; the front is always chosen on validation data. Default
            None: the test data where the sweep has them.
        path: File to write or replace, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.

    Returns:
        The figure.

    Raises:
        ValueError: If no fit is complete, the sweep lacks score, size or split, or the format of the file is unknown.
    """
    check_path(path)
    score = sweep.score if score is None else score
    sizes = [size for size in sweep.sizes if size != "nonzero"] if against is None else [against]
    fronts = {size: sweep.front(score, size) for size in sizes}
    split = ("test" if f"test_{score}" in sweep.table else "validation") if split is None else split
    drawn = f"{split}_{score}"
    if drawn not in sweep.table or score not in SCORES:
        raise ValueError(f"the sweep has no {score!r} on {split!r} data: take validation or test, and another score")
    seeds = sweep.table.sizes["seed"]
    line = "one seed" if seeds == 1 else f"mean and sd of {seeds} seeds"
    title = f"Sweep: {split} data, chosen on validation data\nline: {line}; dots: every fit"
    with styled():
        figure, axes = new_figure(1, len(sizes), title, PANEL)
        for axis, (size, front) in zip(axes, fronts.items(), strict=True):
            dots, points = ((found[size], found[drawn]) for found in (sweep.table, front))
            front_line(axis, size, dots, points, front[f"{drawn}_sd"], "front")
            front_axes(axis, score, size)
            middle = axis.lines[-1]
            for number, x, y in zip(front["number"].values, *middle.get_data(), strict=True):
                axis.annotate(
                    str(number), (x, y), xytext=(0.0, 4.0), textcoords="offset points", fontsize=7, ha="center"
                )
        return finished(figure, path)
