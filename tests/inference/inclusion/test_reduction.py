"""Bayesian model reduction: the change of the evidence beside two evidences, integrals and enumeration."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from torch import nn

import bayesprune as bp
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.inclusion.reduction import (
    evidence_change,
    log_evidence_change,
    reduced_inclusion,
    reduction,
)
from bayesprune.inference.restart import Restart
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.latent import Latent
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.priors.gaussian import Gaussian
from tests.oracles import reduction_reference as exact
from tests.oracles import spike_and_slab_reference as spike

PROBLEM = spike.orthogonal_problem()


def fit_with(problem, location, sd, prior=None, guide="meanfield"):
    """A fit of a regression whose guide is Normal(location, sd), float64; no step is taken."""
    layer = nn.Linear(problem.x.shape[1], 1, bias=False, dtype=torch.float64)
    model = BayesianNetwork(
        layer, {"weight": prior or Gaussian(problem.slab_sd)}, Normal(problem.noise_sd), len(problem.y)
    )
    q = Guide(model, guide)
    with torch.no_grad():
        for family in q.families:
            family.location.copy_(torch.as_tensor(location))
            if hasattr(family, "log_scale"):
                family.log_scale.copy_(torch.as_tensor(sd).log())
    return Fit([Restart(model, q, 0)], xr.Dataset(), {})


def mean_field_fit(problem):
    """The mean-field guide of highest ELBO: the posterior's means, and one over the diagonal of its precision."""
    mean, covariance = exact.posterior(problem.x, problem.y, problem.noise_sd, problem.slab_sd)
    return fit_with(problem, mean, np.diag(np.linalg.inv(covariance)) ** -0.5)


def changes_of(fit, **more):
    return evidence_change(fit, **more)["weight"].values.reshape(-1)


def exact_changes(problem, reduced_sd=0.0):
    return exact.exact_changes(problem.x, problem.y, problem.noise_sd, problem.slab_sd, reduced_sd)


# -- the change of the evidence ------------------------------------------------------------------------------


@pytest.mark.parametrize("reduced_sd", [0.0, 1e-3, 0.1, 0.9])
def test_with_orthogonal_features_the_change_is_the_difference_of_two_log_evidences(reduced_sd):
    found = changes_of(mean_field_fit(PROBLEM), reduced_sd=reduced_sd)
    expected = exact_changes(PROBLEM, reduced_sd)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert found.min() < -1.0 < 0.0 < found.max() or reduced_sd == 0.9  # some weights are wanted, some are not
    # Control: a posterior sd that is off by one part in a hundred thousand is seen.
    mean, covariance = exact.posterior(PROBLEM.x, PROBLEM.y, PROBLEM.noise_sd, PROBLEM.slab_sd)
    nearly = changes_of(fit_with(PROBLEM, mean, np.diag(covariance) ** 0.5 * (1 + 1e-5)), reduced_sd=reduced_sd)
    assert np.abs(nearly - expected).max() > 1e-8


def test_orthogonal_changes_of_several_weights_add_up():
    sds = np.full(PROBLEM.x.shape[1], PROBLEM.slab_sd)
    full = exact.log_marginal(PROBLEM.x, PROBLEM.y, PROBLEM.noise_sd, sds)
    sds[[0, 3, 7]] = 0.0
    both = exact.log_marginal(PROBLEM.x, PROBLEM.y, PROBLEM.noise_sd, sds) - full
    assert changes_of(mean_field_fit(PROBLEM))[[0, 3, 7]].sum() == pytest.approx(both, abs=1e-9)


def test_with_correlated_features_the_exact_marginal_still_is_exact_and_mean_field_is_not():
    problem = spike.diabetes_problem()
    expected = exact_changes(problem)
    mean, covariance = exact.posterior(problem.x, problem.y, problem.noise_sd, problem.slab_sd)
    marginal = changes_of(fit_with(problem, mean, np.diag(covariance) ** 0.5))
    np.testing.assert_allclose(marginal, expected, rtol=0, atol=1e-8)  # Savage-Dickey holds whatever the others do
    assert np.abs(changes_of(mean_field_fit(problem)) - expected).max() > 1.0  # too narrow a guide: the error is its
    several = [4, 5]  # s1 and s2: each can do without the other, and not both can go
    sds = np.full(10, problem.slab_sd)
    sds[several] = 0.0
    both = exact.log_marginal(problem.x, problem.y, problem.noise_sd, sds)
    both -= exact.log_marginal(problem.x, problem.y, problem.noise_sd, np.full(10, problem.slab_sd))
    assert abs(marginal[several].sum() - both) > 0.1


@pytest.mark.parametrize("location", [0.0, 0.3, -2.0])
@pytest.mark.parametrize("sd", [0.05, 0.7, 1.6])  # the last is wider than the prior, as a guide may be
@pytest.mark.parametrize("reduced_sd", [0.01, 0.3, 1.1])
def test_the_change_is_the_integral_of_the_ratio_of_the_priors(location, sd, reduced_sd):
    prior_sd = 1.2
    parts = [torch.tensor([value], dtype=torch.float64) for value in (location, sd, prior_sd)]
    found = float(log_evidence_change(*parts, reduced_sd))
    expected = exact.change_by_quadrature(location, sd, prior_sd, reduced_sd)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    forgotten = found + math.log(reduced_sd / prior_sd)  # control: without the normalisers of the priors
    assert abs(forgotten - expected) > 0.05


def test_removal_is_the_limit_and_the_ratio_of_two_densities():
    location, sd = torch.tensor([0.4, 0.0, -1.0]).double(), torch.tensor([0.2, 0.5, 0.3]).double()
    prior_sd = torch.tensor([1.0, 2.0, 0.5]).double()
    removed = log_evidence_change(location, sd, prior_sd)
    ratio = dist.Normal(location, sd).log_prob(torch.zeros(())) - dist.Normal(0.0, prior_sd).log_prob(torch.zeros(()))
    torch.testing.assert_close(removed, ratio, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_evidence_change(location, sd, prior_sd, 1e-7), removed, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(log_evidence_change(location, sd, prior_sd, 1e-2), removed, rtol=1e-6)


def test_a_weight_that_the_data_say_nothing_about_changes_nothing():
    prior_sd = torch.tensor([0.7]).double()
    assert float(log_evidence_change(torch.zeros(1), prior_sd, prior_sd)) == 0.0


# -- inclusion probabilities ---------------------------------------------------------------------------------


def test_with_orthogonal_features_the_probabilities_are_those_of_enumeration():
    enumerated = spike.enumerate_posterior(PROBLEM).pips
    found = reduced_inclusion(mean_field_fit(PROBLEM), PROBLEM.inclusion)["weight"]
    np.testing.assert_allclose(found.values.reshape(-1), enumerated, rtol=0, atol=1e-9)
    assert found.attrs["kind"] == "reduction" and "one weight at a time" in found.attrs["event"]
    assert found.shape == (1, 10) and found.dims == ("weight.output", "weight.input")
    other = reduced_inclusion(mean_field_fit(PROBLEM))["weight"].values.reshape(-1)  # control: other prior odds
    assert np.abs(other - enumerated).max() > 0.1


def test_with_correlated_features_they_are_not():
    problem = spike.diabetes_problem()
    found = reduced_inclusion(mean_field_fit(problem), problem.inclusion)["weight"].values.reshape(-1)
    assert np.abs(found - spike.enumerate_posterior(problem).pips).max() > 0.2


def test_the_criterion_keeps_what_the_evidence_asks_for():
    fitted = mean_field_fit(PROBLEM)
    exact_order = exact_changes(PROBLEM)
    wanted = set(np.argsort(exact_order)[:3].tolist())
    result = bp.prune(fitted, sparsity=0.7, criterion=reduction)
    assert set(result.masks["weight"][0].nonzero()[:, 0].tolist()) == wanted
    assert result.report.criterion == "reduction" and result.report.sparsity == pytest.approx(0.7)
    least = bp.prune(
        fitted, sparsity=0.7, criterion=lambda fit, restart: {"weight": -reduction(fit, restart)["weight"]}
    )
    assert not set(least.masks["weight"][0].nonzero()[:, 0].tolist()) & wanted  # control: the sign


def test_a_real_mean_field_fit_reduces_tensors_of_their_own_prior():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    priors = {"0.weight": Hierarchy(weight=lambda size: dist.Normal(0.0, 6.0 / size)), "2.weight": Gaussian()}
    x = torch.randn(60, 3)
    fitted = bp.fit(BayesianNetwork(network, priors, data_size=60), (x, (x[:, 0] > 0).long()), steps=20, device="cpu")
    found = evidence_change(fitted, reduced_sd=0.05)
    (family,) = fitted.guide.families
    m, scale = (family.cut(part.detach().double()) for part in (family.location, family.log_scale))
    for number, (name, prior_sd) in enumerate({"0.weight": 0.5, "2.weight": 0.5**0.5}.items()):
        for index in np.ndindex(*found[name].shape):
            expected = exact.change_by_quadrature(
                float(m[number][index]), math.exp(float(scale[number][index])), prior_sd, 0.05
            )
            assert float(found[name].values[index]) == pytest.approx(expected, abs=1e-6)
    assert found["0.weight"].shape == (4, 3) and found["2.weight"].shape == (2, 4)
    assert found.attrs == {"units": "nats", "reduced_sd": 0.05, "tempered": int(fitted.settings["tempered"])}


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prior", "guide", "said"),
    [
        (Gaussian(1.0), "map", "point \\(MAP\\)"),
        (bp.SpikeAndSlab(), None, "fixed sd"),
        (bp.Horseshoe(), "meanfield", "fixed sd"),
        (bp.Laplace(1.0), "meanfield", "fixed sd"),
        (Hierarchy(weight=dist.Normal(0.1, 1.0)), "meanfield", "fixed sd"),
        (
            Hierarchy(s=Latent(dist.HalfNormal(1.0), per="layer"), weight=lambda s: dist.Normal(0.0, s)),
            None,
            "fixed sd",
        ),
        (Hierarchy(weight=dist.Normal(0.0, 1.0), factor=lambda weight: -weight.square().sum()), None, "fixed sd"),
        (Hierarchy(z=dist.Normal(0.0, 1.0), weight=lambda z: 0.5 * z), None, "fixed sd"),
    ],
)
@pytest.mark.parametrize("ask", [evidence_change, reduced_inclusion, reduction])
def test_what_cannot_be_reduced_is_refused_in_one_sentence(prior, guide, said, ask):
    model = BayesianNetwork(nn.Linear(3, 2), {"weight": prior}, data_size=10)
    with pytest.raises(ValueError, match=said) as refused:
        ask(Fit([Restart(model, Guide(model, guide), 0)], xr.Dataset(), {}))
    assert "\n" not in str(refused.value) and "weight" in str(refused.value)


@pytest.mark.parametrize("reduced_sd", [-0.1, 1.0, 2.0, math.nan, math.inf])
def test_a_reduced_prior_that_is_not_narrower_is_refused(reduced_sd):
    with pytest.raises(ValueError, match="reduced_sd"):
        evidence_change(mean_field_fit(PROBLEM), reduced_sd=reduced_sd)
    with pytest.raises(ValueError, match="reduced_sd"):
        log_evidence_change(torch.zeros(1), torch.ones(1), torch.ones(1), reduced_sd)


@pytest.mark.parametrize("density", [0.0, 1.0, -1.0, math.nan])
def test_prior_odds_have_to_be_odds(density):
    with pytest.raises(ValueError, match="expected_density"):
        reduced_inclusion(mean_field_fit(PROBLEM), density)


@pytest.mark.parametrize(("sd", "prior_sd"), [(0.0, 1.0), (1.0, 0.0), (math.nan, 1.0)])
def test_a_point_has_no_density_to_compare(sd, prior_sd):
    with pytest.raises(ValueError, match="not positive"):
        log_evidence_change(torch.zeros(1), torch.tensor([sd]), torch.tensor([prior_sd]))


def test_an_unknown_restart_is_refused():
    with pytest.raises(ValueError, match="no restart 3"):
        evidence_change(mean_field_fit(PROBLEM), restart=3)


# -- the page ------------------------------------------------------------------------------------------------


def test_the_page_on_reduction_runs():
    torch.manual_seed(0)
    x, y = torch.randn(40, 6), torch.randint(3, (40,))
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    bnn = bp.BayesianNetwork(network, {"*.weight": bp.Gaussian()}, data_size=40)
    space = {"bp": bp, "bnn": bnn, "data": (x, y), "network": network}
    text = (Path(__file__).parents[3] / "docs" / "reduction.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(re.sub(r"epochs=\d+", "epochs=1", block), "docs/reduction.md", "exec"), space)
    assert 0.0 <= space["pruned"].report.sparsity < 1.0


# The oracle itself: its evidence is that of the enumeration over subsets when every subset holds all features.
def test_the_oracle_s_evidence_is_the_enumeration_s():
    sure = dataclasses.replace(PROBLEM, inclusion=1.0 - 1e-13)
    sds = np.full(PROBLEM.x.shape[1], PROBLEM.slab_sd)
    found = exact.log_marginal(PROBLEM.x, PROBLEM.y, PROBLEM.noise_sd, sds)
    assert found == pytest.approx(spike.enumerate_posterior(sure).log_evidence, abs=1e-8)
