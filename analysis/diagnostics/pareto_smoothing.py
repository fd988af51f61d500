"""Pareto smoothed importance sampling: smoothed log weights and the shape k-hat of their tail, through ArviZ."""

from __future__ import annotations

import math
import warnings

import numpy as np
import xarray as xr
from scipy.special import logsumexp

from bayesprune.analysis.arviz.shim import arviz

Array = np.ndarray

FEWEST_DRAWS = 100
"""Draws below which a tail says nothing: the threshold of k-hat is below 1/2 there."""
GOOD = 0.5
"""k-hat below which importance weights have a finite variance."""
_EQUAL = 1e-8
"""Log ratios within this many nats of one another are equal but for rounding."""
_UNDERFLOW = 1e-300


def largest_khat(draws: int) -> float:
    """The k-hat above which importance sampling with that many draws is unreliable: min(1 - 1 / log10(draws), 0.7).

    Vehtari, Simpson, Gelman, Yao & Gabry 2024, section 3.2.
    """
    return min(1.0 - 1.0 / math.log10(draws), 0.7) if draws > 1 else -math.inf


def pareto_smoothed(log_ratios: Array) -> tuple[Array, float]:
    """Smooths the largest importance weights and returns the shape of their tail.

    Args:
        log_ratios: Logarithms of the importance ratios, up to a constant, `(draws,)`.

    Returns:
        Log weights that sum to one, and k-hat: minus infinity where all ratios are equal (ArviZ has no tail to fit
        then); plus infinity where so few carry all the weight that the rest of the tail underflows (where ArviZ gives
        a number without a meaning); NaN where a ratio is not finite, the tail is one value, or there are fewer than
        100 draws. Where k-hat is infinite or NaN the weights are not smoothed.
    """
    draws = len(log_ratios)
    if not np.isfinite(log_ratios).all():
        return np.full(draws, -math.log(draws)), math.nan
    plain = log_ratios - logsumexp(log_ratios)
    if np.ptp(log_ratios) < _EQUAL:
        return plain, -math.inf if draws >= FEWEST_DRAWS else math.nan
    if draws < FEWEST_DRAWS:
        return plain, math.nan
    tail = math.ceil(3 * math.sqrt(draws)) if draws > 225 else draws // 5
    largest = np.exp(np.sort(log_ratios - log_ratios.max())[-tail:])
    if largest[tail // 4] <= largest[0]:  # the quartile of the tail, by which ArviZ divides
        return plain, math.inf if largest[0] < _UNDERFLOW else math.nan
    arviz()  # importing it gives arrays their statistics
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        smoothed, khat = xr.DataArray(-log_ratios, dims="draw").azstats.psislw(dim="draw")  # it takes minus the ratios
    return np.asarray(smoothed.values), float(khat)
