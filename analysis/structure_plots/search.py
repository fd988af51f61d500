"""Figure: how good the best network of a search was after each training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesprune.analysis.plots.style import check_path, finished, legend_below, line_look, new_figure, styled
from bayesprune.inference.search.searched import Searched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_search"]

Trajectory = Searched | Sequence[float | None]


def plot_search(
    searches: Searched | Mapping[str, Trajectory | Sequence[Trajectory]], path: str | Path | None = None
) -> Figure:
    """Draws the best validation score so far against the number of trainings.

    Of one search its trainings are drawn too, as dots. Of several searches with a name in common, such as the seeds of
    one method, the line is their mean, and the band reaches from the lowest to the highest of them; it ends with the
    shortest.

    Args:
        searches: What `search` returned; or by name one or several of it, or their best scores after each training
            (`Searched.best_so_far`).
        path: File to write or replace, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.

    Returns:
        The figure.

    Raises:
        ValueError: In one sentence, if there is no search, or one has no score; or a path whose format is unknown.
    """
    check_path(path)
    named: Mapping[str, Any] = {"search": searches} if isinstance(searches, Searched) else searches
    groups = {name: _trajectories(name, found) for name, found in named.items()}
    if not groups:
        raise ValueError("there is no search to draw: give what search returned")
    several = max(len(group) for group in groups.values())
    with styled():
        title = "Search" + (f", mean and range of {several} searches" if several > 1 else "")
        figure, (axis,) = new_figure(1, 1, title, (4.6, 3.0))
        for number, (name, group) in enumerate(groups.items()):
            length = min(map(len, group))
            values = np.array([one[:length] for one in group])
            steps = np.arange(1, length + 1)
            look = line_look(number)
            if len(group) > 1:
                # Where all of a group have failed so far there is nothing to draw.
                known = np.isfinite(values).all(axis=0)
                axis.fill_between(
                    steps[known], values[:, known].min(axis=0), values[:, known].max(axis=0), color=look["color"],
                    alpha=0.15, lw=0,
                )  # fmt: skip
            elif isinstance(own := _only(named[name]), Searched):
                dots = [(one.number + 1, one.score) for one in own.trainings if one.score is not None]
                axis.plot(*zip(*dots, strict=True), ls="none", marker="o", ms=2.5, alpha=0.5, color=look["color"])
            axis.plot(steps, values.mean(axis=0), drawstyle="steps-post", label=name, **look)
        axis.set_xlabel("trainings")
        axis.set_ylabel("best validation score")
        axis.xaxis.get_major_locator().set_params(integer=True)
        if len(groups) > 1:
            legend_below(axis)
        return finished(figure, path)


def _only(found: Any) -> Any:
    """A search, where it stands alone or is the only one of its name."""
    return found[0] if isinstance(found, (list, tuple)) and len(found) == 1 else found


def _trajectories(name: str, found: Any) -> list[np.ndarray]:
    """Best scores so far, one array a search; NaN before the first that did not fail."""
    if isinstance(found, Searched) or (found and all(one is None or np.isscalar(one) for one in found)):
        found = [found]
    made = []
    for one in found:
        best = one.best_so_far if isinstance(one, Searched) else one
        made.append(np.array([np.nan if score is None else float(score) for score in best]))
    if not made or any(not np.isfinite(one).any() for one in made):
        raise ValueError(f"a search called {name!r} has no score, so there is nothing to draw: leave it out")
    return made
