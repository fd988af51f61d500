"""Figure: R-hat of the iterates by window and quantity, and which of them the verdict counts."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesprune.analysis.diagnostics.convergence import ELBO, Convergence, allowed_change
from bayesprune.analysis.plots.short_names import short_names
from bayesprune.analysis.plots.style import SEQUENTIAL, TITLE_LETTERS, check_path, finished, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 24
"""At most this many quantities are drawn."""
FEW = 4
"""Beside at most this many rows there is room for every second mark of the colour bar."""
TICKS = (1.01, 1.05, 1.1, 1.3, 2.0, 4.0, 10.0, 100.0)
"""R-hat at the marks of the colour bar; below the first the colour no longer changes, the last is the largest drawn."""
LETTERS = 36
"""Of the name of a quantity."""
WITHOUT = "#E4E4E4"
"""Of the cells that the verdict does not count."""
DASH, NOT_ABOVE = "\N{EN DASH}", "\N{LESS-THAN OR EQUAL TO}"


def plot_r_hat(convergence: Convergence, path: str | Path | None = None) -> Figure:
    """Draws R-hat of the ELBO and the scales in each window of the iterates, and what the verdict makes of the last.

    A row is a quantity; of more than 24 those are drawn that the verdict counts, then those with the highest R-hat
    between the halves of the last window. Left: restarts as chains, with one restart the halves of each window. Middle:
    between the halves of the last window, the largest over restarts, at which the verdict looks. R-hat between halves
    has a colour where it is above chance and the change matters, which in the last window counts against convergence,
    and is grey elsewhere: iterates that creep by a thousandth of a percent have a large R-hat too. Right: that change,
    of the ELBO as a share of its gain, of others relative, and from where on it matters. A dash stands where a number
    is not defined, as for a series that does not move. Colours are by the logarithm of R-hat less 1, up to the largest
    drawn (halves without overlap have 3.1). The title has the verdict and its reason, which can be another than R-hat:
    a drift of the ELBO from window to window, or a gap between restarts.

    Args:
        convergence: What `convergence` returned.
        path: File to write or replace, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.

    Returns:
        The figure.

    Raises:
        ValueError: If there are no windows, or the format of the path is unknown.
    """
    check_path(path)
    table = convergence.table
    if not table.sizes.get("window", 0):
        raise ValueError(f"there is no R-hat to draw ({convergence.reason.rstrip('.')}): fit longer")
    last = table.isel(window=-1)
    halves, moves = last.r_hat_within.values, last.moves.values.astype(bool)
    names = [str(name) for name in table.quantity.values]
    shown = list(range(len(names)))
    if len(names) > ROWS:
        shown = sorted(np.lexsort((-np.nan_to_num(halves), ~moves))[:ROWS].tolist())
    labels = short_names([names[row] for row in shown], LETTERS)
    by_window = table.r_hat.transpose("quantity", "window").values[shown]
    windows = by_window.shape[1]
    with styled():
        width = 0.46 * (windows + 4) + 1.4 + 0.075 * max(map(len, labels.values()))
        title = _title(convergence, len(shown), len(names), int(TITLE_LETTERS * width))
        size = (width / 3, 0.24 * len(shown) + 1.15 + 0.17 * title.count("\n"))
        figure, axes = new_figure(1, 3, title, size, width_ratios=[windows, 1, 2], sharey=True)
        left, middle, right = axes
        norm = _norm(np.concatenate([by_window.ravel(), halves[shown]]))
        alone = table.attrs["restarts"] == 1
        counted = table.moves.transpose("quantity", "window").values[shown].astype(bool) if alone else None
        image = _cells(left, by_window, norm, counted)
        _cells(middle, halves[shown, None], norm, moves[shown, None])
        _changes(right, [names[row] for row in shown], last.change.values[shown], last.matters.values[shown])
        left.set_yticks(range(len(shown)), [labels[names[row]] for row in shown])
        for axis in axes[1:]:
            axis.tick_params(left=False, labelleft=False)
        spans = zip(table.first_step.values, table.last_step.values, strict=True)
        left.set_xticks(range(windows), [f"{int(first)}{DASH}{int(last)}" for first, last in spans], rotation=30)
        for text in left.get_xticklabels():
            text.set(ha="right", rotation_mode="anchor")
        left.set_xlabel(f"R-hat {'between halves' if alone else 'of the restarts'} by window [steps]")
        middle.set_xticks([0], ["halves"])
        right.set_xticks([0], ["change"])
        bar = figure.colorbar(image, ax=axes, label="R-hat", extend="min", aspect=max(6, 0.8 * len(shown)))
        ticks = [tick for tick in TICKS[:: 1 if len(shown) > FEW else 2] if tick - 1.0 <= norm.vmax * 1.001]
        bar.set_ticks([tick - 1.0 for tick in ticks], labels=[f"{tick:g}" for tick in ticks])
        bar.minorticks_off()
        _explained(figure, float(table.attrs["r_hat_limit"]), alone, int(14 * width))
        return finished(figure, path)


def _title(convergence: Convergence, shown: int, quantities: int, letters: int) -> str:
    """The verdict, its reason, and how many quantities are left out."""
    some = f" ({shown} of {quantities} quantities)" if shown < quantities else ""
    return f"R-hat: {convergence.verdict}{some}\n" + textwrap.fill(convergence.reason, letters)


def _explained(figure: Any, limit: float, alone: bool, letters: int) -> None:
    """What colour and grey mean, under the panels."""
    text = (
        f"Between halves: coloured where R-hat is above chance ({limit:.2f}) and the change matters (more than "
        f"{100 * allowed_change(ELBO):g} % of the ELBO's gain, {100 * allowed_change(''):g} % of others), which in the "
        "last window counts against convergence; grey where it does not count."
    )
    if not alone:
        text += " Of the restarts only the ELBO's counts."
    figure.supxlabel(textwrap.fill(text, letters), x=0.01, ha="left", fontsize=8.0)


def _norm(values: np.ndarray) -> Any:
    """Logarithmic colours of R-hat less 1 that end at the largest value, or at the mark above 2 for small ones."""
    from matplotlib.colors import LogNorm

    finite = values[np.isfinite(values)]
    return LogNorm(TICKS[0] - 1.0, max(1.0, float(finite.max(initial=1.0)) - 1.0))


def _cells(axis: Any, values: np.ndarray, norm: Any, counted: np.ndarray | None = None) -> Any:
    """A cell for each number, its colour and its text; grey where it is not counted."""
    above = (values - 1.0).clip(norm.vmin)  # R-hat can fall a little short of 1
    drawn = above if counted is None else np.where(counted, above, np.nan)
    image = axis.imshow(drawn, cmap=SEQUENTIAL, norm=norm, aspect="auto", interpolation="nearest")
    if counted is not None:
        axis.set_facecolor(WITHOUT)
    for (row, column), value in np.ndenumerate(values):
        dark = np.isfinite(drawn[row, column]) and norm(drawn[row, column]) < 0.5
        text = f"{value:.3f}" if np.isfinite(value) else DASH
        axis.text(column, row, text, ha="center", va="center", fontsize=7.5, color="white" if dark else "black")
    _bare(axis)
    return image


def _changes(axis: Any, names: list[str], changes: np.ndarray, matters: np.ndarray) -> None:
    """The change of each quantity in words, and from where on it matters."""
    axis.set_xlim(-0.5, 0.5)
    for row, (name, change) in enumerate(zip(names, changes, strict=True)):
        percent = 100.0 * change
        number = f"{percent:.0f}" if percent >= 99.5 else f"{percent:.2g}" if percent >= 1e-3 else "0"
        text = f"{number} % {'>' if matters[row] else NOT_ABOVE} {100.0 * allowed_change(name):g} %"
        axis.text(0, row, text if np.isfinite(change) else DASH, ha="center", va="center", fontsize=7.5)
    _bare(axis)


def _bare(axis: Any) -> None:
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
