"""The horseshoe regression beside a Gibbs sampler in numpy, and with a column twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import BayesianRidge
from sklearn.metrics import r2_score

import bayesprune as bp
from tests.oracles.horseshoe_gibbs import horseshoe_gibbs

ROWS = 80


def problem(twice=True):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, 6))
    if twice:
        x[:, 1] = x[:, 0]
    x[:, 3] = 0.9 * x[:, 2] + 0.43 * x[:, 3]
    return x, x[:, 0] + 0.5 * x[:, 2] + 0.7 * rng.standard_normal(ROWS)


def exact(x, y, draws=20_000):
    """Weights, prior scales and noise by Gibbs, in standard units, and which features each draw includes."""
    standard = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
    weights, scales, noise = horseshoe_gibbs(*standard, 0.25 / ROWS**0.5, draws)
    return weights, ROWS * scales**2 / noise[:, None] ** 2 > 1.0, noise


@pytest.fixture(scope="module")
def twice():
    return problem()


@pytest.fixture(scope="module")
def fitted(twice):
    return bp.HorseshoeRegression().fit(*twice)


def test_means_and_noise_are_those_of_gibbs_and_copies_share_their_effect(twice, fitted):
    weights, included, noise = exact(*twice)
    mean, found = weights.mean(0), fitted.coefficients_.mean(0)
    assert found[0] + found[1] == pytest.approx(mean[0] + mean[1], abs=0.04)
    np.testing.assert_allclose(found[2:], mean[2:], atol=0.04)
    assert fitted.noise_.mean() == pytest.approx(noise.mean(), abs=0.03)
    # either copy is in part of the draws only, at least one of them in all: what the page says
    assert (np.abs(included[:, :2].mean(0) - 0.775) < 0.03).all() and included[:, :2].any(1).mean() > 0.995
    np.testing.assert_allclose(mean[:2], 0.4, atol=0.04)
    assert (weights[:, :2].std(0) > 0.35).all() and (fitted.coefficients_[:, :2].std(0) < 0.2).all()
    assert fitted.included_any([0, 1]) > 0.99 and fitted.inclusion_[:2].max() > 0.95


def test_inclusion_of_single_features_is_near_that_of_gibbs():
    x, y = problem(twice=False)
    _, included, _ = exact(x, y)
    found = bp.HorseshoeRegression(draws=2000).fit(x, y)
    assert np.abs(found.inclusion_ - included.mean(0)).max() < 0.15
    assert set(np.argsort(-found.inclusion_)[:2]) == set(np.argsort(-included.mean(0))[:2]) == {0, 2}


def test_predictions_are_in_the_units_of_y_and_sds_cover(twice, fitted):
    x, y = twice
    rng = np.random.default_rng(1)
    more = rng.standard_normal((400, 6))
    more[:, 1] = more[:, 0]
    more[:, 3] = 0.9 * more[:, 2] + 0.43 * more[:, 3]
    later = more[:, 0] + 0.5 * more[:, 2] + 0.7 * rng.standard_normal(400)
    mean, sd = fitted.predict(more, return_std=True)
    assert r2_score(later, mean) > BayesianRidge().fit(x, y).score(more, later) - 0.02
    assert (np.abs(later - mean) < 1.96 * sd).mean() == pytest.approx(0.95, abs=0.04)
    scaled = bp.HorseshoeRegression().fit(5.0 * x - 3.0, 10.0 * y + 100.0)
    np.testing.assert_allclose(scaled.predict(5.0 * more - 3.0), 100.0 + 10.0 * mean, atol=0.05)
    np.testing.assert_array_equal(fitted.predict(more), mean)


def test_it_is_a_regressor_of_scikit_learn_and_leaves_the_random_numbers_of_others(twice):
    model = clone(bp.HorseshoeRegression(steps=20, seed=3))
    assert model.get_params()["steps"] == 20 and model.get_params()["seed"] == 3
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = model.fit(*twice).coefficients_
    torch.testing.assert_close(torch.rand(3), expected)
    np.testing.assert_array_equal(clone(model).fit(*twice).coefficients_, first)
    assert np.abs(clone(model).set_params(seed=4).fit(*twice).coefficients_ - first).max() > 0.0


def test_a_constant_column_is_left_out(twice):
    x = np.column_stack([twice[0], np.full(ROWS, 7.0)])
    found = bp.HorseshoeRegression(steps=100).fit(x, twice[1])
    assert found.inclusion_[-1] == 0.0 and np.isfinite(found.predict(x)).all()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_nuts_on_the_declaration_is_gibbs():
    x, y = problem(twice=False)
    weights, included, noise = exact(x, y)
    found = bp.HorseshoeRegression(method="nuts", warmup=300, draws=500).fit(x, y)
    np.testing.assert_allclose(found.coefficients_.mean(0), weights.mean(0), atol=0.03)
    np.testing.assert_allclose(found.coefficients_.std(0), weights.std(0), rtol=0.35)
    np.testing.assert_allclose(found.inclusion_, included.mean(0), atol=0.12)
    assert found.noise_.mean() == pytest.approx(noise.mean(), abs=0.02)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda x, y: bp.HorseshoeRegression(method="gibbs").fit(x, y), "method='gibbs' is unknown: one of svi, nuts"),
        (lambda x, y: bp.HorseshoeRegression(share=1.0).fit(x, y), "share is 1.0, but a number between 0 and 1"),
        (lambda x, y: bp.HorseshoeRegression().fit(x, y[:3]), r"scores of shape \(3,\) do not belong together"),
        (lambda x, y: bp.HorseshoeRegression().fit(x * np.nan, y), "have to be finite"),
        (lambda x, y: bp.HorseshoeRegression().fit(x, 0.0 * y), "scores not all equal"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_a_sentence(twice, make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(*twice)
