"""Draws of the Polya-Gamma distribution PG(1, c), by which a logistic regression is Normal given them.

The method of Devroye as Polson, Scott & Windle 2013 (algorithm 1) have it: an accept-reject sampler of J*(1, c / 2)
whose alternating series decides every draw exactly, so that nothing is truncated. PG(1, c) is J*(1, c / 2) / 4, of
mean tanh(c / 2) / (2 c).
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr

__all__ = ["polya_gamma"]

Array = np.ndarray
_T = 0.64
"""Where the two forms of the density meet: inverse Gaussian below, exponential above."""


def polya_gamma(c: Array, rng: np.random.Generator) -> Array:
    """One draw of PG(1, c) for each c.

    Args:
        c: Any real numbers, of any shape; the distribution depends on their size alone.
        rng: The random numbers.

    Returns:
        Positive numbers of that shape.
    """
    z = 0.5 * np.abs(np.asarray(c, dtype=np.float64)).ravel()
    found = np.empty_like(z)
    left = np.arange(len(z))
    while len(left):
        x = _proposed(z[left], rng)
        accepted = _accepted(x, rng)
        found[left[accepted]] = x[accepted]
        left = left[~accepted]
    return 0.25 * found.reshape(np.shape(c))


def _proposed(z: Array, rng: np.random.Generator) -> Array:
    """Draws of the envelope: an exponential above `_T`, an inverse Gaussian below."""
    rate = 0.125 * np.pi**2 + 0.5 * z**2
    above = np.log(np.pi) - np.log(2.0 * rate) - rate * _T
    root = np.sqrt(1.0 / _T)
    # The distribution function of an inverse Gaussian of mean 1 / z and shape 1, times 2 exp(-z), on the log scale.
    first, second = log_ndtr(root * (_T * z - 1.0)) - z, log_ndtr(-root * (_T * z + 1.0)) + z
    below = np.log(2.0) + np.logaddexp(first, second)
    is_above = rng.random(len(z)) < np.exp(above - np.logaddexp(above, below))
    x = np.empty_like(z)
    x[is_above] = _T + rng.standard_exponential(int(is_above.sum())) / rate[is_above]
    x[~is_above] = _short_inverse_gaussian(z[~is_above], rng)
    return x


def _short_inverse_gaussian(z: Array, rng: np.random.Generator) -> Array:
    """Inverse Gaussians of mean 1 / z and shape 1, below `_T`."""
    x = np.empty_like(z)
    left = np.arange(len(z))
    while len(left):
        own = z[left]
        wide = own < 1.0 / _T  # the mean lies above: by a chi-square above 1 / _T, of one degree of freedom
        drawn = np.zeros_like(own)
        accepted = np.zeros(len(own), dtype=bool)
        first, second = rng.standard_exponential((2, len(own)))
        drawn[wide] = (_T / (1.0 + _T * first) ** 2)[wide]
        fits = first**2 <= 2.0 * second / _T
        accepted[wide] = (fits & (rng.random(len(own)) <= np.exp(-0.5 * own**2 * drawn)))[wide] if wide.any() else False
        narrow = ~wide
        if narrow.any():
            mean = 1.0 / own[narrow]
            square = rng.standard_normal(int(narrow.sum())) ** 2
            one = mean + 0.5 * mean**2 * square - 0.5 * mean * np.sqrt(4.0 * mean * square + (mean * square) ** 2)
            swapped = rng.random(len(one)) > mean / (mean + one)
            one = np.where(swapped, mean**2 / one, one)
            drawn[narrow], accepted[narrow] = one, one <= _T
        x[left[accepted]] = drawn[accepted]
        left = left[~accepted]
    return x


def _accepted(x: Array, rng: np.random.Generator) -> Array:
    """Whether proposals are kept: a uniform number under the alternating series of the density, term by term."""
    total = _term(x, 0)
    level = rng.random(len(x)) * total
    accepted, open_ = np.zeros(len(x), dtype=bool), np.ones(len(x), dtype=bool)
    number = 0
    while open_.any():
        number += 1
        if number % 2:
            total = total - _term(x, number)
            accepted |= open_ & (level <= total)
            open_ &= level > total
        else:
            total = total + _term(x, number)
            open_ &= level <= total
    return accepted


def _term(x: Array, number: int) -> Array:
    """The `number`-th term of the series."""
    half = number + 0.5
    with np.errstate(over="ignore", divide="ignore"):
        short = (2.0 / (np.pi * x)) ** 1.5 * np.exp(-2.0 * half**2 / x)
    found: Array = np.pi * half * np.where(x <= _T, short, np.exp(-0.5 * half**2 * np.pi**2 * x))
    return found
