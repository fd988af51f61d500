"""Learned scales of spike and slab beside exact answers: orthogonal regression, enumeration, quadrature, conjugacy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import special
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.fast_distributions import fast_distributions
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.site_terms import run_priors, sites_from_draw
from tests.oracles import learned_scales_reference as learned
from tests.oracles import spike_and_slab_reference as spike

FEATURES = 60
HYPER = learned.HyperPriors(scale=1.5, a=2.5, b=22.5)
DECLARED = {"expected_density": 0.1, "slab_sd": 1.5, "initial_inclusion": 0.5}
BOTH = {"learned_sd": "layer", "learned_density": "layer", "pseudo_gates": 25.0}


@pytest.fixture(scope="module")
def problem():
    return learned.problem_of(FEATURES, sd=0.6, pi=0.35)


def regression(problem, learned_by="point", **given):
    x, y = torch.tensor(problem.x), torch.tensor(problem.y)
    line = nn.Linear(x.shape[1], 1, bias=False).double()
    with torch.no_grad():
        line.weight.copy_(torch.linalg.lstsq(x, y[:, None]).solution.T)
    prior = bp.SpikeAndSlab(**{**DECLARED, "learned_by": learned_by, **given})
    return bp.BayesianNetwork(line, {"weight": prior}, bp.Normal(problem.noise_sd), len(x)), (x, y)


def parts(problem, guide):
    """Minus the expected log-likelihood, less a constant, by the moments of z w, and the package's KL terms by site."""
    with fast_distributions():
        factors = guide.draw()
        kl_of = {}
        run_priors(guide.model, factors, Gradient(), kl_of)
    gate, slab = factors["weight.z"], factors["weight.slab"]
    a, m, v = gate.probability[0], slab.location[0], slab.scale[0].square()
    x, y = torch.tensor(problem.x), torch.tensor(problem.y)
    variance = a * (v + m**2) - (a * m) ** 2
    squares = (y - x @ (a * m)).square().sum() + (x.square() @ variance).sum()
    return 0.5 * squares / problem.noise_sd**2, kl_of


def minimised(problem, model, kl_weight=1.0):
    """A guide at the optimum of the exact objective."""
    guide = Guide(model)
    optimizer = torch.optim.LBFGS(
        guide.parameters(), max_iter=400, tolerance_grad=1e-7, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        data, kl_of = parts(problem, guide)
        loss = data + kl_weight * sum(kl_of.values())
        loss.backward()
        return loss

    optimizer.step(closure)
    return guide


def test_the_oracle_is_the_enumeration_of_all_gates():
    small = learned.problem_of(9, sd=0.6, pi=0.35)
    for sd, pi in ((0.6, 0.35), (0.2, 0.8), (2.0, 0.05)):
        exact = spike.enumerate_posterior(replace(small, slab_sd=sd, inclusion=pi)).log_evidence
        assert learned.log_evidence(small, np.array(sd), np.array(pi)) == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("kl_weight", [1.0, 0.3])
def test_points_land_at_the_largest_joint_density(problem, kl_weight):
    model, _ = regression(problem, **BOTH)
    guide = minimised(problem, model, kl_weight)
    found = guide.means()
    target = learned.tempered(problem, kl_weight)
    sd, pi = learned.best_points(target, HYPER)
    assert float(found["weight.sd"]) == pytest.approx(sd, rel=1e-3)
    assert float(found["weight.pi"]) == pytest.approx(pi, rel=1e-3)
    # There the paired guide is the exact posterior given both.
    m, v, log_factor = learned.conditional(target, np.array(sd))
    np.testing.assert_allclose(found["weight.z"][0], special.expit(special.logit(pi) + log_factor), atol=5e-3)
    # Nearly right: the mode in (log sd, logit pi), the fixed numbers, and another KL weight's answer.
    for wrong in (
        learned.best_points(target, HYPER, jacobian=True),
        (DECLARED["slab_sd"], DECLARED["expected_density"]),
        learned.best_points(learned.tempered(problem, 0.6), HYPER),
    ):
        assert max(abs(wrong[0] / sd - 1.0), abs(wrong[1] / pi - 1.0)) > 2.5e-3


@pytest.mark.parametrize(
    ("given", "index"), [({"learned_sd": "layer"}, 0), ({"learned_density": "layer", "pseudo_gates": 25.0}, 1)]
)
def test_one_is_learned_where_the_other_is_fixed(problem, given, index):
    model, _ = regression(problem, **given)
    found = minimised(problem, model).means()
    name = ("weight.sd", "weight.pi")[index]
    assert set(found) & {"weight.sd", "weight.pi"} == {name}
    fixed = (DECLARED["slab_sd"], DECLARED["expected_density"])
    at = float(found[name])

    def joint(value):
        sd, pi = (value, fixed[1]) if index == 0 else (fixed[0], value)
        return float(learned.log_joint(problem, HYPER, np.array(sd), np.array(pi)))

    assert joint(at) > max(joint(1.001 * at), joint(0.999 * at))
    assert joint(at) > joint(fixed[index]) + 0.5


def fitted(problem, **given):
    """A fit of the package, its data term by draws."""
    model, data = regression(problem, **given)
    how = {"steps": 1500, "batch_size": FEATURES, "learning_rate": 0.01, "kl_warmup": 0.0, "kl_weight": 1.0}
    return bp.fit(model, data, schedule="cosine", precision="float64", device="cpu", standardise=False, **how)


def test_a_fit_by_draws_lands_there_too(problem):
    found = fitted(problem, **BOTH).guide.means()
    sd, pi = learned.best_points(problem, HYPER)
    assert float(found["weight.sd"]) == pytest.approx(sd, rel=0.1)
    assert float(found["weight.pi"]) == pytest.approx(pi, rel=0.1)
    assert abs(DECLARED["slab_sd"] / sd - 1.0) > 0.5
    assert abs(DECLARED["expected_density"] / pi - 1.0) > 0.5


def test_normal_guides_come_near_the_exact_posterior_of_the_scales(problem):
    fit = fitted(problem, **BOTH, learned_by="normal")
    exact = learned.hyper_posterior(problem, HYPER)
    state = {name: value for family in fit.guide.families for name, value in _normals(family).items()}
    for site, key in (("weight.sd", "log sd"), ("weight.pi", "logit pi")):
        location, scale = state[site]
        mean, sd = exact[key]
        assert abs(location - mean) < 0.5 * sd
        assert 0.4 < scale / sd < 1.1  # given q of the gates and slabs, and so narrower
    assert abs(math.log(DECLARED["slab_sd"]) - exact["log sd"][0]) > 2.0 * exact["log sd"][1]
    assert abs(special.logit(0.1) - exact["logit pi"][0]) > 2.0 * exact["logit pi"][1]


def _normals(family):
    if not hasattr(family, "log_scale") or family.sites[0].support not in ("positive", "unit"):
        return {}
    cut = zip(family.sites, family.location.tolist(), family.log_scale.exp().tolist(), strict=True)
    return {site.name: (location, scale) for site, location, scale in cut}


def test_given_the_gates_the_best_guide_of_pi_is_the_conjugate_beta_s_and_given_pi_that_of_the_gates(problem):
    """Beta-Bernoulli: q(pi) nearest to Beta(a + sum, b + rest), and logit q(z) = E logit pi + evidence."""
    model, _ = regression(problem, learned_density="layer", pseudo_gates=25.0, learned_by="normal")
    guide = Guide(model)
    unit = next(family for family in guide.families if family.sites[0].support == "unit")
    paired = next(family for family in guide.families if hasattr(family, "logit"))
    with torch.no_grad():
        paired.logit.copy_(torch.linspace(-4.0, 3.0, FEATURES, dtype=torch.float64))
    inclusion = paired.logit.detach().sigmoid().numpy()
    a, b = HYPER.a + inclusion.sum(), HYPER.b + (1.0 - inclusion).sum()
    location, scale = learned.best_logit_normal(a, b)
    mean, sd = learned.beta_bernoulli(inclusion, HYPER)
    assert location == pytest.approx(mean, abs=0.02)
    assert scale == pytest.approx(sd, rel=0.03)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()

    def expected_terms():
        """The terms of pi and z averaged over the draw of pi, by quadrature."""
        total = 0.0
        for node, weight in zip(nodes, weights, strict=True):
            with fast_distributions(), torch.random.fork_rng():
                drawn = unit.location + unit.log_scale.exp() * node
                sums = torch.stack([drawn.new_zeros(()), drawn.new_zeros(())])
                factors = guide.draw()
                pi = unit.factor(drawn[0], unit.location[0], unit.log_scale[0], sums)
                kl_of = {}
                run_priors(model, factors | {"weight.pi": pi}, Gradient(), kl_of)
            total = total + weight * (kl_of["weight.pi"] + kl_of["weight.z"])
        return total

    with torch.no_grad():
        unit.location.fill_(location), unit.log_scale.fill_(math.log(scale))
    gradients = torch.autograd.grad(expected_terms(), [unit.location, unit.log_scale])
    assert max(float(g.abs()) for g in gradients) < 1e-5
    with torch.no_grad():
        unit.location.fill_(special.logit(inclusion.mean()))  # the mean of the gates, without the hyper-prior
    assert float(torch.autograd.grad(expected_terms(), unit.location)[0].abs()) > 0.5
    # The other way round: with pi held, the exact objective is best at logit q(z) = E logit pi + evidence.
    with torch.no_grad():
        unit.location.fill_(-1.0), unit.log_scale.fill_(math.log(0.7))
        m, v, log_factor = (torch.tensor(each) for each in learned.conditional(problem, np.array(DECLARED["slab_sd"])))
        paired.location.copy_(m), paired.log_scale.copy_(0.5 * v.log())

    def gate_gradient(shift):
        with torch.no_grad():
            paired.logit.copy_(log_factor + shift)
        data, kl_of = parts(problem, guide)
        loss = data + kl_of["weight.slab"] + expected_terms()
        return torch.autograd.grad(loss, paired.logit)[0].abs().max()

    assert float(gate_gradient(-1.0)) < 1e-8
    mean_pi = float(weights @ special.expit(-1.0 + 0.7 * nodes))
    assert float(gate_gradient(special.logit(mean_pi))) > 1e-3  # logit E pi is not E logit pi


def test_which_terms_need_the_draw(problem):
    for by, expected in (("point", []), ("normal", [])):
        model, _ = regression(problem, **BOTH, learned_by=by)
        assert sites_from_draw(Guide(model), Gradient()) == expected
