"""Figure: how far each layer's weights are pulled to zero, and how many are in effect left."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bayesprune.analysis.plots.short_names import short_names
from bayesprune.analysis.plots.style import POSTERIOR, PRIOR, check_path, finished, legend_below, new_figure, styled
from bayesprune.inference.fit_result import Fit
from bayesprune.models.language.inclusion import ShrinkageBelow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 40
ACROSS = 3
LETTERS = 24
"""Of a tensor's name in a title."""


def plot_shrinkage(fit: Fit, restart: int = 0, draws: int = 200, path: str | Path | None = None) -> Figure:
    """Draws a histogram of the shrinkage factors of each tensor whose prior is a scale mixture.

    Its posterior mean, by the Fisher information or by the posterior as the axis says (see `shrinkage_below`): 0 is a
    weight that the data decide, 1 one that the prior does; a prior that tells signal from noise has a heap at either
    end. The title has the effective number of weights, the sum of one minus the factor. Counts are logarithmic.

    Args:
        fit: The fit.
        restart: Which restart; default the first.
        draws: Draws of the scales; default 200 (one for a MAP).
        path: File to write or replace, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.

    Returns:
        The figure.

    Raises:
        ValueError: As `Fit.shrinkage_factors` does: no prior is a scale mixture, or the fit holds no Fisher
            information; or if the format of the path is unknown.
    """
    check_path(path)
    factors = fit.shrinkage_factors(restart, draws)
    columns = min(ACROSS, len(factors))
    with styled():
        title = "Shrinkage factors, effective number of weights"
        figure, axes = new_figure(math.ceil(len(factors) / columns), columns, title)
        short = short_names(map(str, factors), LETTERS)
        for axis, (name, factor) in zip(axes, factors.items(), strict=False):
            kappa = factor.values.astype(float).ravel().clip(0.0, 1.0)  # a float32 mean of ones can exceed one
            counts, _, _ = axis.hist(kappa, bins=np.linspace(0.0, 1.0, BINS + 1), color=POSTERIOR, log=True)
            event = fit.restarts[restart].model.priors[str(name)].hierarchy.included
            if isinstance(event, ShrinkageBelow):
                axis.axvline(event.threshold, color=PRIOR, ls="--", label=f"included below {event.threshold:g}")
            axis.set_xlim(0.0, 1.0)
            axis.set_ylim(0.7, max(counts.max() * 1.5, 11.0))  # a decade at least has numbers
            by = "the posterior" if factor.attrs["by"] == "posterior" else "the Fisher information"
            axis.set_xlabel(f"shrinkage factor by {by}")
            axis.set_ylabel("weights")
            legend_below(axis)
            axis.set_title(f"{short[str(name)]}: {(1.0 - kappa).sum():,.0f} of {kappa.size:,}")
        for axis in axes[len(factors) :]:
            axis.remove()
        return finished(figure, path)
