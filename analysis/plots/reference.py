"""Figure: a fit beside the reference of its model, inclusion probabilities and intervals of weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesprune.analysis.plots.style import (
    POSTERIOR,
    PRIOR,
    check_path,
    colour,
    finished,
    legend_below,
    new_figure,
    styled,
)
from bayesprune.analysis.reference.against_reference import AgainstReference, against_reference
from bayesprune.analysis.reference.reference import Reference
from bayesprune.inference.combined import Combined
from bayesprune.inference.fit_result import Fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 30
"""Weights whose intervals are drawn: those of the largest means."""


def plot_against_reference(
    fit: Fit | Combined,
    reference: Reference,
    restart: int = 0,
    draws: int = 2000,
    probability: float = 0.89,
    path: str | Path | None = None,
) -> Figure:
    """Draws inclusion probabilities of a fit over those of the reference, and intervals of weights side by side.

    On the diagonal the two agree; the dashed lines stand at one half, where the median-probability model decides.
    Intervals are equal-tailed, of the 30 weights that are largest in the reference; zeros of closed gates count. Where
    there are no inclusion probabilities the first panel is left out.

    Args:
        fit: The fit, or its restarts combined.
        reference: That of its model.
        restart: As for `against_reference`.
        draws: As for `against_reference`; default 2,000.
        probability: Of the intervals; default 0.89.
        path: File to write or replace, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.

    Returns:
        The figure.

    Raises:
        ValueError: As `against_reference` does; for a probability out of range, or a path whose format is unknown.
    """
    check_path(path)
    _check_probability(probability)
    return figure_of(against_reference(fit, reference, restart, draws), reference, probability, path)


def figure_of(
    found: AgainstReference, reference: Reference, probability: float = 0.89, path: str | Path | None = None
) -> Figure:
    """Draws a comparison that is made already.

    Args:
        found: The comparison.
        reference: The reference that it is with.
        probability: As for `plot_against_reference`.
        path: The same.

    Returns:
        The figure.

    Raises:
        ValueError: For a probability out of range, or a path whose format is unknown.
    """
    check_path(path)
    _check_probability(probability)
    has_probabilities = bool(np.isfinite(found.largest))
    ratios = [1.0, 2.2] if has_probabilities else [1.0]
    with styled():
        said = f"A fit beside {reference.method}"
        figure, axes = new_figure(1, len(ratios), said, (3.6, 3.1), width_ratios=ratios)
        if has_probabilities:
            _probabilities(axes[0], found)
        _intervals(axes[-1], found, reference, probability)
        return finished(figure, path)


def _check_probability(probability: float) -> None:
    """Refuses what is no probability of an interval."""
    if not 0.0 < probability < 1.0:
        raise ValueError(f"probability is that of an interval, strictly between 0 and 1, not {probability}")


def _probabilities(axis: Any, found: AgainstReference) -> None:
    """Probabilities of the fit over those of the reference."""
    axis.plot([0, 1], [0, 1], color=PRIOR, lw=0.8)
    axis.axhline(0.5, color=PRIOR, lw=0.6, ls="--")
    axis.axvline(0.5, color=PRIOR, lw=0.6, ls="--")
    axis.plot(found.weights.reference_inclusion, found.weights.inclusion, "o", color=POSTERIOR, ms=4, alpha=0.8)
    axis.set_xlim(-0.03, 1.03)
    axis.set_ylim(-0.03, 1.03)
    axis.set_aspect("equal")
    axis.set_xlabel(f"inclusion probability, {found.method}")
    axis.set_ylabel("inclusion probability, fit")
    axis.set_title(f"largest difference {found.largest:.2f}")


def _intervals(axis: Any, found: AgainstReference, reference: Reference, probability: float) -> None:
    """Intervals of the weights, a pair each."""
    tail = (1.0 - probability) / 2.0
    names = [name for name in reference.mean if name in _tensors(found)]
    exact = np.concatenate([
        reference.posterior[name].values.reshape(
            reference.posterior.sizes["chain"] * reference.posterior.sizes["draw"], -1
        )
        for name in names
    ], axis=1)  # fmt: skip
    order = np.sort(np.argsort(-np.abs(found.weights.reference_mean.values), kind="stable")[:SHOWN])
    places = np.arange(len(order))
    for offset, drawn, label, number in ((-0.14, exact, reference.method, 1), (0.14, found.draws, "fit", 0)):
        low, middle, high = np.quantile(drawn[:, order], (tail, 0.5, 1.0 - tail), axis=0)
        axis.vlines(places + offset, low, high, color=colour(number), lw=2.0, label=f"{label}, {probability:.0%}")
        axis.plot(places + offset, middle, "o", color=colour(number), ms=3)
    axis.axhline(0.0, color=PRIOR, lw=0.6)
    axis.set_xticks(places, [str(found.weights.weight.values[place]) for place in order], rotation=90, fontsize=7)
    axis.set_ylabel("weight")
    axis.set_title(f"sd of the fit over {reference.method}: {found.sd_ratio:.2f}")
    legend_below(axis, 0.15 + 0.06 * max(len(str(found.weights.weight.values[place])) for place in order))


def _tensors(found: AgainstReference) -> set[str]:
    """Names of the tensors that are compared."""
    return {str(label).rpartition("[")[0] for label in found.weights.weight.values}
