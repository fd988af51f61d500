"""Figure: whether predictive probabilities are right as often as they say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bayesprune.analysis.plots.style import POSTERIOR, PRIOR, check_path, finished, legend_below, new_figure, styled
from bayesprune.inference.data.batches import Data
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.predictions.metrics import expected_calibration_error
from bayesprune.inference.predictions.predictive import draw_statistics
from bayesprune.models.likelihoods.labels import Categorical
from bayesprune.models.networks.outputs import outputs_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_calibration(
    fit: Fit,
    data: tuple[Tensor, Tensor],
    draws: int = 32,
    restart: int = 0,
    bins: int = 15,
    probability: float = 0.89,
    path: str | Path | None = None,
    training: Data | None = None,
) -> Figure:
    """Draws reliability diagrams: of the prediction averaged over draws, and of the one network at the guide's centre.

    In each of the equal-width bins of confidence (the largest probability) that are not empty: the share of examples
    whose class was right over their mean confidence, and the consistency interval (Bröcker & Smith 2007), in which the
    share lies with that probability if every confidence is right; it is computed exactly, from the distribution of
    a sum of independent Bernoullis. Titles have the expected calibration error. Below, how many examples a bin has,
    on a logarithmic axis. A MAP is one network, and has one diagram.

    Args:
        fit: A fit with a categorical likelihood.
        data: Held-out data, inputs `(n, ...)` and labels `(n,)`.
        draws: Draws of the weights; default 32.
        restart: Which restart; default the first.
        bins: Bins of confidence; default 15.
        probability: Of the consistency intervals; default 0.89.
        path: File to write or replace, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.
        training: Training data, for statistics of batch normalisation, of each draw and of the centre; default None:
            the inputs that the fit keeps.

    Returns:
        The figure.

    Raises:
        ValueError: If the likelihood is not categorical; for data that do not fit, a restart that does not exist,
            numbers out of range, or a path whose format is unknown.
    """
    check_path(path)
    if not isinstance(fit.model.likelihood, Categorical):
        raise ValueError(
            f"calibration of classes needs a categorical likelihood, and this fit has {fit.model.likelihood.name}: "
            "use to_arviz and the predictive checks of ArviZ"
        )
    if not 0.0 < probability < 1.0:
        raise ValueError(f"probability is that of an interval, strictly between 0 and 1, not {probability}")
    x, y = data[0], data[1].cpu()
    averaged = fit.predict(x, draws, restart, data=training).mean
    is_map = fit.restarts[restart].guide.is_map
    diagrams = {"MAP" if is_map else f"Averaged over {draws} draws": averaged}
    if not is_map:
        diagrams["At the guide's centre"] = _centre(fit, x, restart, training)
    errors = {what: expected_calibration_error(p, y, bins) for what, p in diagrams.items()}  # checks labels and bins
    with styled():
        columns = len(diagrams)
        title = f"Calibration on {len(y):,} examples" + (f", restart {restart}" if len(fit.restarts) > 1 else "")
        figure, axes = new_figure(2, columns, title, (3.4, 2.4), height_ratios=[2.6, 1.0], sharex="col")
        for column, (what, probabilities) in enumerate(diagrams.items()):
            confidence, predicted = probabilities.double().max(dim=1)
            right = (predicted == y).numpy()
            _reliability(axes[column], confidence.numpy(), right, bins, probability)
            axes[column].set_title(f"{what}: ECE {errors[what]:.4f}")
            below = axes[columns + column]
            counts, _, _ = below.hist(
                confidence.numpy(), bins=np.linspace(0.0, 1.0, bins + 1), color=POSTERIOR, log=True
            )
            below.set_ylim(0.7, max(1.5 * counts.max(), 11.0))  # a decade at least has numbers
            below.set_xlabel("confidence")
            below.set_ylabel("examples")
            legend_below(axes[column], 0.12)
        return finished(figure, path)


def _centre(fit: Fit, x: Tensor, restart: int, training: Data | None) -> Tensor:
    """Class probabilities of the network at the guide's centre, on the CPU."""
    model, guide = fit.restarts[restart].model, fit.restarts[restart].guide
    with torch.no_grad():
        weights = model.weights_at(guide.means())
        statistics = draw_statistics(fit, restart, training).at(weights)
        outputs = outputs_at(model.network, weights, x, statistics=statistics)
        return model.likelihood.predict(outputs).cpu()


def _reliability(axis: Any, confidence: np.ndarray, right: np.ndarray, bins: int, probability: float) -> None:
    """Share that was right and its consistency interval, over mean confidence."""
    # Bins are closed on the right, as those of the expected calibration error.
    member = np.searchsorted(np.linspace(0.0, 1.0, bins + 1)[1:-1], confidence)
    within = [member == number for number in range(bins) if (member == number).any()]
    means = np.array([confidence[rows].mean() for rows in within])
    ends = np.array([consistency_interval(confidence[rows], probability) for rows in within])
    axis.plot([0, 1], [0, 1], color=PRIOR, lw=0.8, ls="--")
    axis.vlines(means, *ends.T, color=PRIOR, lw=4.0, alpha=0.6, label=f"{probability:.0%} interval if calibrated")
    axis.plot(means, [right[rows].mean() for rows in within], "o", color=POSTERIOR, ms=4, label="share that is right")
    axis.set_xlim(0.0, 1.02)
    axis.set_ylim(-0.03, 1.03)
    axis.set_ylabel("share of examples")


def consistency_interval(confidence: np.ndarray, probability: float) -> tuple[float, float]:
    """Interval of the share of successes of independent Bernoullis, from the exact distribution of their sum.

    Args:
        confidence: Their probabilities, `(n,)`.
        probability: Of the equal-tailed interval; as the sum is discrete, the interval holds at least that.

    Returns:
        The lower and the upper end, shares in [0, 1].
    """
    mass = np.zeros(len(confidence) + 1)
    mass[0] = 1.0
    for number, p in enumerate(confidence):
        mass[1 : number + 2] = mass[1 : number + 2] * (1.0 - p) + mass[: number + 1] * p
        mass[0] *= 1.0 - p
    below = mass.cumsum()
    tail = (1.0 - probability) / 2.0
    low, high = (int(np.searchsorted(below, end)) for end in (tail, 1.0 - tail))
    return low / len(confidence), high / len(confidence)
