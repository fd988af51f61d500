"""Restarts combined: a mixture weighted by the ELBO, beside closed forms and enumeration."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.combined import shared_out
from tests.oracles.spike_and_slab_reference import RegressionProblem, enumerate_posterior, paired_elbo

ROWS = 60


def twice_the_same_column(seed=0):
    """Four columns, the first of which comes twice: which of the two is in cannot be told."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((ROWS, 4))
    x[:, 2] = x[:, 0]
    return RegressionProblem(x, 0.8 * x[:, 0] + 0.4 * x[:, 1] + rng.standard_normal(ROWS), 1.0, 1.0, 0.25)


def model_of(problem):
    line = nn.Sequential(nn.Linear(problem.x.shape[1], 1, bias=False), nn.Flatten(0))
    prior = bp.SpikeAndSlab(problem.inclusion, problem.slab_sd)
    return bp.BayesianNetwork(line, {"0.weight": prior}, bp.Normal(problem.noise_sd), len(problem.x))


def data_of(problem):
    return torch.tensor(problem.x).float(), torch.tensor(problem.y).float()


@pytest.fixture(scope="module")
def problem():
    return twice_the_same_column()


@pytest.fixture(scope="module")
def fit(problem):
    torch.manual_seed(0)
    options = {"restarts": 4, "steps": 500, "learning_rate": 2e-2, "batch_size": ROWS, "device": "cpu"}
    return bp.fit(model_of(problem), data_of(problem), **options)


@pytest.fixture(scope="module")
def combined(fit):
    return fit.combined(draws=800)


def test_a_duplicated_column_is_believed_in_by_halves_where_each_restart_takes_one(problem, fit, combined):
    exact = enumerate_posterior(problem).pips
    found = combined.inclusion_probabilities()["0.weight"].values[0]
    singles = [np.abs(fit.inclusion_probabilities(r)["0.weight"].values[0] - exact).max() for r in range(4)]
    assert min(singles) > 0.35  # the control: whichever restart one reads
    assert np.abs(found - exact).max() < 0.2
    assert len(set(combined.solutions)) == 2


def test_the_elbo_is_the_exact_one_within_its_error(problem, fit, combined):
    for restart, elbo, error in zip(fit.restarts, combined.elbo, combined.error, strict=True):
        family = restart.guide.families[0]
        a, m = family.logit.detach().double().sigmoid(), family.location.detach().double()
        v = (2.0 * family.log_scale.detach().double()).exp()
        exact = paired_elbo(problem, a.numpy(), m.numpy(), v.numpy())
        assert abs(elbo - exact) < 5.0 * error
        assert 0.0 < error < 0.2
        wrong = dataclasses.replace(problem, noise_sd=1.1)
        assert abs(elbo - paired_elbo(wrong, a.numpy(), m.numpy(), v.numpy())) > 5.0 * error


def test_solutions_are_weighted_by_their_elbo_and_shared_by_those_who_found_them(combined):
    groups = np.array(combined.solutions)
    best = np.array([combined.elbo[groups == one].max() for one in (0, 1)])
    shares = np.array([combined.weights[groups == one].sum() for one in (0, 1)])
    assert math.log(shares[0] / shares[1]) == pytest.approx(best[0] - best[1], abs=1e-9)
    assert combined.weights.sum() == pytest.approx(1.0)
    for one in (0, 1):  # within a solution too
        members = np.flatnonzero(groups == one)
        ratios = combined.weights[members] / combined.weights[members[0]]
        np.testing.assert_allclose(np.log(ratios), combined.elbo[members] - combined.elbo[members[0]], atol=1e-9)
    by_count = np.array([(groups == one).mean() for one in (0, 1)])
    assert not np.allclose(shares, by_count, atol=0.05) or (by_count == 0.5).all()  # no counting of heads


def test_a_solution_found_again_changes_nothing(fit, combined):
    again = dataclasses.replace(fit, restarts=[*fit.restarts, fit.restarts[0], fit.restarts[0]])
    more = again.combined(draws=800).inclusion_probabilities()["0.weight"].values
    np.testing.assert_allclose(more, combined.inclusion_probabilities()["0.weight"].values, atol=0.02)


def test_a_restart_that_has_failed_is_a_solution_of_its_own_and_weighs_nothing(problem, fit):
    failed = copy.deepcopy(fit.restarts[0])
    with torch.no_grad():
        failed.guide.families[0].location.mul_(-3.0)  # the same probabilities, and wrong weights
    found = dataclasses.replace(fit, restarts=[*fit.restarts, failed]).combined(draws=200)
    assert found.weights[-1] < 1e-6
    assert found.solutions[-1] not in found.solutions[:-1]
    equal = dataclasses.replace(fit, restarts=[*fit.restarts, failed]).combined(weights="equal")
    assert equal.weights[-1] == 0.2


def test_the_part_of_the_examples_that_was_looked_at_counts_among_the_errors(problem, fit, combined):
    x, y = data_of(problem)
    part = fit.combined((x[:20], y[:20]), draws=800)
    assert "on 20 of 60 examples" in part.reason
    other = int(np.argmin(part.elbo))
    means = [fit.predict(x[:20], 800, r).draws for r in (other, int(np.argmax(part.elbo)))]
    each = [torch.distributions.Normal(m, problem.noise_sd).log_prob(y[:20]).mean(0) for m in means]
    expected = 3.0 * float((each[0] - each[1]).std()) * np.sqrt(20.0) * np.sqrt(1 - 20 / 60)
    assert part.error[other] == pytest.approx(np.hypot(expected, combined.error[other]), rel=0.25)
    assert part.error[other] > 1.5 * combined.error[other]


def test_predictions_are_those_of_all_restarts_by_their_weights(problem, fit):
    x, _ = data_of(problem)
    equal = fit.combined(weights="equal")
    assert np.isnan(equal.elbo).all()
    pooled = equal.predict(x, draws=32)
    by_hand = torch.cat([fit.predict(x, 8, restart).draws for restart in range(4)])
    assert torch.equal(pooled.draws, by_hand)
    assert torch.allclose(pooled.mean, by_hand.mean(0))
    first = dataclasses.replace(equal, weights=np.array([1.0, 0.0, 0.0, 0.0]))
    assert torch.equal(first.predict(x, draws=16).mean, fit.predict(x, 16, 0).mean)
    assert not torch.equal(pooled.mean, first.predict(x, draws=16).mean)


def test_the_nll_is_of_the_mean_density_of_all_draws(problem, fit):
    x, y = data_of(problem)
    equal = fit.combined(weights="equal")
    means = torch.cat([fit.predict(x, 8, restart).draws for restart in range(4)])
    density = torch.distributions.Normal(means, problem.noise_sd).log_prob(y)
    expected = -float((density.logsumexp(0) - math.log(32)).mean())
    scores = equal.score(x, y, draws=32)
    assert scores["nll"] == pytest.approx(expected, abs=1e-5)
    assert scores["rmse"] == pytest.approx(float((means.mean(0) - y).square().mean().sqrt()), abs=1e-5)
    assert scores["nll"] < -float(density.mean())  # the mean of log densities is another number


def test_a_tempered_fit_is_weighted_by_the_elbo_of_the_tempered_likelihood(problem, fit, combined):
    tempered = dataclasses.replace(fit, settings=fit.settings | {"kl_weight": 0.5})
    found = tempered.combined(draws=800)
    one = fit.restarts[0]
    kl = float(bp.objective(one.model, one.guide).terms(*data_of(problem)).kl)
    assert found.elbo[0] == pytest.approx(2.0 * (combined.elbo[0] + kl) - kl, abs=1e-2)
    assert "power 2" in found.reason
    assert "power" not in combined.reason


def test_a_loaded_fit_needs_the_data_and_then_says_the_same(tmp_path, problem, fit, combined):
    loaded = bp.Fit.load(fit.save(tmp_path / "fit"), model_of(problem))
    with pytest.raises(ValueError, match=r"give combined\(data=\(x, y\)\)"):
        loaded.combined()
    found = loaded.combined(data_of(problem), draws=800)
    np.testing.assert_allclose(found.weights, combined.weights, rtol=1e-4)


def test_a_network_with_hidden_units_is_predicted_with_and_its_probabilities_are_not_averaged():
    torch.manual_seed(0)
    x, y = torch.randn(40, 3), torch.randn(40)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0))
    bnn = bp.BayesianNetwork(network, {"*.weight": bp.SpikeAndSlab()}, bp.Normal(0.5), 40)
    found = bp.fit(bnn, (x, y), steps=20, restarts=2, device="cpu").combined()
    assert found.predict(x).mean.shape == (40,)
    assert found.weights.sum() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="hidden units of one restart are not those of another"):
        found.inclusion_probabilities()


def test_points_have_no_elbo_and_are_averaged_as_equals():
    torch.manual_seed(0)
    x, y = torch.randn(30, 3), torch.randn(30)
    line = nn.Sequential(nn.Linear(3, 1), nn.Flatten(0))
    bnn = bp.BayesianNetwork(line, {"*.weight": bp.Gaussian()}, bp.Normal(0.5), 30)
    fit = bp.fit(bnn, (x, y), "map", steps=20, restarts=3, device="cpu")
    with pytest.raises(ValueError, match=r"is a point: use combined\(weights='equal'\)"):
        fit.combined()
    mean = torch.stack([fit.predict(x, restart=r).mean for r in range(3)]).mean(0)
    assert torch.allclose(fit.combined(weights="equal").predict(x, draws=9).mean, mean)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weights": "best"}, "'elbo' or 'equal', not 'best'"),
        ({"data": torch.zeros(3)}, r"a tuple \(x, y\) of tensors, not Tensor"),
        ({"data": (torch.zeros(3, 4), torch.zeros(2))}, "3 inputs and 2 targets"),
        ({"draws": 1}, "draws must be at least 2"),
    ],
)
def test_what_cannot_be_combined_is_refused_in_a_sentence(fit, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit.combined(**options)


def test_draws_are_shared_out_whole():
    assert shared_out(np.array([0.5, 0.3, 0.2]), 10) == [5, 3, 2]
    assert shared_out(np.array([1 / 3, 1 / 3, 1 / 3]), 10) == [4, 3, 3]
    assert shared_out(np.array([0.996, 0.004]), 100) == [100, 0]
    assert sum(shared_out(np.random.default_rng(0).dirichlet(np.ones(7)), 33)) == 33


def test_it_prints_a_line_a_restart(combined):
    lines = str(combined).splitlines()
    assert lines[0] == "4 restarts, 2 solutions, weighted by their ELBO"
    assert len(lines) == 6
    assert f"{combined.weights[0]:.3f}" in lines[2]
