"""Figure: what the data did to the scales, posterior against prior; without scales, signal against noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bayesprune.analysis.plots.short_names import short_names
from bayesprune.analysis.plots.style import (
    PANEL,
    POSTERIOR,
    PRIOR,
    SEQUENTIAL,
    check_path,
    colour,
    finished,
    legend_below,
    line_look,
    narrow_log_axis,
    new_figure,
    of_name,
    styled,
)  # fmt: skip
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.restart import Restart
from bayesprune.models.checks.given_numbers import restart_number
from bayesprune.models.language.tensor_prior import Site, TensorPrior

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW = 4
"""Scales of at most this many entries a tensor are drawn as intervals, others as histograms."""
LABELLED = 6
"""Histograms of at most this many tensors get a colour and a place in the legend of their own."""
LETTERS = 26
"""Of a tensor's name."""
TITLE = 35
"""Letters of a title on one line."""
PRIOR_DRAWS = 500
WEIGHT_DRAWS = 200
ACROSS = 3
TAIL = 0.055
"""Probability on each side of an 89 % interval."""


@dataclass(frozen=True)
class _Scale:
    """One scale site: medians and log sd of its entries (no sd: points), and draws from its prior."""

    prior: TensorPrior
    site: Site
    median: np.ndarray
    log_sd: np.ndarray | None
    prior_draws: np.ndarray | None


def plot_scales(fit: Fit, restart: int = 0, path: str | Path | None = None) -> Figure:
    """Draws the random scales, prior against posterior.

    One panel a latent. Scales of a layer: medians with 89 % intervals (of a MAP: points). Scales of weights,
    outputs or blocks: histogram over entries of posterior draws (of a MAP: points) beside one of prior draws;
    where the data say nothing about the entries of a tensor, the two are the same. Where no prior has random
    scales, each tensor's weights are drawn instead: posterior standard deviation against |mean|, the mean
    taken at the guide's centre; weights above the line are mostly noise.

    Args:
        fit: The fit.
        restart: Which restart; default the first.
        path: File to write or replace, ending in ``.svg``, ``.pdf`` or ``.png``; default None writes none.

    Returns:
        The figure.

    Raises:
        ValueError: For a fit without random scales whose weights do not vary from draw to draw, as of a MAP; a restart
            that does not exist; or a path whose format is unknown.
    """
    check_path(path)
    restart = restart_number(restart, len(fit.restarts))
    one = fit.restarts[restart]
    if not any(prior.scales for prior in one.model.priors.values()):
        if one.guide.is_map:
            raise ValueError(
                "this fit is a MAP under priors without random scales, so there is neither scale nor spread "
                "to draw: use plot_pruning_trace or layer_table"
            )
        with styled():
            return finished(_signal_to_noise(fit, restart), path)
    with styled():
        return finished(_scales(one), path)


def _scales(one: Restart) -> Figure:
    panels = list(_collect(one).items())
    columns = min(ACROSS, len(panels))
    what = "points" if one.guide.is_map else "posterior"
    rows = max((_rows(scales) for _, scales in panels if scales[0].median.size <= FEW), default=0)
    panel = (3.7, max(2.8, 0.17 * rows + 1.0))  # names one below the other
    figure, axes = new_figure(math.ceil(len(panels) / columns), columns, f"Scales: {what} against prior", panel)
    for axis, (title, scales) in zip(axes, panels, strict=False):
        axis.set_title(f"{title}, per {scales[0].site.per}")
        if scales[0].median.size <= FEW:
            _intervals(axis, scales)
        else:
            _histograms(axis, scales)
    for axis in axes[len(panels) :]:
        axis.remove()
    return figure


def _rows(scales: list[_Scale]) -> int:
    """Intervals that a panel has."""
    return sum(scale.median.size for scale in scales)


def _collect(one: Restart) -> dict[str, list[_Scale]]:
    """Scales by latent, each tensor's once; latents of one name in two hierarchies stay apart."""
    with torch.no_grad():
        factors = one.guide.draw()
    medians = one.guide.means()
    found: dict[tuple[str, int], list[_Scale]] = {}
    seen: set[str] = set()
    for prior in one.model.priors.values():
        draws = _prior_draws(prior)
        for latent in prior.scales:
            site = prior.sites[latent]
            if site.name in seen:
                continue
            seen.add(site.name)
            log_sd = getattr(factors[site.name], "scale", None)
            scale = _Scale(
                prior,
                site,
                _flat(medians[site.name]),
                None if log_sd is None else _flat(log_sd),
                draws.get(latent),
            )
            found.setdefault((latent, id(prior.hierarchy)), []).append(scale)
    names = [latent for latent, _ in found]
    return {
        latent if names.count(latent) == 1 else f"{latent} ({scales[0].prior.pattern})": scales
        for (latent, _), scales in found.items()
    }


def _prior_draws(prior: TensorPrior) -> dict[str, np.ndarray]:
    """Draws of the scales by latent, from one output's weights; empty where the prior cannot be simulated."""
    if prior.hierarchy.improper or not prior.scales:
        return {}
    uses_size = any("size" in parents for parents in prior.hierarchy.parents.values())
    shape = prior.shape if uses_size else (1, *prior.shape[1:])
    data_size = int(prior.reserved["data_size"])
    small = TensorPrior(prior.name, prior.hierarchy, shape, data_size, prior.pattern)
    draws: dict[str, list[np.ndarray]] = {latent: [] for latent in prior.scales}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for _ in range(PRIOR_DRAWS if math.prod(shape) < 10_000 else PRIOR_DRAWS // 10):
            values = small.simulate()
            for latent, kept in draws.items():
                kept.append(_flat(values[latent])[:40])  # entries of one draw share their parents
    return {latent: np.concatenate(kept) for latent, kept in draws.items()}


def _flat(value: Tensor) -> np.ndarray:
    return value.detach().cpu().double().numpy().ravel()


def _intervals(axis: Any, scales: list[_Scale]) -> None:
    """Median and 89 % interval of every entry, prior above posterior."""
    labels, width = [], 1.598  # standard Normal quantile of 1 - TAIL
    short = short_names(dict.fromkeys(scale.site.tensor for scale in scales), LETTERS)
    for row, (scale, entry) in enumerate((s, e) for s in scales for e in range(s.median.size)):
        first = row == 0
        if scale.prior_draws is not None:
            low, middle, high = np.quantile(scale.prior_draws, [TAIL, 0.5, 1 - TAIL])
            axis.plot([low, high], [row - 0.17] * 2, color=PRIOR, lw=2.0, label="prior" if first else None)
            axis.plot(middle, row - 0.17, "|", color=PRIOR, ms=7)
        middle = scale.median[entry]
        if scale.log_sd is not None:
            reach = np.exp(width * scale.log_sd[entry])
            axis.plot([middle / reach, middle * reach], [row + 0.17] * 2, color=POSTERIOR, lw=2.0)
        axis.plot(middle, row + 0.17, "o", color=POSTERIOR, ms=4, label="posterior" if first else None)
        labels.append(short[scale.site.tensor] + (f"[{entry}]" if scale.median.size > 1 else ""))
    axis.set_xscale("log")
    narrow_log_axis(axis, *axis.get_xlim())
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.set_xlabel("scale, 89 % interval")
    legend_below(axis)


def _histograms(axis: Any, scales: list[_Scale]) -> None:
    """Density of log10 of the entries, a line a tensor, over draws from the prior."""
    logs = [_log10_draws(scale) for scale in scales]
    priors = [np.log10(np.maximum(s.prior_draws, 1e-38)) for s in scales if s.prior_draws is not None]
    ends = [np.quantile(values, [0.002, 0.998]) for values in (*logs, *priors)]
    bins = np.linspace(min(low for low, _ in ends) - 0.05, max(high for _, high in ends) + 0.05, 46)
    few = len(scales) <= LABELLED
    short = short_names([scale.site.tensor for scale in scales], LETTERS)
    same = not scales[0].prior.hierarchy.parents.get(scales[0].site.latent)
    for number, values in enumerate(priors[:1] if same else priors):
        how: dict[str, Any] = (
            {"color": PRIOR, "alpha": 0.45}
            if same
            else {"histtype": "step", "ls": ":", "color": colour(number) if few else PRIOR}
        )
        axis.hist(values, bins=bins, density=True, label="prior" if number == 0 else None, **how)
    for number, (scale, values) in enumerate(zip(scales, logs, strict=True)):
        axis.hist(
            values,
            bins=bins,
            density=True,
            histtype="step",
            lw=1.2 if few else 0.6,
            label=short[scale.site.tensor] if few else f"each of {len(scales)} tensors" if number == 0 else None,
            **(line_look(number) if few else {"color": POSTERIOR}),
        )
    axis.set_xlim(bins[0], bins[-1])
    axis.set_xlabel("log10 of the scale")
    axis.set_ylabel("density of entries [per decade]")
    legend_below(axis)


def _log10_draws(scale: _Scale) -> np.ndarray:
    """Log10 of posterior draws of every entry, or of the points of a MAP."""
    logs = np.log(np.maximum(scale.median, 1e-38))
    if scale.log_sd is not None:
        copies = max(1, 20_000 // logs.size)
        noise = np.random.default_rng(0).standard_normal((copies, logs.size))
        logs = (logs + scale.log_sd * noise).ravel()
    return logs / math.log(10.0)


def _signal_to_noise(fit: Fit, restart: int) -> Figure:
    """Posterior sd against |mean| of every weight, a panel a tensor."""
    one = fit.restarts[restart]
    with torch.no_grad():
        centre = {name: weight.double() for name, weight in one.model.weights_at(one.guide.means()).items()}
    squares = {name: torch.zeros_like(weight) for name, weight in centre.items()}

    def add(draw: dict[str, Tensor]) -> None:
        for name, total in squares.items():
            total += (draw[name].double() - centre[name]).square()

    fit.map_draws(add, WEIGHT_DRAWS, restart)
    if not any(total.any() for total in squares.values()):
        raise ValueError(
            "this fit has no random scales, and its weights do not vary from draw to draw, so there is neither scale "
            "nor spread to draw: use plot_pruning_trace or layer_table"
        )
    short = short_names(centre, LETTERS)
    columns = min(ACROSS, len(centre))
    title = f"Weights: posterior sd, of {WEIGHT_DRAWS} draws, against |mean|"
    figure, axes = new_figure(math.ceil(len(centre) / columns), columns, title, (3.5, PANEL[1]))
    for axis, (name, mean) in zip(axes, centre.items(), strict=False):
        sd = (squares[name] / WEIGHT_DRAWS).sqrt()
        _hexagons(figure, axis, np.abs(_flat(mean)), _flat(sd))
        axis.set_title(of_name(short[name], f"{float((mean.abs() > sd).double().mean()):.0%} with |mean| > sd", TITLE))
    for axis in axes[len(centre) :]:
        axis.remove()
    return figure


def _hexagons(figure: Any, axis: Any, mean: np.ndarray, sd: np.ndarray) -> None:
    """Counts of weights over log sd and log |mean|, both axes in whole decades."""
    drawn = (mean > 0) & (sd > 0)  # a weight that no draw included has no sd
    axis.set_xlabel("|posterior mean| of a weight")
    axis.set_ylabel("posterior sd")
    if not drawn.any():
        why = "no weight varies from draw to draw" if (mean > 0).any() else "every weight is zero in every draw"
        axis.text(0.5, 0.5, why, ha="center", transform=axis.transAxes)
        axis.set_xticks([])
        axis.set_yticks([])
        return
    (left, right), (low, high) = _decades(mean[drawn]), _decades(sd[drawn])
    for beyond, label, name in (
        (mean[drawn] < left, axis.set_xlabel, axis.get_xlabel()),
        (sd[drawn] < low, axis.set_ylabel, axis.get_ylabel()),
    ):
        if beyond.mean() > 0.01:
            label(f"{name}\n(smaller ones at the edge)")
    image = axis.hexbin(
        mean[drawn].clip(left, right),
        sd[drawn].clip(low, high),
        xscale="log",
        yscale="log",
        extent=tuple(math.log10(end) for end in (left, right, low, high)),
        gridsize=36,
        bins="log",
        mincnt=1,
        cmap=SEQUENTIAL,
        lw=0.1,
    )
    image.set_clim(1.0, max(10.0, float(image.get_array().max())))
    ends = [max(left, low), min(right, high)]
    if ends[0] < ends[1]:
        axis.plot(ends, ends, color="black", lw=0.9, ls="--", label="|mean| = sd")
        legend_below(axis)
    axis.set_xlim(left, right)
    axis.set_ylim(low, high)
    figure.colorbar(image, ax=axis, label=f"weights (of {len(mean):,})").minorticks_off()


def _decades(values: np.ndarray) -> tuple[float, float]:
    """The powers of ten around values, two to six decades apart."""
    high = math.ceil(math.log10(values.max()))
    low = math.floor(math.log10(np.quantile(values, 0.001)))
    return 10.0 ** min(max(low, high - 6), high - 2), 10.0**high
