"""Figure: what the data changed, prior against posterior of scales, latents and summaries of layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from bayesprune.analysis.arviz.draw_summaries import DrawSummaries
from bayesprune.analysis.plots.short_names import short_names
from bayesprune.analysis.plots.style import POSTERIOR, PRIOR, check_path, finished, narrow_log_axis, new_figure, styled
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.fast_distributions import fast_distributions
from bayesprune.models.checks.given_numbers import restart_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACROSS = 4
MOST = 20
"""At most this many quantities are drawn."""
BINS = 30
LETTERS = 28
"""Of a quantity's name in the title of its panel."""
UNITS = {
    "included": "included weights",
    "effective": "effective number of weights",
    "rms": "root mean square",
    "mean": "mean over its entries",
    "mean_log": "mean of the logarithm",
}
"""What the axis of a summary says, by the last part of its name; latents are called by their own name."""
SEEN = (0.01, 0.99)
"""Quantiles of prior and posterior that the axis holds: a half Cauchy would fill it with its tail."""


def plot_prior_posterior(
    fit: Fit,
    names: str | Sequence[str] | None = None,
    draws: int = 200,
    restart: int = 0,
    path: str | Path | None = None,
) -> Figure:
    """Draws histograms of prior and posterior draws of what `to_arviz` summarises a draw by.

    These are latents, and by tensor ``.rms`` of its weights, ``.included`` (how many) and ``.effective``; see
    `to_arviz`. Both histograms are scaled to a peak of 1, as a posterior is often so narrow that its prior would
    be a flat line beside it. Axes say what the quantity is, and hold the draws from the 1 % to the 99 % quantile of
    either. Positive quantities that span more than a decade and are no counts have a
    logarithmic axis. Of a MAP the point is drawn.
    (ArviZ's ``plot_prior_posterior`` smooths instead, which does not suit priors of heavy tails.)

    Args:
        fit: The fit.
        names: A pattern or several, as in a shell, of the quantities, those of several entries pooled; default None:
            all that are single numbers. The first 20 are drawn.
        draws: Draws from the prior, and from the posterior; default 200.
        restart: Which restart; default the first.
        path: File to write or replace, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.

    Returns:
        The figure.

    Raises:
        ValueError: If a prior cannot be simulated, a pattern matches nothing, there is no such restart, `draws` is
            below 2, or the format of the path is unknown.
    """
    check_path(path)
    restart = restart_number(restart, len(fit.restarts))
    if draws < 2:
        raise ValueError(f"a histogram needs draws: draws must be at least 2, not {draws}")
    one = fit.restarts[restart]
    for prior in one.model.priors.values():
        if prior.hierarchy.improper:
            raise ValueError(f"the prior on {prior.name} cannot be simulated: {prior.hierarchy.improper}")
    summaries = DrawSummaries(fit, restart, None)
    chosen = _chosen(summaries, [names] if isinstance(names, str) else names)
    shown = chosen[:MOST]
    posterior = _stacked(fit.map_draws(summaries.of, 1 if one.guide.is_map else draws, restart), shown)
    prior_draws = _stacked(_simulate(fit, summaries, restart, draws), shown)
    columns = min(ACROSS, len(shown))
    drawn = "the point of the MAP" if one.guide.is_map else "of the posterior"
    numbers = f"{draws} draws of the prior and {drawn}"
    some = f" ({MOST} of {len(chosen)} quantities)" if len(chosen) > MOST else ""
    with styled():
        rows = math.ceil(len(shown) / columns)
        figure, axes = new_figure(rows, columns, f"Prior and posterior{some}\n{numbers}", (2.6, 2.1))
        short = short_names(shown, LETTERS)
        for axis, name in zip(axes, shown, strict=False):
            _panel(axis, prior_draws[name], posterior[name])
            axis.set_title(short[name])
            axis.set_xlabel(_unit(name, summaries.dims[name]))
        for axis in axes[::columns]:
            axis.set_ylabel("frequency, peak = 1")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        for axis in axes[len(shown) :]:
            axis.remove()
        return finished(figure, path)


def _chosen(summaries: DrawSummaries, names: Sequence[str] | None) -> list[str]:
    """The quantities to draw, in the order of the summaries."""
    if names is None:
        return [name for name, dims in summaries.dims.items() if not dims]
    for pattern in names:
        if not any(fnmatchcase(name, pattern) for name in summaries.dims):
            raise ValueError(f"names={pattern!r} matches no quantity: there are {', '.join(summaries.dims)}")
    return [name for name in summaries.dims if any(fnmatchcase(name, pattern) for pattern in names)]


def _simulate(fit: Fit, summaries: DrawSummaries, restart: int, draws: int) -> list[dict[str, np.ndarray]]:
    """Summaries of draws from the prior; the global random state is left as it was."""
    model = fit.restarts[restart].model
    device = next(model.network.parameters()).device
    found = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        torch.manual_seed(0)
        with fast_distributions():
            for _ in range(draws):
                trace = poutine.trace(model.sample_weights).get_trace()
                values = {name: cast(Tensor, trace.nodes[name]["value"]) for name in (*model.sites, *model.way_sites)}
                found.append(summaries.of({**values, **model.weights_at(values)}))
    return found


def _stacked(rows: list[dict[str, np.ndarray]], names: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: np.stack([row[name] for row in rows]).astype(float).ravel() for name in names}


def _unit(name: str, dims: Sequence[str]) -> str:
    """What an axis measures."""
    last = name.rsplit(".", 1)[-1]
    return UNITS.get(last, f"value of {last}" + (", entries pooled" if dims else ""))


def _panel(axis: Any, prior: np.ndarray, posterior: np.ndarray) -> None:
    """Both histograms, each with bins of its own."""
    ends = np.quantile(prior, SEEN), np.quantile(posterior, SEEN)
    low, high = min(ends[0][0], ends[1][0]), max(ends[0][1], ends[1][1])
    counts_something = _whole(prior) and _whole(posterior)  # bins of equal width, which a logarithm would spread
    positive = min(prior.min(), posterior.min()) > 0
    logarithmic = bool(positive and high > 10.0 * low and not counts_something)
    for values, own, shade, label in ((prior, ends[0], PRIOR, "prior"), (posterior, ends[1], POSTERIOR, "posterior")):
        how: dict[str, Any] = {"color": shade, "alpha": 0.6, "label": label}
        if own[0] < own[1]:
            bins = _bins(values, own[0], own[1], logarithmic)
            counts, _ = np.histogram(values, bins)
            axis.stairs(counts / counts.max(), bins, fill=True, lw=1.0, **how)  # the line shows the narrowest
        else:  # a point, or a count that hardly ever changes
            axis.axvline(float(own[0]), lw=1.6, **how)
    if logarithmic:
        axis.set_xscale("log")
        narrow_log_axis(axis, low, high)
    else:
        axis.locator_params(axis="x", nbins=4)
    axis.set_ylim(0.0, 1.15)
    axis.set_yticks([0.0, 0.5, 1.0])


def _whole(values: np.ndarray) -> bool:
    """Whether all values are whole numbers, as counts are."""
    return bool((values == np.floor(values)).all())


def _bins(values: np.ndarray, low: float, high: float, logarithmic: bool) -> np.ndarray:
    """Edges of bins; around whole numbers where all values are whole, as of counts."""
    if _whole(values):
        return np.arange(np.floor(low) - 0.5, high + 1.0, max(1, math.ceil((high - low) / BINS)))
    return np.geomspace(low, high, BINS + 1) if logarithmic else np.linspace(low, high, BINS + 1)
