"""Leave-one-out against refits in closed form, and against ArviZ."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

import bayesprune as bp
from bayesprune.analysis.arviz.shim import arviz
from bayesprune.analysis.diagnostics.log_densities import LogDensities
from bayesprune.analysis.diagnostics.loo import _drawn, _estimate
from tests.analysis.regressions import data_of, fit_with_guide
from tests.oracles.conjugate_regression import regression

ORTHOGONAL = regression(size=40, features=3)
CORRELATED = regression(size=40, features=3, correlation=0.3)


def found(problem, **how):
    return bp.loo(fit_with_guide(problem), data_of(problem), points=None, **how)


def test_where_the_guide_is_the_posterior_it_is_the_exact_leave_one_out():
    exact = ORTHOGONAL.leave_one_out()
    estimate = found(ORTHOGONAL).guide
    np.testing.assert_allclose(estimate.pointwise, exact, atol=0.05)
    assert estimate.elpd == pytest.approx(exact.sum(), abs=0.3)
    assert (estimate.verdict, estimate.subsampling_error) == ("reliable", 0.0)
    # Control: with each point left in, the density is higher by the effective number of parameters.
    design, sd = ORTHOGONAL.x, ORTHOGONAL.meanfield_sd
    variance = 1 + (design**2 * sd**2).sum(1)
    inside = -0.5 * np.log(2 * np.pi * variance) - 0.5 * (ORTHOGONAL.y - design @ ORTHOGONAL.mean) ** 2 / variance
    assert inside.sum() - exact.sum() > 2


@pytest.mark.parametrize("kl_weight", [0.3, 3.0])
def test_a_tempered_guide_is_left_without_all_the_copies_of_a_point_that_it_has_seen(kl_weight):
    """A likelihood to the power 1 / T is one whose noise variance is T times as large, but for what y is scored by."""
    x, y = ORTHOGONAL.x, ORTHOGONAL.y
    precision = np.eye(3) + x.T @ x / kl_weight
    mean, sd = np.linalg.solve(precision, x.T @ y / kl_weight), np.diag(precision) ** -0.5
    exact = []
    for point in range(len(y)):
        kept = np.arange(len(y)) != point
        other = np.eye(3) + x[kept].T @ x[kept] / kl_weight
        error = y[point] - x[point] @ np.linalg.solve(other, x[kept].T @ y[kept] / kl_weight)
        variance = 1.0 + x[point] @ np.linalg.solve(other, x[point])
        exact.append(-0.5 * np.log(2 * np.pi * variance) - 0.5 * error**2 / variance)
    fit = fit_with_guide(ORTHOGONAL, sd=sd, mean=mean)
    plain = bp.loo(fit, data_of(ORTHOGONAL), points=None)
    fit.settings["kl_weight"] = kl_weight
    tempered = bp.loo(fit, data_of(ORTHOGONAL), points=None)
    assert tempered.guide.elpd == pytest.approx(sum(exact), abs=0.25)
    assert abs(plain.guide.elpd - sum(exact)) > 0.6  # control: one copy left out, of which it has seen 1 / T
    assert f"tempered, KL weight {kl_weight:g}" in str(tempered) and "tempered" not in str(plain)
    fit.settings["kl_weight"] = 0.0
    with pytest.raises(ValueError, match="this fit has KL weight 0"):
        bp.loo(fit, data_of(ORTHOGONAL))


def test_importance_weights_correct_for_a_guide_that_is_not_the_posterior():
    exact = CORRELATED.leave_one_out().sum()
    both = found(CORRELATED, posterior=True)
    assert both.posterior.elpd == pytest.approx(exact, abs=0.15)
    assert abs(both.guide.elpd - exact) > 0.3  # control: without them it is the guide's, which is too narrow
    assert (both.posterior.verdict, both.guide.verdict) == ("reliable", "reliable")
    further = found(regression(size=40, features=3, correlation=0.7), posterior=True)
    assert (further.posterior.verdict, further.guide.verdict) == ("cannot tell", "reliable")


def test_it_is_arviz_s_estimate():
    both = found(CORRELATED, draws=400, posterior=True)
    densities = LogDensities(fit_with_guide(CORRELATED), 0)
    _, likelihoods, ratios = _drawn(densities, data_of(CORRELATED), np.arange(40), 400, posterior=True)
    tree = arviz().from_dict({"posterior": {"one": np.zeros((1, 400))}, "log_likelihood": {"y": likelihoods[None]}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ's own, of bad k-hats
        theirs = arviz().loo_approximate_posterior(tree, ratios, np.zeros(400), pointwise=True)
    np.testing.assert_allclose(both.posterior.pointwise, theirs.elpd_i.values, rtol=1e-10)
    np.testing.assert_allclose(both.posterior.khat, theirs.pareto_k.values, rtol=1e-10)
    assert both.posterior.elpd == pytest.approx(theirs.elpd, rel=1e-10)
    assert both.posterior.error == pytest.approx(theirs.se, rel=0.02)  # ArviZ divides by n, here it is n - 1
    assert both.guide.elpd != pytest.approx(theirs.elpd, rel=1e-4)  # control


@pytest.fixture(scope="module")
def densities_of_many():
    problem = regression(size=400, features=5)
    densities = LogDensities(fit_with_guide(problem), 0)
    return _drawn(densities, data_of(problem), np.arange(400), 200, posterior=False)


def test_a_subsample_estimates_the_whole_with_the_error_that_it_states(densities_of_many):
    centre, likelihoods, none = densities_of_many
    whole = _estimate(likelihoods, none, centre, np.arange(400), 400)
    rng = np.random.default_rng(0)
    misses, scores, plain = [], [], []
    for _ in range(60):
        rows = rng.choice(400, 40, replace=False)
        part = _estimate(likelihoods[:, rows], none, centre, rows, 400)
        misses.append(part.elpd - whole.elpd)
        scores.append(misses[-1] / part.subsampling_error)
        plain.append(400 * part.pointwise.mean() - whole.elpd)
        assert part.error == pytest.approx(whole.error, rel=0.6)
    assert abs(np.mean(scores)) < 0.45
    assert 0.6 < np.std(scores) < 1.6
    # Control: without the centre's densities the sample says far less.
    assert np.std(plain) > 5 * np.std(misses)


def test_few_draws_constant_draws_and_bad_tails_cannot_tell(gaussian, digits):
    few = found(ORTHOGONAL, draws=99).guide
    assert (few.verdict, few.reason) == ("cannot tell", "99 draws say nothing: 100 are needed at least")
    fit = fit_with_guide(ORTHOGONAL, sd=np.full(3, 1e-320))
    still = bp.loo(fit, data_of(ORTHOGONAL), draws=100).guide
    assert (still.verdict, still.reason) == ("cannot tell", "all draws are alike")
    network = bp.loo(gaussian, digits["train"], draws=100, points=30, posterior=True)
    assert network.posterior.verdict == "cannot tell"
    assert network.posterior.bad > 0.9
    assert str(network).count("\n") == 3 and "tempered, KL weight 0.1" in str(network)
    assert "of the posterior  cannot tell: elpd" in str(network)


def test_a_network_s_own_predictions_are_scored(gaussian, digits):
    found = bp.loo(gaussian, digits["train"], draws=100, points=50)
    again = bp.loo(gaussian, digits["train"], draws=100, points=50)
    other = bp.loo(gaussian, digits["train"], draws=100, points=50, seed=1)
    assert found.posterior is None
    assert len(found.points) == len(set(found.points.tolist())) == len(found.guide.khat) == 50
    assert found.guide.elpd == again.guide.elpd != other.guide.elpd
    per_point = -found.guide.elpd / 300
    held_out = gaussian.negative_log_likelihood(*digits["held out"], draws=100)
    assert per_point == pytest.approx(held_out, rel=0.25)


def test_what_makes_no_sense_is_refused(halo, digits):
    x, y = digits["train"]
    with pytest.raises(ValueError, match="this fit is a MAP"):
        bp.loo(halo, (x, y))
    fit = fit_with_guide(ORTHOGONAL)
    with pytest.raises(ValueError, match="data= has 39 rows, but the fit had 40"):
        bp.loo(fit, tuple(part[1:] for part in data_of(ORTHOGONAL)))
    for how in ({"draws": 0}, {"points": 1}):
        with pytest.raises(ValueError, match="draws must be at least 1 and points at least 2"):
            bp.loo(fit, data_of(ORTHOGONAL), **how)
    assert len(bp.loo(fit, data_of(ORTHOGONAL), draws=1, points=10**6).points) == 40
    assert torch.is_grad_enabled()
