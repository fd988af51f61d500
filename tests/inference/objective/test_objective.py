"""The objective against Pyro's Trace_ELBO on the same draws, and its parts against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.factors import BernoulliFactor
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.latent_gate_estimators import ScoreFunction
from bayesprune.inference.objective.objective import Objective, objective
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.latent import Latent
from bayesprune.models.likelihoods.counts import Poisson
from bayesprune.models.likelihoods.labels import Bernoulli, Categorical
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.priors.halo import HALO
from bayesprune.models.priors.horseshoe import Horseshoe, RegularisedHorseshoe
from bayesprune.models.priors.laplace import Laplace
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab

SIZE, BATCH = 50, 8


def shared():
    return Hierarchy(
        tau=Latent(dist.HalfCauchy(1.0), per="network"),
        lam=Latent(lambda tau: dist.Gamma(2.0, tau), per="output"),
        weight=lambda tau, lam: dist.Normal(0.0, tau * lam),
    )


PRIORS = {
    "gaussian": (Gaussian, "meanfield"),
    "gaussian map": (Gaussian, "map"),
    "laplace": (Laplace, "meanfield"),
    "halo": (HALO, "meanfield"),
    "halo map": (HALO, "map"),
    "halo of the paper": (lambda: HALO.from_paper(1e-3, 1e-2, 1e-3, SIZE), "map"),
    "halo of the paper, mean-field": (lambda: HALO.from_paper(1e-3, 1e-2, 1e-3, SIZE), "meanfield"),
    "halo without xi": (lambda: HALO.from_paper(0.0, 1e-2, 1e-3, SIZE), "meanfield"),
    "halo without psi": (lambda: HALO.from_paper(1e-3, 0.0, 0.0, SIZE), "meanfield"),
    "halo without xi and psi": (lambda: HALO.from_paper(0.0, 0.0, 1e-3, SIZE), "map"),
    "horseshoe": (Horseshoe, "meanfield"),
    "regularised horseshoe": (RegularisedHorseshoe, "meanfield"),
    "one scale for the network": (shared, "meanfield"),
}


def problem(prior, likelihood=None, outputs=3):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs)).double()
    bnn = BayesianNetwork(network, {"*.weight": prior}, likelihood or Categorical(), SIZE)
    x = torch.randn(BATCH, 4, dtype=torch.float64)
    y = torch.randint(3, (BATCH,))
    return bnn, x, y


def same_draws(guide):
    """Fixes the guide's draw, and returns the guide as Pyro sees it, replayed on that draw with its gradient."""
    factors = guide.draw()
    guide.draw = lambda: factors
    trace = poutine.trace(guide).get_trace()
    for name, factor in factors.items():
        trace.nodes[name]["value"] = factor.value
    return poutine.replay(guide, trace=trace)


def leaves(bnn, guide):
    return [p for p in (*guide.parameters(), *bnn.parameters()) if p.requires_grad]


@pytest.mark.parametrize("name", PRIORS)
def test_the_sampled_objective_and_its_gradient_are_pyros_on_the_same_draws(name):
    make, choice = PRIORS[name]
    bnn, x, y = problem(make())
    guide = Guide(bnn, choice).double()
    ours = Objective(bnn, guide, Gradient(analytic=False))
    replayed = same_draws(guide)
    found = ours(x, y)
    expected = Trace_ELBO().differentiable_loss(bnn, replayed, x, y)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    parameters = leaves(bnn, guide)
    gradients = torch.autograd.grad(found, parameters, retain_graph=True)
    theirs = torch.autograd.grad(expected, parameters, retain_graph=True)
    for one, other in zip(gradients, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    # The controls: another scale of the likelihood, and another value of the KL weight, are not the same.
    bnn.data_size = SIZE - 1
    assert not torch.allclose(ours(x, y), expected, rtol=1e-6)
    bnn.data_size = SIZE
    assert not torch.allclose(ours(x, y, kl_weight=0.99), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("likelihood", "target"),
    [
        (Normal(0.3), torch.randn(BATCH).double()),
        (Normal().double(), torch.randn(BATCH).double()),
        (Bernoulli(), torch.randint(2, (BATCH,))),
        (Poisson(), torch.randint(5, (BATCH,))),
    ],
    ids=["normal", "learned normal", "bernoulli", "poisson"],
)
def test_every_likelihood_agrees_with_pyro(likelihood, target):
    bnn, x, _ = problem(Gaussian(), likelihood, outputs=1)
    guide = Guide(bnn, "meanfield").double()
    replayed = same_draws(guide)
    found = Objective(bnn, guide, Gradient(analytic=False))(x, target)
    expected = Trace_ELBO().differentiable_loss(bnn, replayed, x, target)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    parameters = leaves(bnn, guide)
    gradients = torch.autograd.grad(found, parameters, retain_graph=True)
    for one, other in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["gaussian", "laplace", "halo", "horseshoe", "regularised horseshoe", "one scale for the network"]
)
def test_analytic_terms_have_the_mean_of_sampled_ones(name):
    make, choice = PRIORS[name]
    bnn, x, y = problem(make())
    guide = Guide(bnn, choice).double()
    with torch.no_grad():
        differences = []
        for _ in range(250):
            factors = guide.draw()
            guide.draw = lambda factors=factors: factors
            analytic, sampled = (Objective(bnn, guide, Gradient(analytic=a))(x, y) for a in (True, False))
            del guide.draw
            differences.append(float(analytic - sampled))
    error = np.std(differences) / math.sqrt(len(differences))
    assert error > 0  # the two do differ draw by draw
    assert abs(np.mean(differences)) < 4.0 * error


def test_the_paired_guides_elbo_is_pyros_in_expectation():
    bnn, x, y = problem(SpikeAndSlab(0.3, level="output"))
    guide = Guide(bnn, "paired").double()
    with torch.no_grad():
        for family in guide.families:
            family.logit.normal_()
        ours = Objective(bnn, guide, Gradient(latent_gates=ScoreFunction(2)))
        found = [float(ours(x, y)) for _ in range(300)]
        theirs = [Trace_ELBO().loss(bnn, guide, x, y) for _ in range(400)]
    error = math.sqrt(np.var(found) / len(found) + np.var(theirs) / len(theirs))
    assert abs(np.mean(found) - np.mean(theirs)) < 4.0 * error
    assert error < 0.02 * abs(np.mean(theirs))


def test_the_parts_make_the_loss_and_the_kl_is_the_sum_of_its_sites():
    bnn, x, y = problem(HALO.from_paper(1e-3, 1e-2, 1e-3, SIZE))
    terms = Objective(bnn, Guide(bnn, "map").double()).terms(x, y, kl_weight=0.3)
    assert set(terms.kl_of) == {*bnn.sites, "0.weight.factor", "2.weight.factor"}
    kl = sum(float(value.detach()) for value in terms.kl_of.values())
    assert float(terms.kl) == pytest.approx(kl, rel=1e-12)
    assert float(terms.loss.detach()) == pytest.approx(0.3 * kl - float(terms.log_likelihood), rel=1e-12)
    weights = bnn.weights_at(Guide(bnn, "map").double().means())
    outputs = torch.func.functional_call(bnn.network, weights, (x,))
    expected = SIZE * float(torch.distributions.Categorical(logits=outputs).log_prob(y).mean().detach())
    assert float(terms.log_likelihood) == pytest.approx(expected, rel=1e-9)


def test_a_latent_of_the_network_is_paid_for_once():
    bnn, x, y = problem(shared())
    terms = Objective(bnn, Guide(bnn, "map").double()).terms(x, y)
    assert [name for name in terms.kl_of if name.endswith("tau")] == ["*.weight.tau"]


def test_particles_are_averaged():
    bnn, x, y = problem(Gaussian())
    guide = Guide(bnn, "meanfield").double()
    torch.manual_seed(3)
    several = Objective(bnn, guide, Gradient(particles=3)).terms(x, y)
    torch.manual_seed(3)
    single = [Objective(bnn, guide).terms(x, y) for _ in range(3)]
    for part in ("loss", "log_likelihood", "kl"):
        expected = torch.stack([getattr(one, part).detach() for one in single]).mean()
        torch.testing.assert_close(getattr(several, part).detach(), expected, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(several.loss, list(guide.parameters()))
    total = torch.autograd.grad(sum(one.loss for one in single) / 3, list(guide.parameters()))
    torch.testing.assert_close(found, total, rtol=1e-10, atol=1e-12)


def test_the_surrogate_of_a_gate_estimator_is_what_is_differentiated():
    """An estimator of one evaluation: its own gradient counts, not that of the evaluation."""

    def one_sample(loss, gates):
        assert all(isinstance(gate, BernoulliFactor) for gate in gates.values())
        values = {name: torch.bernoulli(gate.probability.detach()) for name, gate in gates.items()}
        evaluated = loss(values)
        score = sum(gates[name].log_prob(value) for name, value in values.items())
        return evaluated + evaluated.detach() * (score - score.detach())

    bnn, x, y = problem(SpikeAndSlab(0.3))
    guide = Guide(bnn, "paired").double()
    (family,) = guide.families
    gradients = []
    for estimator in (
        one_sample,
        lambda loss, gates: loss({n: torch.bernoulli(g.probability.detach()) for n, g in gates.items()}),
    ):
        torch.manual_seed(0)
        loss = Objective(bnn, guide, Gradient(latent_gates=estimator))(x, y)
        gradients.append(torch.autograd.grad(loss, family.logit)[0])
    assert not torch.allclose(*gradients)


@pytest.mark.parametrize("estimator", [None, ScoreFunction(3)])
@pytest.mark.parametrize("particles", [1, 3])
def test_batch_normalisation_takes_its_statistics_once_a_step(estimator, particles):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    prior = SpikeAndSlab() if estimator else Gaussian()
    bnn = BayesianNetwork(network, {"2.weight": prior}, data_size=SIZE).train()
    more = {"latent_gates": estimator} if estimator else {}
    loss = Objective(bnn, Guide(bnn), Gradient(particles=particles, **more))
    x, y = torch.randn(BATCH, 4), torch.randint(2, (BATCH,))
    loss(x, y)
    norm = bnn.network[1]
    assert int(norm.num_batches_tracked) == 1 and norm.track_running_stats
    hidden = network[0](x).detach()
    torch.testing.assert_close(norm.running_mean, 0.1 * hidden.mean(0))
    loss(x, y)
    assert int(norm.num_batches_tracked) == 2
    assert int(network[1].num_batches_tracked) == 0


def test_the_objective_for_ones_own_loop_trains():
    bnn, x, y = problem(Gaussian())
    loss = objective(bnn, "meanfield").double()
    optimizer = torch.optim.Adam([p for p in loss.parameters() if p.requires_grad], lr=0.02)
    history = []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(x, y)
        value.backward()
        optimizer.step()
        history.append(float(value.detach()))
    assert np.mean(history[-10:]) < np.mean(history[:10]) - 1.0
    assert {id(p) for p in bnn.network.parameters() if p.requires_grad} <= {id(p) for p in loss.parameters()}


def test_a_guide_of_another_model_and_no_particles_are_refused():
    bnn, _, _ = problem(Gaussian())
    other, _, _ = problem(Gaussian())
    with pytest.raises(ValueError, match="made for another model"):
        Objective(bnn, Guide(other))
    with pytest.raises(ValueError, match="particles must be at least 1"):
        Objective(bnn, Guide(bnn), Gradient(particles=0))


def test_validation_of_distributions_is_left_as_it_was():
    bnn, x, y = problem(Gaussian())
    before = dist.Normal.__mro__[1]._validate_args, torch.distributions.Distribution._validate_args
    Objective(bnn, Guide(bnn).double())(x, y)
    assert (dist.Normal.__mro__[1]._validate_args, torch.distributions.Distribution._validate_args) == before


def test_a_loop_of_ones_own_says_how_its_gradient_is_estimated():
    bnn, x, y = problem(Gaussian())
    guide = Guide(bnn, "meanfield").double()
    given = bp.Gradient(particles=3, analytic=False)
    torch.manual_seed(2)
    found = bp.objective(bnn, guide, given)(x, y)
    torch.manual_seed(2)
    assert torch.equal(found, Objective(bnn, guide, given)(x, y))
    torch.manual_seed(2)
    assert not torch.allclose(found, bp.objective(bnn, guide)(x, y))  # control
