"""What a KL weight T aims at: prior x likelihood^(1/T), in fits, beside its closed form and its enumeration."""

from __future__ import annotations

from functools import cache

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats
from scipy.special import logit
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.objective import Objective
from bayesprune.models.language.inclusion import exact_zero
from tests.oracles import spike_and_slab_reference as spike
from tests.oracles import tempered as exact

WEIGHTS = (1.0, 0.3, 0.1, 3.0)
UNDECIDED = (0.05, 0.95)


def problem(size=1):
    """Ten orthogonal features of which T = 1 leaves five open; or weak ones, of which it leaves the groups open."""
    if size == 1:
        return spike.orthogonal_problem()
    pips = np.array([0.25, 0.3, 0.2, 0.3, 0.25, 0.15, 0.3, 0.35, 0.2, 0.2])
    return spike.problem_with_pips(pips, np.linspace(40.0, 120.0, 10), np.random.default_rng(0), 0.7, 1.0, 0.25, 80)


def arguments(one, kl_weight):
    return one.x, one.y, one.noise_sd, one.slab_sd, one.inclusion, kl_weight


def undecided(pips):
    return int(((pips > UNDECIDED[0]) & (pips < UNDECIDED[1])).sum())


# -- the oracle itself ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kl_weight", WEIGHTS)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_closed_form_is_the_enumeration_of_the_tempered_joint(kl_weight, size):
    given = (*arguments(problem(size), kl_weight), size)
    closed, enumerated = exact.closed_form(*given), exact.enumerated(*given)
    for one, other in zip(vars(closed).values(), vars(enumerated).values(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)
    untempered = exact.enumerated(*arguments(problem(size), 1.0), size)
    assert kl_weight == 1.0 or np.abs(closed.pips - untempered.pips).max() > 0.02  # control


@pytest.mark.parametrize("kl_weight", WEIGHTS)
def test_enumeration_is_quadrature_of_the_likelihood_to_a_power(kl_weight):
    x, y = np.array([[0.5], [-1.0], [0.8]]), np.array([0.3, -0.2, 0.9])
    found = exact.enumerated(x, y, 0.7, 1.3, 0.2, kl_weight)

    def joint(w, power):
        return w**power * stats.norm.pdf(w, 0, 1.3) * np.exp(stats.norm.logpdf(y, x[:, 0] * w, 0.7).sum() / kl_weight)

    mass, first, second = (integrate.quad(joint, -15, 15, args=(n,), epsabs=0, epsrel=1e-11)[0] for n in range(3))
    out = 0.8 * np.exp(stats.norm.logpdf(y, 0.0, 0.7).sum() / kl_weight)
    assert found.pips[0] == pytest.approx(0.2 * mass / (0.2 * mass + out), abs=1e-9)
    assert found.mean[0] == pytest.approx(first / mass, abs=1e-9)
    assert found.variance[0] == pytest.approx(second / mass - (first / mass) ** 2, abs=1e-9)


@pytest.mark.parametrize("kl_weight", WEIGHTS)
def test_the_paired_guide_minimises_the_tempered_objective_at_the_closed_form(kl_weight):
    one = problem()
    best = exact.closed_form(*arguments(one, kl_weight))

    def at(move):
        odds, m, v = move.reshape(3, -1)
        values = best.log_odds + odds, best.mean + m, best.variance * np.exp(v)
        return exact.objective(*values, *arguments(one, kl_weight))

    def slopes(start):
        eye = 1e-4 * np.eye(start.size)
        return np.array([(at(start + e) - at(start - e)) / 2e-4 for e in eye])

    nowhere = np.zeros(3 * len(best.pips))
    assert np.abs(slopes(nowhere)).max() < 1e-5
    for seed in range(20):
        move = 0.3 * np.random.default_rng(seed).standard_normal(nowhere.size)
        assert at(move) > at(nowhere)
    other = exact.closed_form(*arguments(one, 1.0))
    width = np.log(other.variance / best.variance)
    moved = np.concatenate([other.log_odds - best.log_odds, other.mean - best.mean, width])
    assert kl_weight == 1.0 or np.abs(slopes(moved)).max() > 0.05  # control: T = 1's answer is no optimum


# -- the package ---------------------------------------------------------------------------------------------


def copies_of(one, count, size=1):
    """A model of many copies of a regression as outputs that share no parameter, and its data."""
    x, y = torch.tensor(one.x), torch.tensor(one.y)[:, None].expand(-1, count).clone()
    line = nn.Linear(x.shape[1], count, bias=False).double()
    with torch.no_grad():
        line.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    level = {} if size == 1 else {"level": "block", "block": (1, size)}
    prior = bp.SpikeAndSlab(one.inclusion, one.slab_sd, initial_inclusion=0.5, **level)
    return bp.BayesianNetwork(line, {"weight": prior}, bp.Normal(one.noise_sd), len(x)), (x, y)


def gradient_at(one, values, kl_weight, size=1, count=4000, rounds=12):
    """Mean gradients of the package's objective at values of the guide, and their standard errors, by copies."""
    model, (x, y) = copies_of(one, count, size)
    guide = Guide(model)
    (family,) = guide.families
    with torch.no_grad():
        family.logit.copy_(torch.tensor(values.log_odds).repeat(count))
        family.location.copy_(torch.tensor(values.mean).repeat(count))
        family.log_scale.copy_(0.5 * torch.tensor(values.variance).log().repeat(count))
    objective = Objective(model, guide)
    found = []
    torch.manual_seed(0)
    for _ in range(rounds):
        guide.zero_grad()
        objective(x, y, kl_weight).backward()
        found.append(
            torch.cat([p.grad.reshape(count, -1) for p in (family.logit, family.location, family.log_scale)], 1)
        )
    every = torch.cat(found).numpy()
    return every.mean(0), every.std(0, ddof=1) / len(every) ** 0.5


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("kl_weight", WEIGHTS)
def test_the_objective_of_a_fit_is_stationary_at_the_tempered_posterior(kl_weight, size):
    one = problem(size)
    mean, error = gradient_at(one, exact.closed_form(*arguments(one, kl_weight), size), kl_weight, size)
    assert (np.abs(mean) < 4.5 * error + 1e-9).all()  # gates that are sure have no gradient left
    if kl_weight != 1.0:
        mean, error = gradient_at(one, exact.closed_form(*arguments(one, 1.0), size), kl_weight, size)
        assert (np.abs(mean) > 10.0 * error).sum() >= len(mean) // 3  # control: T = 1's answer


@cache
def fitted(kl_weight, count=32):
    model, data = copies_of(problem(), count)
    fit = bp.fit(
        model, data, steps=500, batch_size=len(data[0]), learning_rate=0.01, schedule="cosine", kl_warmup=0.0,
        kl_weight=kl_weight, precision="float64", device="cpu", execution="plain",
    )  # fmt: skip
    assert fit.settings["tempered"] == (kl_weight != 1.0)
    return fit.inclusion_probabilities()["weight"].values.mean(0)


@pytest.mark.parametrize(
    "kl_weight", [pytest.param(weight, marks=[] if weight == 0.3 else pytest.mark.slow) for weight in WEIGHTS]
)
def test_a_fit_ends_at_the_tempered_posterior(kl_weight):
    found = fitted(kl_weight)
    enumerated = exact.enumerated(*arguments(problem(), kl_weight)).pips
    np.testing.assert_allclose(found, enumerated, atol=0.05)
    untempered = exact.enumerated(*arguments(problem(), 1.0)).pips
    assert kl_weight == 1.0 or np.abs(found - untempered).max() > 0.2  # control


# -- hyper-parameters as points ------------------------------------------------------------------------------

SHAPES, SCALE, COPIES = (40.0, 120.0), 0.5, 20


def slopes_of_points(one, kl_weight, inclusion, slab_sd):
    """Gradients of the package's objective in logit lambda and log s, with the guide at its best for them."""
    x, y = torch.tensor(one.x), torch.tensor(one.y)[:, None].expand(-1, COPIES).clone()
    prior = bp.Hierarchy(
        density=bp.Latent(dist.Beta(*SHAPES), per="layer", guide="delta"),
        sd=bp.Latent(dist.HalfCauchy(SCALE), per="layer", guide="delta"),
        z=lambda density: dist.Bernoulli(density),
        slab=lambda sd: dist.Normal(0.0, sd),
        weight=lambda z, slab: z * slab,
        included=exact_zero(gate="z", slab="slab"),
        default_guide="paired",
    )
    line = nn.Linear(x.shape[1], COPIES, bias=False).double()
    model = bp.BayesianNetwork(line, {"weight": prior}, bp.Normal(one.noise_sd), len(x))
    guide = Guide(model)
    best = exact.closed_form(one.x, one.y, one.noise_sd, slab_sd, inclusion, kl_weight)
    points = {family.sites[0].name: family for family in guide.families if len(family.location) == 1}
    (pairs,) = [family for family in guide.families if len(family.location) > 1]
    with torch.no_grad():
        points["weight.density"].location.fill_(float(logit(inclusion)))
        points["weight.sd"].location.fill_(float(np.log(slab_sd)))
        pairs.logit.copy_(torch.tensor(best.log_odds).repeat(COPIES))
        pairs.location.copy_(torch.tensor(best.mean).repeat(COPIES))
        pairs.log_scale.copy_(0.5 * torch.tensor(best.variance).log().repeat(COPIES))
    assert float(guide.means()["weight.sd"]) == pytest.approx(slab_sd)
    Objective(model, guide)(x, y, kl_weight).backward()
    return np.array([float(points[f"weight.{name}"].location.grad) for name in ("density", "sd")])


@pytest.mark.parametrize("kl_weight", WEIGHTS)
def test_points_of_hyper_parameters_maximise_their_prior_times_the_tempered_evidence(kl_weight):
    one = problem()
    at = exact.map_of_hyper_parameters(one.x, one.y, one.noise_sd, kl_weight, COPIES, SHAPES, SCALE)
    assert np.abs(slopes_of_points(one, kl_weight, *at)).max() < 1e-4
    other = exact.map_of_hyper_parameters(one.x, one.y, one.noise_sd, 1.0, COPIES, SHAPES, SCALE)
    assert kl_weight == 1.0 or np.abs(slopes_of_points(one, kl_weight, *other)).max() > 0.05  # control


# -- reading a tempered fit back -----------------------------------------------------------------------------


@pytest.mark.parametrize("kl_weight", WEIGHTS)
def test_on_orthogonal_columns_the_probabilities_at_1_can_be_read_back(kl_weight):
    one = problem()
    tempered, at_1 = (exact.closed_form(*arguments(one, weight)) for weight in (kl_weight, 1.0))
    gained = exact.read_back(tempered.mean, tempered.variance, one.slab_sd, kl_weight)
    np.testing.assert_allclose(gained + logit(one.inclusion), at_1.log_odds, rtol=0, atol=1e-9)
    # The rule in one number, where the data outweigh the slab: the fit's own log odds times T, and what is left of it.
    occam = 0.5 * np.log(tempered.variance / one.slab_sd**2)
    rule = kl_weight * (tempered.log_odds - logit(one.inclusion) - occam) + occam - 0.5 * np.log(kl_weight)
    assert np.abs(rule + logit(one.inclusion) - at_1.log_odds).max() < 0.25
    assert kl_weight == 1.0 or np.abs(tempered.log_odds - at_1.log_odds).max() > 1.0  # control


def test_on_correlated_columns_they_cannot_even_by_the_exact_tempered_posterior():
    one = spike.diabetes_problem()
    tempered, at_1 = (exact.enumerated(*arguments(one, weight)) for weight in (0.1, 1.0))
    gained = exact.read_back(tempered.mean, tempered.variance, one.slab_sd, 0.1)
    assert np.abs(1 / (1 + np.exp(-gained - logit(one.inclusion))) - at_1.pips).max() > 0.2


def test_fewer_are_undecided_the_smaller_the_kl_weight():
    counts = [undecided(exact.closed_form(*arguments(problem(), weight)).pips) for weight in (1.0, 0.3, 0.1, 0.03)]
    assert counts == sorted(counts, reverse=True) and counts[0] >= 7 > counts[-1]
