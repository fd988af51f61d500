"""What a KL weight T aims at: prior x likelihood^(1/T), in fits, beside its closed form and its enumeration."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.objective import Objective
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
