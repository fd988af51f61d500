"""Moments of weights given what is not drawn of them: against enumeration of all gates, quadrature, and exact ELBOs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn import functional

import bayesprune as bp
from bayesprune.inference.guides.functional import GivenNoise
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective import weight_moments
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.objective import Objective
from bayesprune.models.masks.mask_way import Masks
from tests.oracles.enumerated_weights import enumerated_moments

INPUTS, OUTPUTS, BATCH, DATA = 8, 2, 5, 40
SIGMA = 0.7


@pytest.fixture(autouse=True)
def few_inputs_are_enough(monkeypatch):
    monkeypatch.setattr(weight_moments, "FEWEST_INPUTS", 1)


def one_layer(prior, guide=None, likelihood=None, outputs=OUTPUTS, ways=(), **how):
    """One linear layer, its guide moved so that no two weights are alike."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(INPUTS, outputs)).double()
    model = bp.BayesianNetwork(network, {"0.weight": prior}, likelihood, DATA)
    for way in ways:
        model.ways.append(way)
    model = model.double()
    objective = Objective(model, Guide(model, guide).double(), Gradient(**how)).train()
    with torch.no_grad():
        for parameter in objective.guide.parameters():
            parameter += 0.7 * torch.randn_like(parameter)
    return objective


def batch(seed=3):
    torch.manual_seed(seed)
    return torch.randn(BATCH, INPUTS).double(), torch.randint(OUTPUTS, (BATCH,))


def outputs_at(objective, x, y, number, before=()):
    """The outputs where every standard normal draw of them is this number."""
    shape = (len(x), objective.model.network[0].out_features)
    with GivenNoise([*before, torch.full(shape, float(number)).double()]):
        return objective.terms(x, y).outputs


def moments_of(objective, x, y, before=()):
    """Mean and variance of the outputs, read off draws at 0 and 1."""
    mean = outputs_at(objective, x, y, 0.0, before)
    return mean, (outputs_at(objective, x, y, 1.0, before) - mean).square()


def parts(objective):
    """Probabilities, locations and standard deviations of the first family that has them, as the guide holds them."""
    found = {name.rpartition(".")[2]: p.detach() for name, p in objective.guide.named_parameters()}
    return (
        found["logit"].sigmoid(),
        found["location"].view(OUTPUTS, INPUTS),
        found["log_scale"].exp().view_as(found["location"].view(OUTPUTS, INPUTS)),
    )


@pytest.mark.parametrize("guide", ["paired", "meanfield"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_gate_of_its_own_is_enumerated(guide, masked):
    mask = (torch.arange(OUTPUTS * INPUTS) % 3 != 0).view(OUTPUTS, INPUTS)
    ways = [Masks({"0.weight": mask})] if masked else []
    objective = one_layer(bp.SpikeAndSlab(0.3), guide, ways=ways)
    x, y = batch()
    mean, variance = moments_of(objective, x, y)
    assert objective.outputs_drawn.names == ("0.weight",)
    a, m, s = parts(objective)
    a, bias = a.view(OUTPUTS, INPUTS), objective.model.network[0].bias.detach()
    for row in range(OUTPUTS):
        there = x * mask[row] if masked else x
        wanted, spread = enumerated_moments(there, a[row], m[row], s[row])
        torch.testing.assert_close(mean[:, row], wanted + bias[row], rtol=0, atol=1e-10)
        torch.testing.assert_close(variance[:, row], spread, rtol=0, atol=1e-10)
        forgotten = there.square() @ (a[row] * (s[row].square() + m[row].square()))  # without - a^2 m^2
        assert float((forgotten - spread).abs().min()) > 1e-3


@pytest.mark.parametrize(
    ("prior", "guide"), [(bp.Gaussian(0.5), "meanfield"), (bp.Laplace(0.3), "meanfield"), (bp.HALO(), "meanfield")]
)
def test_a_latent_has_its_own_moments(prior, guide):
    objective = one_layer(prior, guide, local_reparameterisation=True)
    x, y = batch()
    noise = []
    with torch.no_grad():  # what is drawn before, if anything, does not matter: the outputs are the weights'
        objective.terms(x, y)
        form = objective.outputs_drawn.forms(x)[0]
        assert (form.gate, form.unit) == (None, True)
        if isinstance(prior, bp.HALO):
            drawn = objective.guide.draw(form.at_centre)
            sizes = [f.value.numel() for name, f in drawn.items() if name != "0.weight" or form.is_drawn]
            noise = [torch.zeros(size).double() for size in sizes]
    mean, variance = moments_of(objective, x, y, noise)
    factor = objective.guide.draw()["0.weight"]
    torch.testing.assert_close(mean, functional.linear(x, factor.location, objective.model.network[0].bias))
    torch.testing.assert_close(variance, x.square() @ factor.scale.square().T)


@pytest.mark.parametrize("level", ["input", "output"])
def test_a_gate_that_is_shared_stays_a_draw_and_its_group_stays_correlated(level):
    """Over the moment-matched gates, by Gauss-Hermite nodes that are exact for squares, and over real ones."""
    few = 4 if level == "input" else OUTPUTS
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(few if level == "input" else INPUTS, OUTPUTS)).double()
    model = bp.BayesianNetwork(network, {"0.weight": bp.SpikeAndSlab(0.3, level=level)}, None, DATA)
    objective = Objective(model, Guide(model).double(), Gradient(local_reparameterisation=True)).train()
    with torch.no_grad():
        for parameter in objective.guide.parameters():
            parameter += 0.7 * torch.randn_like(parameter)
    x = torch.randn(BATCH, network[0].in_features).double()
    y = torch.zeros(BATCH, dtype=torch.long)
    found = {name.rpartition(".")[2]: p.detach() for name, p in objective.guide.named_parameters()}
    nodes, shares = np.polynomial.hermite_e.hermegauss(3)
    shape = objective.guide.draw()["0.weight.z"].value.shape
    mean, second = torch.zeros(BATCH).double(), torch.zeros(BATCH).double()
    for places in itertools.product(range(3), repeat=few):
        share = math.prod(shares[k] / math.sqrt(2.0 * math.pi) for k in places)
        z = torch.tensor([nodes[k] for k in places]).double().view(shape)
        given, spread = (part[:, 0] for part in moments_of(objective, x, y, [z]))
        given = given - network[0].bias.detach()[0]
        mean, second = mean + share * given, second + share * (given.square() + spread)
    inputs = x.shape[1]
    group = torch.arange(few) if level == "input" else torch.zeros(inputs, dtype=torch.long)
    a, m, s = found["logit"].sigmoid(), found["location"][:inputs], found["log_scale"].exp()[:inputs]
    wanted, variance = enumerated_moments(x, a, m, s, group)  # of the first output
    torch.testing.assert_close(mean, wanted, rtol=0, atol=1e-10)
    torch.testing.assert_close(second - mean.square(), variance, rtol=0, atol=1e-10)
    if level == "output":
        _, apart = enumerated_moments(x, a[:1].expand(INPUTS), m, s)  # the negative control: gates that know no group
        assert float((apart - variance).abs().min()) > 1e-3


def test_a_normal_under_a_scale_has_its_moments_given_the_scale():
    objective = one_layer(bp.Horseshoe(), local_reparameterisation=True)
    x, y = batch()
    objective.terms(x, y)
    (form,) = objective.outputs_drawn.forms(x)
    assert (form.latent, form.gate, form.unit, form.is_drawn) == ("0.weight.z", None, False, False)
    drawn = objective.outputs_drawn.draw((form,))
    noise = [torch.zeros(sum(f.value.numel() for name, f in drawn.items() if name != form.latent)).double()]
    mean, variance = moments_of(objective, x, y, noise)
    drawn = objective.guide.means()
    scale = drawn["0.weight.tau"] * drawn["0.weight.lam"]
    factor = objective.guide.draw()["0.weight.z"]
    torch.testing.assert_close(mean - objective.model.network[0].bias, x @ (scale * factor.location).T)
    torch.testing.assert_close(variance, x.square() @ (scale * factor.scale).square().T)


NODES, SHARES = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(40))
LIKELIHOODS = {
    "logistic": (bp.Bernoulli, lambda f, y: functional.softplus(f) - y * f),
    "normal": (
        lambda: bp.Normal(SIGMA),
        lambda f, y: 0.5 * ((y - f) / SIGMA).square() + math.log(SIGMA) + 0.5 * math.log(2 * math.pi),
    ),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_gradient_is_that_of_the_stated_objective(name):
    """Normal outputs of these moments, by quadrature: at the nodes exactly, and in the mean over draws."""
    likelihood, nll = LIKELIHOODS[name]
    objective = one_layer(bp.SpikeAndSlab(0.3), likelihood=likelihood(), outputs=1)
    x, y = batch()[0], torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]).double()
    with torch.no_grad():
        objective.terms(x, y)
    parameters = {n.rpartition(".")[2]: p for n, p in objective.guide.named_parameters()}
    trained = list(parameters.values())
    a, m, v = parameters["logit"].sigmoid(), parameters["location"], (2.0 * parameters["log_scale"]).exp()
    mean = x @ (a * m) + objective.model.network[0].bias.detach()

    def stated(variance):
        f = mean[:, None] + variance.sqrt()[:, None] * NODES
        expected = (nll(f, y[:, None]) * SHARES / math.sqrt(2.0 * math.pi)).sum() * (DATA / BATCH)
        return torch.cat([g.flatten() for g in torch.autograd.grad(expected, trained, retain_graph=True)])

    wanted = stated(x.square() @ (a * (v + m.square()) - (a * m).square()))
    wrong = stated(x.square() @ (a * (v + m.square())))
    prior = torch.autograd.grad(sum(objective.terms(x, y).kl_of.values()), trained)
    kl = torch.cat([g.flatten() for g in prior])

    def gradient():
        return torch.cat([g.flatten() for g in torch.autograd.grad(objective.terms(x, y).loss, trained)]) - kl

    total = torch.zeros_like(wanted)
    for node, share in zip(NODES, SHARES / math.sqrt(2.0 * math.pi), strict=True):
        with GivenNoise([torch.full((BATCH, 1), float(node)).double()]):
            total += share * gradient()
    torch.testing.assert_close(total, wanted, rtol=1e-8, atol=1e-8)
    assert not torch.allclose(total, wrong, rtol=1e-2, atol=1e-2)
    torch.manual_seed(0)
    draws = torch.stack([gradient() for _ in range(400)])
    error = draws.std(0) / math.sqrt(len(draws)) + 1e-9
    assert float(((draws.mean(0) - wanted) / error).abs().max()) < 4.5
    assert float(((draws.mean(0) - wrong) / error).abs().max()) > 4.5


def test_of_a_linear_model_with_normal_noise_the_expected_loss_is_the_exact_elbo():
    prior = bp.SpikeAndSlab(0.3, slab_sd=1.2)
    objective = one_layer(prior, likelihood=bp.Normal(SIGMA), outputs=1)
    x, y = batch()[0], torch.randn(BATCH).double()
    found = {name.rpartition(".")[2]: p.detach() for name, p in objective.guide.named_parameters()}
    a, m, s = found["logit"].sigmoid(), found["location"], found["log_scale"].exp()
    error = y - x @ (a * m) - objective.model.network[0].bias.detach()
    spread = x.square() @ (a * (s.square() + m.square()) - (a * m).square())
    log_likelihood = -0.5 * (error.square() + spread).sum() / SIGMA**2
    log_likelihood = (log_likelihood - BATCH * math.log(SIGMA * math.sqrt(2 * math.pi))) * DATA / BATCH
    slab = torch.log(1.2 / s) + (s.square() + m.square()) / (2 * 1.2**2) - 0.5
    kl = (a * (torch.log(a / 0.3) + slab) + (1 - a) * torch.log((1 - a) / 0.7)).sum()
    with torch.no_grad():
        at = []
        for number in (-1.0, 1.0):  # two nodes are exact for squares
            with GivenNoise([torch.full((BATCH, 1), number).double()]):
                at.append(objective.terms(x, y).loss)
    assert float(sum(at) / 2) == pytest.approx(float(kl - log_likelihood), rel=1e-10)
    forgotten = 0.5 * (x.square() @ (a * m).square()).sum() / SIGMA**2 * DATA / BATCH
    assert float(forgotten) > 1e-3 * abs(float(kl - log_likelihood))  # a variance without - a^2 m^2 would be seen


# -- what keeps its draws ---------------------------------------------------------------------------------------------


def spiked(slab, **more):
    """A spike and slab of one's own."""
    return bp.Hierarchy(
        z=bp.Latent(dist.Bernoulli(0.3)),
        slab=slab,
        weight=lambda z, slab: z * slab,
        included=bp.exact_zero(gate="z", slab="slab"),
        default_guide="meanfield",
        **more,
    )


def names(objective):
    objective.terms(*batch())
    return objective.outputs_drawn.names


def test_a_gate_with_a_factor_beside_it_is_taken_with_the_factor():
    prior = bp.Hierarchy(
        tau=bp.Latent(dist.HalfCauchy(0.3), "layer"),
        z=bp.Latent(dist.Bernoulli(0.3)),
        slab=bp.Latent(dist.Normal(0.0, 1.0)),
        weight=lambda tau, z, slab: tau * z * slab,
        included=bp.exact_zero(gate="z", slab="slab"),
        default_guide="paired",
    )
    objective = one_layer(prior)
    x, y = batch()
    mean, variance = moments_of(objective, x, y, [torch.zeros(1).double()])
    assert not objective.outputs_drawn.forms(x)[0].unit
    tau = objective.guide.means()["0.weight.tau"]
    paired = next(f for f in objective.guide.families if hasattr(f, "pairs"))
    a, m = paired.logit.sigmoid().view(OUTPUTS, INPUTS), tau * paired.location.view(OUTPUTS, INPUTS)
    v = (tau * paired.log_scale.exp().view(OUTPUTS, INPUTS)).square()
    torch.testing.assert_close(mean - objective.model.network[0].bias, x @ (a * m).T)
    torch.testing.assert_close(variance, x.square() @ (a * (v + m.square()) - (a * m).square()).T)


def test_a_term_that_needs_the_draw_keeps_it():
    assert names(one_layer(spiked(bp.Latent(dist.Normal(0.0, 1.0))))) == ("0.weight",)
    assert names(one_layer(spiked(bp.Latent(dist.StudentT(3.0, 0.0, 1.0))))) == ()
    child = bp.Hierarchy(
        z=bp.Latent(dist.Bernoulli(0.3)),
        slab=bp.Latent(dist.Normal(0.0, 1.0)),
        other=bp.Latent(lambda slab: dist.Normal(slab, 1.0)),
        weight=lambda z, slab: z * slab,
        included=bp.exact_zero(gate="z", slab="slab"),
        default_guide="meanfield",
    )
    assert names(one_layer(child)) == ()
    factor = spiked(bp.Latent(dist.Normal(0.0, 1.0)), factor=lambda weight: -weight.abs().sum())
    assert names(one_layer(factor)) == ()


def test_a_gate_that_is_no_factor_keeps_its_draw():
    choosing = bp.Hierarchy(
        z=bp.Latent(dist.Bernoulli(0.3)),
        slab=bp.Latent(dist.Normal(0.0, 1.0)),
        weight=lambda z, slab: torch.where(z > 0.5, slab, 0.1 * slab),
        default_guide="meanfield",
    )
    assert names(one_layer(choosing)) == ()
    assert names(one_layer(bp.ContinuousSpikeAndSlab())) == ()


@pytest.mark.parametrize(
    "how",
    [
        {"latent_gates": bp.moment_matched},
        {"latent_gates": bp.ScoreFunction(2)},
        {"sticking_the_landing": True},
        {"analytic": False},
        {"local_reparameterisation": False},
    ],
)
def test_what_asks_for_draws_has_them(how):
    assert names(one_layer(bp.SpikeAndSlab(), **how)) == ()


def test_few_inputs_keep_their_draws(monkeypatch):
    monkeypatch.setattr(weight_moments, "FEWEST_INPUTS", INPUTS + 1)
    assert names(one_layer(bp.SpikeAndSlab())) == ()
    objective = one_layer(bp.SpikeAndSlab(), local_reparameterisation=True)  # its slab given the drawn gate
    assert names(objective) == ("0.weight",) and objective.outputs_drawn.forms(batch()[0])[0].gate is None
