"""Enumeration against marginal likelihoods written from the definitions, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.reference import enumeration
from bayesprune.inference.reference.enumeration import enumerated
from bayesprune.inference.reference.linear_model import linear_model
from bayesprune.inference.reference.quadrature import integrated
from tests.oracles.correlated_regressions import correlated_problems
from tests.oracles.spike_and_slab_reference import enumerate_posterior
from tests.oracles.state_evidences import normal_states, pips, with_flat_bias_and_noise

RNG = np.random.default_rng(5)


def regression(problem):
    x, y = torch.tensor(problem.x), torch.tensor(problem.y)
    prior = bp.SpikeAndSlab(problem.inclusion, problem.slab_sd)
    line = nn.Linear(x.shape[1], 1, bias=False).double()
    return linear_model(bp.BayesianNetwork(line, {"weight": prior}, bp.Normal(problem.noise_sd), len(x)), x, y)


@pytest.mark.parametrize("name", ["diabetes", "a column twice"])
def test_probabilities_moments_and_evidence_are_those_of_all_subsets(name):
    problem = correlated_problems()[name]
    found, exact = enumerated(regression(problem), draws=4000), enumerate_posterior(problem)
    assert np.abs(found.inclusion - exact.pips).max() < 1e-10
    assert np.abs(found.mean - exact.mean).max() < 1e-10
    assert abs(found.log_evidence - exact.log_evidence) < 1e-9
    second = exact.pips * (exact.included_variance + exact.included_mean**2)
    assert np.abs(found.sd - np.sqrt(second - exact.mean**2)).max() < 1e-8
    drawn = found.coefficients[0]
    assert np.abs(drawn.mean(0) - found.mean).max() < 5 * found.sd.max() / np.sqrt(4000)
    assert np.abs(found.gates[0].mean(0) - found.inclusion).max() < 0.04
    # Closed gates are zeros, and only they.
    assert ((drawn == 0) == (found.gates[0] == 0)).all()


def test_gates_of_groups_means_of_slabs_and_two_outputs():
    x, y = RNG.standard_normal((9, 3)), RNG.standard_normal((9, 2)) + 1.0
    prior = bp.Hierarchy(
        z=bp.Latent(torch.distributions.Bernoulli(0.3), "input"),
        u=bp.Latent(torch.distributions.Normal(0.5, 0.8)),
        weight=lambda z, u: z * u,
        included=bp.exact_zero(gate="z"),
    )
    line = nn.Linear(3, 2, bias=False).double()
    bnn = bp.BayesianNetwork(line, {"weight": prior}, bp.Normal([0.7, 1.3]), 9)
    found = enumerated(linear_model(bnn, torch.tensor(x), torch.tensor(y)), draws=10)
    wide = np.kron(x, np.array([[1.0], [0.0]]))
    design = np.concatenate([wide, np.kron(x, np.array([[0.0], [1.0]]))], axis=1)
    scale = np.tile([0.7, 1.3], 9)
    odds = np.full(3, np.log(np.float32(0.3) / (1 - np.float32(0.3))))
    joint = normal_states(
        design / scale[:, None], y.ravel() / scale, np.tile(np.arange(3), 2), odds, np.full(6, 0.5),
        np.full(6, float(np.float32(0.8))), 1.0,
    )  # fmt: skip
    assert np.abs(found.inclusion - pips(joint, 3)).max() < 1e-6  # the declaration's constants are float32
    assert abs(found.log_evidence - np.logaddexp.reduce(joint) + np.log(scale).sum()) < 1e-5


def noisy(bias=True):
    x = np.random.default_rng(2).standard_normal((8, 2))
    y = 1.5 + 0.8 * x[:, 0] + np.random.default_rng(3).standard_normal(8)
    line = nn.Linear(2, 1, bias=bias).double()
    bnn = bp.BayesianNetwork(line, {"weight": bp.SpikeAndSlab(0.4, 0.9)}, bp.Normal(), 8)
    return x, y, linear_model(bnn, torch.tensor(x), torch.tensor(y))


def test_a_learned_noise_and_a_bias_are_integrated_out(monkeypatch):
    x, y, linear = noisy()
    odds, grid = np.full(2, np.log(0.4 / 0.6)), (np.linspace(-40.0, 43.0, 1661), np.linspace(-3.5, 7.0, 70))
    exact, evidence = with_flat_bias_and_noise(x, y, odds, np.full(2, 0.9), *grid)
    found = enumerated(linear, draws=4000)
    assert np.abs(found.inclusion - exact).max() < 1e-4  # the tails of the grid
    assert abs(found.log_evidence - evidence) < 1e-4
    assert np.abs(found.coefficients[0].mean(0) - found.mean).max() < 0.1
    assert np.abs(found.coefficients[0].std(0) / found.sd - 1.0).max() < 0.15
    assert abs(found.noise.mean() / found.noise_moments[0] - 1.0) < 0.05
    # A step half as long changes nothing: the rule is exact to rounding.
    monkeypatch.setattr(enumeration, "_STEPS", 8.0)
    finer = enumerated(linear, draws=10)
    assert np.abs(finer.inclusion - found.inclusion).max() < 1e-9
    assert abs(finer.log_evidence - found.log_evidence) < 1e-9
    # Control: noise that is held where it is, is another posterior.
    assert np.abs(enumerated(noisy()[2], draws=10, kl_weight=2.0).inclusion - exact).max() > 0.01


def test_a_kl_weight_is_a_larger_noise_where_that_is_known():
    problem = correlated_problems()["diabetes"]
    tempered = enumerated(regression(problem), draws=10, kl_weight=0.3)
    exact = enumerate_posterior(type(problem)(problem.x, problem.y, problem.noise_sd * 0.3**0.5, 0.3, 0.5))
    assert np.abs(tempered.inclusion - exact.pips).max() < 1e-10
    assert np.abs(tempered.inclusion - enumerate_posterior(problem).pips).max() > 0.1


def test_posteriors_that_cannot_be_normalised_are_refused():
    x = torch.randn(4, 6, dtype=torch.float64)
    wide = bp.BayesianNetwork(nn.Linear(6, 1).double(), {"weight": bp.SpikeAndSlab()}, bp.Normal(), 4)
    with pytest.raises(ValueError, match="fit the targets exactly"):
        enumerated(linear_model(wide, x, torch.randn(4, dtype=torch.float64)))
    bnn = bp.BayesianNetwork(nn.Linear(6, 1).double(), {"weight": bp.SpikeAndSlab()}, bp.Bernoulli(), 4)
    with pytest.raises(ValueError, match="labels are alike"):
        enumeration.check_proper(linear_model(bnn, x, torch.ones(4)))


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson"])
def test_quadrature_of_labels_and_counts(likelihood):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((25, 2))
    rate = 0.4 + 0.9 * x[:, 0]
    y = (rng.random(25) < 1 / (1 + np.exp(-rate))) * 1.0 if likelihood == "bernoulli" else rng.poisson(np.exp(rate))
    kind = {"bernoulli": bp.Bernoulli, "poisson": bp.Poisson}[likelihood]()
    bnn = bp.BayesianNetwork(nn.Linear(2, 1, bias=False).double(), {"weight": bp.SpikeAndSlab(0.3, 0.8)}, kind, 25)
    found = integrated(linear_model(bnn, torch.tensor(x), torch.tensor(y).double()), draws=3000)
    axis = np.arange(-6.0, 6.0, 0.02)
    first, second = np.meshgrid(axis, axis, indexing="ij")

    def total(points, slabs):
        outputs = points @ x.T
        if likelihood == "bernoulli":
            each = y * outputs - np.logaddexp(0.0, outputs)
        else:
            each = y * outputs - np.exp(outputs) - np.array([np.log(np.arange(1, k + 1)).sum() for k in y])
        prior = -0.5 * (slabs / 0.8) ** 2 - np.log(0.8) - 0.5 * np.log(2 * np.pi)
        return np.logaddexp.reduce(each.sum(1) + prior.sum(1)) + slabs.shape[1] * np.log(0.02)

    line, zero = axis[:, None], np.zeros_like(axis)[:, None]
    both = np.stack([first.ravel(), second.ravel()], 1)
    states = np.array([
        total(np.zeros((1, 2)), np.zeros((1, 0))), total(np.hstack([zero, line]), line),
        total(np.hstack([line, zero]), line), total(both, both),
    ]) + np.log([0.49, 0.21, 0.21, 0.09])  # fmt: skip
    assert np.abs(found.inclusion - pips(states, 2)).max() < 1e-8
    assert abs(found.log_evidence - np.logaddexp.reduce(states)) < 1e-8
    assert np.abs(found.coefficients[0].mean(0) - found.mean).max() < 0.06
