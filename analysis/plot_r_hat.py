"""Figure: R-hat of the iterates by window and quantity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesprune.analysis.convergence import Convergence
from bayesprune.analysis.style import SEQUENTIAL, check_path, finished, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 24
"""At most this many quantities are drawn."""
TICKS = (1.01, 1.05, 1.1, 1.3, 2.0)
"""R-hat at the marks of the colour bar; beyond the first and the last the colour no longer changes."""


def plot_r_hat(convergence: Convergence, path: str | Path | None = None) -> Figure:
    """Draws R-hat of the ELBO and the scales in each window of the iterates, and between the halves of the last one.

    A row is a quantity; of more than 24 those with the highest R-hat of the last column are drawn. Left: restarts as
    chains, with one restart the halves of the window. Right: between the halves of the last window, the largest over
    restarts; that is what the verdict looks at. A dash stands where R-hat is not defined, as for a series that does
    not move. Colours are by the logarithm of R-hat less 1.

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
    halves = table.r_hat_within.isel(window=-1).values
    names = [str(name) for name in table.quantity.values]
    shown = list(range(len(names)))
    if len(names) > ROWS:
        shown = sorted(np.argsort(-np.nan_to_num(halves), kind="stable")[:ROWS].tolist())
    some = f" ({len(shown)} of {len(names)} quantities)" if len(shown) < len(names) else ""
    blocks = [table.r_hat.transpose("quantity", "window").values[shown], halves[shown, None]]
    with styled():
        panel = (0.31 * (blocks[0].shape[1] + 1) + 1.8, 0.24 * len(shown) + 0.9)
        title = f"R-hat: {convergence.verdict}{some}"
        figure, (left, right) = new_figure(1, 2, title, panel, width_ratios=[blocks[0].shape[1], 1], sharey=True)
        image = _cells(left, blocks[0])
        _cells(right, blocks[1])
        left.set_yticks(range(len(shown)), [names[row] for row in shown])
        right.tick_params(left=False, labelleft=False)
        spans = zip(table.first_step.values, table.last_step.values, strict=True)
        labels = [f"{int(first)}\N{EN DASH}{int(last)}" for first, last in spans]
        left.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
        left.set_xlabel("steps of the window")
        right.set_xticks([0], ["halves"])
        bar = figure.colorbar(image, ax=[left, right], label="R-hat", extend="both")
        bar.set_ticks([tick - 1.0 for tick in TICKS], labels=[f"{tick:g}" for tick in TICKS])
        bar.minorticks_off()
        return finished(figure, path)


def _cells(axis: Any, values: np.ndarray) -> Any:
    """A cell for each number, its colour and its text."""
    from matplotlib.colors import LogNorm

    lowest = TICKS[0] - 1.0
    norm = LogNorm(lowest, TICKS[-1] - 1.0)
    above = (values - 1.0).clip(lowest)  # R-hat can fall a little short of 1
    image = axis.imshow(above, cmap=SEQUENTIAL, norm=norm, aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(values):
        text = f"{value:.3f}" if np.isfinite(value) else "\N{EN DASH}"
        dark = np.isfinite(value) and norm(above[row, column]) < 0.5
        axis.text(column, row, text, ha="center", va="center", fontsize=7.5, color="white" if dark else "black")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    return image
