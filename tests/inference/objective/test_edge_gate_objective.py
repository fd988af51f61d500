"""The objective of edge gates against the sum over every graph, and their posterior against the exact one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.guides.paired import PairedFamily
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.latent_gate_estimators import ScoreFunction, antithetic
from bayesprune.inference.objective.objective import Objective
from benchmarks.edge_gates import against_enumeration
from tests.oracles import spike_and_slab_reference as spike
from tests.oracles.edge_gates_reference import enumerated_bound

UNITS, GATES, INPUTS, DATA, NOISE, SLAB = 2, 3, 4, 7, 0.8, 1.3  # 8 edges


def enumerated(loss, gates):
    """A gate estimator without noise: every value of the gates, weighted by its probability."""
    ((name, gate),) = gates.items()
    found = 0.0
    for bits in itertools.product((0.0, 1.0), repeat=gate.probability.numel()):
        z = gate.probability.new_tensor(bits).view_as(gate.probability)
        chance = torch.where(z == 1, gate.probability, 1 - gate.probability).prod()
        found = found + chance * loss({name: z})
    return found


def problem(estimator, log_scale=None, particles=1):
    """An objective at a guide that was moved off its start, its data, and the prior's probabilities."""
    torch.manual_seed(2)
    prior = torch.rand(UNITS, INPUTS, dtype=torch.float64) * 0.8 + 0.1
    layer = nn.Linear(INPUTS, UNITS * GATES, bias=False).double()
    gates = bp.EdgeGates(probabilities=prior, gates=GATES, slab_sd=SLAB)
    model = bp.BayesianNetwork(layer, {"weight": gates}, bp.Normal(NOISE), DATA).double()
    guide = Guide(model, "paired").double()
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
        (family,) = guide.families
        family.logit += 3.0 * torch.randn_like(family.logit) - 2.0
        family.location += 2.0 * torch.randn_like(family.location)
        if log_scale is not None:
            family.log_scale.fill_(log_scale)
    x = torch.randn(DATA, INPUTS, dtype=torch.float64)
    y = torch.randn(DATA, UNITS * GATES, dtype=torch.float64)
    return Objective(model, guide, Gradient(latent_gates=estimator, particles=particles)), x, y, prior


def family_of(objective):
    (family,) = objective.guide.families
    assert isinstance(family, PairedFamily)
    return family


def expected(objective, x, y, prior, **how):
    """The bound at the guide's parameters, which have a gradient."""
    family = family_of(objective)
    a = family.logit.sigmoid().view(UNITS, INPUTS)
    m, v = (one.view(-1, INPUTS) for one in (family.location, (2.0 * family.log_scale).exp()))
    return enumerated_bound(x, y, NOISE, SLAB, prior, a, m, v, **how)


def test_the_objective_and_its_gradient_are_sums_over_all_graphs():
    """Slabs of no width leave no noise: what is left are the gates, their sharing, and every term of the divergence."""
    objective, x, y, prior = problem(enumerated, log_scale=-25.0)
    family = family_of(objective)
    parameters = [family.logit, family.location]
    found, bound = objective(x, y), expected(objective, x, y, prior)
    torch.testing.assert_close(found, -bound.elbo, rtol=1e-9, atol=0)
    ours = torch.autograd.grad(found, parameters)
    theirs = torch.autograd.grad(-bound.elbo, parameters)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    # Controls: rows of a unit that stand together, and the edges of another graph.
    for wrong in (expected(objective, x, y, prior, interleaved=True), expected(objective, x, y, prior.flip(1))):
        assert abs(float((found + wrong.elbo).detach())) > 1e-2


@pytest.mark.parametrize("estimator", [None, ScoreFunction(2)], ids=["default", "score function"])
def test_at_slabs_of_some_width_the_divergence_is_exact_and_the_data_term_right_in_the_mean(estimator):
    objective, x, y, prior = problem(estimator, particles=200)
    torch.manual_seed(0)
    with torch.no_grad():
        bound, wrong = expected(objective, x, y, prior), expected(objective, x, y, prior, interleaved=True)
        terms = [objective.terms(x, y) for _ in range(16)]
    for one in terms:
        torch.testing.assert_close(one.kl, bound.kl, rtol=1e-10, atol=0)
    data = torch.stack([one.log_likelihood for one in terms])
    error = float(data.std() / len(data) ** 0.5)
    assert abs(float(data.mean() - bound.log_likelihood)) < 4 * error
    assert abs(float(data.mean() - wrong.log_likelihood)) > 10 * error  # control


# -- the posterior -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_edge_of_an_orthogonal_design_has_its_exact_posterior_probability():
    """Inputs are orthogonal and outputs copies of one, so that a product of Bernoullis is the exact posterior."""
    design, copies = spike.orthogonal_problem(), 64
    known = np.linspace(0.05, 0.9, len(design.x[0]))
    alike = spike.orthogonal_posterior(design).pips
    exact = expit(logit(alike) - logit(design.inclusion) + logit(known))  # the edge's own prior odds
    x, y = torch.tensor(design.x), torch.tensor(design.y)[:, None].expand(-1, copies).clone()
    line = nn.Linear(len(known), copies, bias=False).double()
    with torch.no_grad():
        line.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    gates = bp.EdgeGates(probabilities=[known.tolist()] * copies, slab_sd=design.slab_sd, initial_inclusion=0.5)
    model = bp.BayesianNetwork(line, {"weight": gates}, bp.Normal(design.noise_sd), len(x))
    fit = bp.fit(
        model, (x, y), steps=1800, batch_size=len(x), learning_rate=5e-3, schedule="cosine", kl_warmup=0.0,
        precision="float64", gate_estimator=antithetic, device="cpu",
    )  # fmt: skip
    found = fit.inclusion_probabilities()["weight"].values
    np.testing.assert_allclose(found.mean(0), exact, atol=0.015)
    assert np.abs(alike - exact).max() > 0.1  # control: with the same prior for all edges


@pytest.mark.slow
def test_where_inputs_correlate_the_guide_is_surer_of_the_graph_than_the_exact_posterior():
    """What docs/edge_gates.md says: no exactness is claimed there."""
    apart, alike = against_enumeration(0.0, 0), against_enumeration(0.9, 0)
    assert apart["mean error"] < 0.03
    assert alike["mean error"] > 0.08
    assert alike["entropy found"] < 0.6 * alike["entropy exact"]
    assert alike["unsure but sure in the guide"] > 0.5 * alike["unsure"]
