"""The shape of a tail against distributions whose shape is known."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from bayesprune.analysis.diagnostics.pareto_smoothing import largest_khat, pareto_smoothed


def khats(log_ratios_of, seeds=8, draws=4000):
    return np.mean([pareto_smoothed(log_ratios_of(np.random.default_rng(seed), draws))[1] for seed in range(seeds)])


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_the_shape_of_generalised_pareto_ratios_is_found(shape):
    found = khats(lambda rng, n: np.log(stats.genpareto.rvs(shape, size=n, random_state=rng)))
    assert found == pytest.approx(shape, abs=0.08)


@pytest.mark.parametrize("sd", [0.9, 0.7, 0.5])
def test_a_normal_guide_that_is_too_narrow_has_shape_one_minus_its_variance(sd):
    def log_ratios(rng, n):
        x = sd * rng.normal(size=n)
        return -0.5 * x**2 + 0.5 * (x / sd) ** 2

    # The Pareto law is reached slowly: log factors bias what 4,000 draws can see.
    assert khats(log_ratios) == pytest.approx(1 - sd**2, abs=0.15)
    assert khats(log_ratios) == pytest.approx(khats(lambda rng, n: log_ratios(rng, n) + 1e4), abs=1e-9)


def test_equal_ratios_have_no_tail():
    rng = np.random.default_rng(0)
    for ratios in (np.full(500, -3.7), -3.7 + 1e-12 * rng.normal(size=500)):
        weights, khat = pareto_smoothed(ratios)
        assert khat == -math.inf
        np.testing.assert_allclose(np.exp(weights), 1 / 500)
    assert math.isfinite(pareto_smoothed(-3.7 + 1e-3 * rng.normal(size=500))[1])  # control


def test_a_tail_that_underflows_is_the_worst_there_is():
    ratios = 1000 * np.random.default_rng(0).normal(size=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        naive = float(xr.DataArray(-ratios, dims="draw").azstats.psislw(dim="draw")[1])
    assert not naive > 0.5  # control: what ArviZ makes of it looks fine, or is NaN
    weights, khat = pareto_smoothed(ratios)
    assert khat == math.inf
    assert np.exp(weights).sum() == pytest.approx(1.0)


def test_what_cannot_be_told_is_nan():
    rng = np.random.default_rng(0)
    assert math.isnan(pareto_smoothed(rng.normal(size=99))[1])
    assert math.isfinite(pareto_smoothed(rng.normal(size=100))[1])
    assert math.isnan(pareto_smoothed(np.append(rng.normal(size=200), np.nan))[1])
    assert math.isnan(pareto_smoothed(np.repeat([0.0, 1.0], 200))[1])  # a tail of one value is no tail


def test_smoothed_weights_estimate_better_than_raw_ones():
    """E x^2 = 1 under N(0, 1) from draws of N(0, 0.7^2), many times: PSIS has the smaller mean squared error."""
    raw, smoothed = [], []
    for seed in range(200):
        x = 0.6 * np.random.default_rng(seed).normal(size=400)
        ratios = -0.5 * x**2 + 0.5 * (x / 0.6) ** 2
        plain = np.exp(ratios - ratios.max())
        raw.append((plain / plain.sum()) @ x**2)
        smoothed.append(np.exp(pareto_smoothed(ratios)[0]) @ x**2)
    assert np.mean((np.array(smoothed) - 1) ** 2) < np.mean((np.array(raw) - 1) ** 2)


@pytest.mark.parametrize(("draws", "limit"), [(1, -math.inf), (10, 0.0), (100, 0.5), (1000, 2 / 3), (10_000, 0.7)])
def test_the_threshold_grows_with_the_draws(draws, limit):
    assert largest_khat(draws) == pytest.approx(limit)
