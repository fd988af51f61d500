"""Deterministic nodes in fits: the objective is Pyro's ELBO, the graph does what the plain execution does."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, Trace_ELBO

import bayesprune as bp
from bayesprune.inference.execution.objective_graph import trace
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.objective import Objective
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.latent import Latent
from tests.oracles.plain_path import (
    TOLERANCE,
    batch_for,
    differences,
    mlp,
    move,
    noise_at,
    objective_of,
    on_graph,
    on_plain,
)

X = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def simplex(floor=0.0):
    return Hierarchy(
        t=Latent(dist.Gamma(2.0, 1.0), per="weight"),
        phi=lambda t: t / t.sum() + floor,
        tau=Latent(dist.HalfCauchy(1.0), per="network"),
        weight=lambda tau, phi: dist.Normal(0.0, tau * phi),
        included=bp.shrinkage_below(0.5),
    )


def gamma_process():
    """Scales of outputs that shrink along them, in the non-centred form."""
    return Hierarchy(
        d=Latent(dist.Gamma(2.0, 1.0), per="output"),
        run=lambda d: torch.cumprod(d, 0),
        z=dist.Normal(0.0, 1.0),
        weight=lambda run, z: z / (1.0 + run).sqrt(),
    )


def attention():
    return Hierarchy(
        a=Latent(dist.Normal(0.0, 1.0), per="input"),
        share=lambda a: torch.softmax(a, 1),
        weight=lambda share: dist.Normal(0.0, 0.1 + share),
    )


FORMS = {"simplex": simplex, "gamma process": gamma_process, "attention": attention}


@pytest.mark.parametrize("form", FORMS)
def test_the_objective_is_pyros_elbo_on_the_same_draws(form):
    model = bp.BayesianNetwork(mlp().double(), {"a*.weight": FORMS[form]()}, data_size=30)
    guide = Guide(model, "meanfield").double()
    factors = guide.draw()
    guide.draw = lambda: factors
    drawn = poutine.trace(guide).get_trace()
    for name, factor in factors.items():
        drawn.nodes[name]["value"] = factor.value
    found = Objective(model, guide, Gradient(analytic=False))(X.double(), Y)
    expected = Trace_ELBO().differentiable_loss(model, poutine.replay(guide, trace=drawn), X.double(), Y)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    parameters = [p for p in guide.parameters() if p.requires_grad]
    pairs = zip(
        torch.autograd.grad(found, parameters, retain_graph=True),
        torch.autograd.grad(expected, parameters),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_the_graph_gives_what_the_plain_path_gives(form):
    objective = objective_of(FORMS[form]())
    network = objective.model.network
    traced = trace(objective, *batch_for(network))
    move(objective, 0.1, seed=8)
    x, y = batch_for(network, seed=1)
    expected = on_plain(objective, x, y, seed=3)
    found = on_graph(traced, objective, x, y, noise_at(traced, 3))
    assert {name: far for name, far in differences(found, expected).items() if not far < TOLERANCE} == {}
    other = on_plain(objective, x, y, seed=4)
    assert max(differences(found, other).values()) > 1e-3  # the control: another draw


def fitted(prior, **how):
    model = bp.BayesianNetwork(mlp(), {"a*.weight": prior}, data_size=30)
    return bp.fit(model, (X, Y), steps=20, progress=False, **how)


@pytest.mark.parametrize("form", FORMS)
def test_fits_predict_prune_and_are_told_apart_when_they_are_read_back(form, tmp_path):
    fit = fitted(FORMS[form]())
    assert torch.isfinite(fit.predict(X, draws=5).mean).all()
    assert bp.prune(fit, sparsity=0.5).report.sparsity == pytest.approx(0.5, abs=0.02)
    path = fit.save(tmp_path / "fit")
    back = bp.Fit.load(path, model=bp.BayesianNetwork(mlp(), {"a*.weight": FORMS[form]()}, data_size=30))
    torch.testing.assert_close(back.predict(X, draws=5).mean, fit.predict(X, draws=5).mean)
    if form == "simplex":
        with pytest.raises(ValueError, match="has changed since"):
            bp.Fit.load(path, model=bp.BayesianNetwork(mlp(), {"a*.weight": simplex(floor=0.01)}, data_size=30))


def test_the_fused_path_takes_the_same_steps():
    plain, fused = (fitted(simplex(), execution=execution, seed=3, compiled=False) for execution in ("plain", "fused"))
    ones, others = plain.guide.state_dict(), fused.guide.state_dict()
    for name, value in ones.items():
        torch.testing.assert_close(others[name], value, rtol=1e-4, atol=1e-5)


def test_shrinkage_and_its_probabilities_follow_the_node():
    fit = fitted(simplex())
    kappa = fit.shrinkage_factors(draws=20)["a1.weight"].values
    assert kappa.shape == (5, 4) and (kappa >= 0).all() and (kappa <= 1).all()
    assert fit.inclusion_probabilities(draws=20)["a1.weight"].shape == (5, 4)


def test_nuts_samples_a_model_with_a_node():
    torch.manual_seed(0)
    model = bp.BayesianNetwork(torch.nn.Linear(4, 2), {"weight": simplex()}, data_size=30)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    mcmc = MCMC(NUTS(model, max_tree_depth=3), num_samples=3, warmup_steps=3, disable_progbar=True)
    mcmc.run(X, Y)
    assert set(mcmc.get_samples()) == {"weight.t", "weight.tau", "weight"}


@pytest.mark.slow
def test_nuts_without_information_gives_the_prior_of_a_node():
    """Inputs of zero say nothing, so that the posterior is the prior: shares t_j / sum t of Dirichlet(2, 2, 2, 2)."""
    torch.manual_seed(0)
    prior = Hierarchy(
        t=Latent(dist.Gamma(2.0, 1.0), per="weight"),
        phi=lambda t: t / t.sum(),
        weight=lambda phi: dist.Normal(0.0, phi),
    )
    model = bp.BayesianNetwork(torch.nn.Linear(4, 1, bias=False).double(), {"weight": prior}, bp.Normal(scale=1.0), 30)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    mcmc = MCMC(NUTS(model, target_accept_prob=0.9), num_samples=600, warmup_steps=200, disable_progbar=True)
    mcmc.run(torch.zeros(30, 4, dtype=torch.float64), torch.zeros(30, dtype=torch.float64))
    found = mcmc.get_samples()
    t, weight = found["weight.t"].squeeze(1), found["weight"].squeeze(1)
    shares = t / t.sum(1, keepdim=True)
    torch.testing.assert_close(shares.mean(0), torch.full((4,), 0.25).double(), atol=0.04, rtol=0)
    variance = 0.25 * 0.75 / 9.0  # of Beta(2, 6)
    torch.testing.assert_close(shares.var(0), torch.full((4,), variance).double(), atol=0.006, rtol=0)
    assert float((weight / shares).std()) == pytest.approx(1.0, abs=0.1)
    assert abs(float((weight / t).std()) - 1.0) > 0.3  # control: the weights know the shares, not t
