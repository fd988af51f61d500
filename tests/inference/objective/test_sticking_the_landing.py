"""Sticking-the-landing gradients: right on average, without noise at the posterior."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.objective import Objective

DATA = 6


def regression(**how):
    """Two orthogonal features and unit noise, the guide at the exact posterior: mean and sd of each weight known."""
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0]] * 3, dtype=torch.float64)
    y = x @ torch.tensor([0.7, -0.2], dtype=torch.float64) + 0.1 * torch.tensor([1.0, -2.0, 0.5] * 2).double()
    network = nn.Linear(2, 1, bias=False).double()
    prior = bp.Hierarchy(weight=lambda: dist.Normal(0.0, 2.0))
    model = bp.BayesianNetwork(network, {"weight": prior}, bp.Normal(scale=1.0), data_size=DATA)
    objective = Objective(model, Guide(model, "meanfield"), Gradient(**how)).double()
    precision = DATA + 0.25
    family = objective.guide.families[0]
    with torch.no_grad():
        family.location.copy_(x.T @ y / precision)
        family.log_scale.fill_(-0.5 * math.log(precision))
    return objective, x, y


def gradients(objective, x, y, draws):
    parameters = list(objective.guide.parameters())
    torch.manual_seed(0)
    rows = [torch.cat(torch.autograd.grad(objective(x, y), parameters)) for _ in range(draws)]
    return torch.stack(rows)


def test_at_the_posterior_the_gradient_is_zero_in_every_draw():
    assert float(gradients(*regression(sticking_the_landing=True), draws=20).abs().max()) < 1e-12


@pytest.mark.parametrize("how", [{}, {"analytic": False}])
def test_other_estimators_are_noisy_there(how):
    assert float(gradients(*regression(**how), draws=20).std(0).min()) > 0.1


def away(**how):
    """Spike and slab, Gaussian and a horseshoe on a small network, at the start of a fit."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Linear(2, 2)).double()
    priors = {"0.weight": bp.SpikeAndSlab(), "2.weight": bp.Gaussian(0.5), "3.weight": bp.Horseshoe()}
    model = bp.BayesianNetwork(network, priors, data_size=10)
    return (
        Objective(model, Guide(model), Gradient(**how)).double(),
        torch.randn(5, 3).double(),
        torch.tensor([0, 1, 1, 0, 1]),
    )


def test_factors_say_whether_they_have_a_term_that_lands():
    objective, _, _ = away()
    factors, said = objective.guide.draw(), {True: 0, False: 0}

    def visit(site, fn):
        factor = factors[site]
        assert (factor.landing_term(fn, factor.value) is not None) == factor.has_landing_term
        said[factor.has_landing_term] += 1
        return factor.value

    for name, prior in objective.model.priors.items():
        prior.run(visit, objective.model.network.get_parameter(name), {})
    assert min(said.values()) > 0  # both answers were asked for


def z_scores(one, other):
    error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt()
    return (one.mean(0) - other.mean(0)).abs() / error.clamp_min(1e-12)


def test_away_from_it_the_mean_gradient_is_that_of_closed_forms():
    landing = gradients(*away(sticking_the_landing=True), draws=500)
    closed = gradients(*away(), draws=500)
    z = z_scores(landing, closed)
    assert float(z.max()) < 4.5
    spoilt = landing.clone()
    spoilt[:, :] += 0.5 * landing.std(0)
    assert float(z_scores(spoilt, closed).min()) > 4.5  # the comparison can fail


def test_points_and_gates_keep_their_terms():
    torch.manual_seed(0)
    network = nn.Linear(3, 2).double()
    model = bp.BayesianNetwork(network, {"weight": bp.HALO()}, data_size=10)
    x, y = torch.randn(5, 3).double(), torch.tensor([0, 1, 1, 0, 1])
    guide = Guide(model, "map")
    with torch.no_grad():
        assert torch.equal(
            Objective(model, guide, Gradient(sticking_the_landing=True))(x, y), Objective(model, guide)(x, y)
        )


def test_it_is_said_which_sites_are_estimated_from_the_draw():
    assert away()[0].estimated_from_draw() == []
    found = away(sticking_the_landing=True)[0].estimated_from_draw()
    assert "2.weight" in found and "0.weight.slab" in found and "3.weight.lam" in found and "0.weight.z" not in found
