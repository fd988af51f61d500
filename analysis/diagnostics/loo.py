"""Leave-one-out predictive density of a fit, by Pareto smoothed importance sampling on a sample of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from bayesprune.analysis.diagnostics.log_densities import LogDensities, check_density
from bayesprune.analysis.diagnostics.pareto_smoothing import FEWEST_DRAWS, largest_khat, pareto_smoothed
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.fast_distributions import fast_distributions

Array = np.ndarray

MOST_BAD = 0.05
"""Share of points with a k-hat above the threshold from which on nothing is said."""


@dataclass(frozen=True)
class LooEstimate:
    """A leave-one-out estimate.

    Attributes:
        elpd: Expected log predictive density of all the data, each point left out in turn, in nats.
        error: Its standard error over points: how it would vary with other data of the same kind.
        subsampling_error: Standard error that comes of looking at a sample of the points; 0 for all of them.
        pointwise: Of each sampled point, `(points,)`, in nats.
        khat: Pareto k-hat of each sampled point, `(points,)`.
        bad: Share of them above the threshold.
        verdict: ``"reliable"``, or ``"cannot tell"``.
        reason: Why, in one sentence.
    """

    elpd: float
    error: float
    subsampling_error: float
    pointwise: Array
    khat: Array
    bad: float
    verdict: str
    reason: str

    def __str__(self) -> str:
        errors = f"standard error {self.error:,.1f}, of the subsample {self.subsampling_error:,.1f}"
        return f"{self.verdict}: elpd {self.elpd:,.1f} nats ({errors}); {self.reason}"


@dataclass(frozen=True)
class Loo:
    """What `loo` found; print it, or read its estimates.

    Attributes:
        guide: Of the guide's own predictions: the guide is taken for the posterior.
        posterior: Of the posterior's predictions, with the importance weights of `guide` against it (Magnusson et al.
            2019); None where it was not asked for.
        points: Indices of the sampled points, `(points,)`.
        data_size: Number of data.
        draws: Draws of the guide.
        threshold: The k-hat above which a point counts as bad.
        kl_weight: Of the fit; where it is not 1 the fit is tempered, and each of its points counts 1 / kl_weight times.
    """

    guide: LooEstimate
    posterior: LooEstimate | None
    points: Array
    data_size: int
    draws: int
    threshold: float
    kl_weight: float = 1.0

    def __str__(self) -> str:
        head = (
            f"leave-one-out, {len(self.points):,} of {self.data_size:,} points, {self.draws} draws, "
            f"k-hat bad above {self.threshold:.2f}"
        )
        lines = [head, f"of the guide      {self.guide}"]
        if self.kl_weight != 1.0:
            lines.append(
                f"tempered, KL weight {self.kl_weight:g}: the guide is left out {1.0 / self.kl_weight:g} copies of a "
                "point, as many as it had seen; the posterior is that of the model itself"
            )
        return "\n".join(lines + ([f"of the posterior  {self.posterior}"] if self.posterior else []))


def loo(
    fit: Fit,
    data: tuple[Tensor, Tensor],
    draws: int = 1000,
    points: int | None = 200,
    posterior: bool = False,
    restart: int = 0,
    seed: int = 0,
) -> Loo:
    """Estimates the log predictive density of each training point from a fit that had not seen it.

    With draws w of the guide, point i is left out by the importance ratios 1 / p(y_i | w), smoothed (PSIS-LOO, Vehtari,
    Gelman & Gabry 2017). That takes the guide for the posterior, and answers for **the guide's own predictions**, which
    are those that a network makes. With `posterior` the ratios are p(data, w) / (q(w) p(y_i | w)), which correct for
    the guide not being the posterior (Magnusson et al. 2019) and answer for the exact posterior. That works for a
    handful of parameters; for a network their k-hats are bad, and the verdict is then ``"cannot tell"``.

    A tempered fit at KL weight T aims at prior x likelihood^(1/T), as if each point had been seen 1 / T times: the
    guide is left without a point by the ratios p(y_i | w)^(-1/T), which are the harder to smooth the smaller T is.

    A random sample of the points stands for all, by the difference estimator (Magnusson et al. 2020): the sum over all
    points of the log density at the guide's centre, plus their number times the mean over the sampled points of what
    leaving out changes about it.

    Batch normalisation has the statistics of each draw, which costs a forward pass over at most 2,000 training inputs a
    draw; what a single point left out would change of them is not counted.

    Args:
        fit: The fit.
        data: All training data, `(x, y)`.
        draws: Draws of the guide; default 1000. Fewer than 100 cannot tell.
        points: Number of points to sample; default 200. None, or more than there are: all of them.
        posterior: Whether to estimate that of the posterior as well, which takes a pass over all the data a draw;
            default False.
        restart: Which restart; default the first.
        seed: Of the sample; default 0.

    Returns:
        The estimates.

    Raises:
        ValueError: For a MAP, for a fit at KL weight 0, and with `posterior` for a guide with points; if there is no
            such restart, `data` are not all the data, or a number is out of range.
    """
    one = fit.restart(restart)
    if one.guide.is_map:
        raise ValueError("this fit is a MAP: a point leaves no draws to weight; score it on held-out data")
    weight = fit.settings.get("kl_weight")
    kl_weight = 1.0 if weight is None else float(weight)
    if kl_weight == 0.0:
        raise ValueError("this fit has KL weight 0: it has no posterior to leave a point out of; score held-out data")
    if posterior:
        check_density(one, "posterior=True")
    size = one.model.data_size
    if len(data[0]) != size or len(data[1]) != size:
        raise ValueError(f"data= has {len(data[0])} rows, but the fit had {size}: leaving one out needs all of them")
    if draws < 1 or (points is not None and points < 2):
        raise ValueError(f"draws must be at least 1 and points at least 2, not {draws} and {points}")
    rng = np.random.default_rng(seed)
    count = size if points is None else min(points, size)
    rows = np.sort(rng.choice(size, count, replace=False))
    centre, likelihoods, ratios = _drawn(LogDensities(fit, restart, data), data, rows, draws, posterior)
    of_guide = _estimate(likelihoods, np.zeros(draws), centre, rows, size, 1.0 / kl_weight)
    of_posterior = _estimate(likelihoods, ratios, centre, rows, size) if posterior else None
    return Loo(of_guide, of_posterior, rows, size, draws, largest_khat(draws), kl_weight)


def _drawn(
    densities: LogDensities, data: tuple[Tensor, Tensor], rows: Array, draws: int, posterior: bool
) -> tuple[Array, Array, Array]:
    """Log densities of all points at the centre, of the sampled ones `(draws, points)`; log p - log q `(draws,)`."""
    one = densities.one
    x, y = data
    at = torch.as_tensor(rows)
    x_at, y_at = x[at], y[at]

    def of(draw: dict[str, Tensor]) -> tuple[Array, float]:
        if not posterior:
            return densities.likelihoods(draw, x_at, y_at).cpu().numpy(), 0.0
        every = densities.likelihoods(draw, x, y).cpu()
        _, log_prior, log_guide = densities.at(draw)
        return every[at].numpy(), float(every.sum()) + log_prior - log_guide

    with fast_distributions():
        centre = densities.likelihoods(densities.at(one.guide.means())[0], x, y).cpu().numpy()
        drawn = densities.fit.map_draws(of, draws)
    return centre, np.stack([each for each, _ in drawn]), np.array([ratio for _, ratio in drawn])


def _estimate(
    likelihoods: Array, ratios: Array, centre: Array, rows: Array, size: int, copies: float = 1.0
) -> LooEstimate:
    """The estimate from log-likelihoods `(draws, points)` and log importance ratios of the draws.

    `copies` says how many times what was drawn from has seen each point: all of them are left out.
    """
    draws, count = likelihoods.shape
    pointwise, khat = np.empty(count), np.empty(count)
    for point, log_density in enumerate(likelihoods.T):
        weights, khat[point] = pareto_smoothed(ratios - copies * log_density)
        pointwise[point] = logsumexp(weights + log_density)
    difference = pointwise - centre[rows]
    elpd = float(centre.sum() + size * difference.mean())
    error = float(math.sqrt(size) * pointwise.std(ddof=1))
    left = 1.0 - count / size
    subsampling = float(size * math.sqrt(left / count) * difference.std(ddof=1))
    bad = float((~(khat <= largest_khat(draws))).mean())
    verdict, reason = "reliable", f"{bad:.1%} of the points have a bad k-hat"
    if draws < FEWEST_DRAWS:
        verdict, reason = "cannot tell", f"{draws} draws say nothing: {FEWEST_DRAWS} are needed at least"
    elif not np.ptp(likelihoods, axis=0).any():
        verdict, reason = "cannot tell", "all draws are alike"
    elif not bad <= MOST_BAD or not math.isfinite(elpd):
        verdict = "cannot tell"
    return LooEstimate(elpd, error, subsampling, pointwise, khat, bad, verdict, reason)
