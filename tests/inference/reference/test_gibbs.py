"""The Gibbs sampler against enumeration and quadrature, and Polya-Gamma draws against their moments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.reference import gibbs as sampler
from bayesprune.inference.reference.enumeration import enumerated
from bayesprune.inference.reference.gibbs import gibbs
from bayesprune.inference.reference.linear_model import linear_model
from bayesprune.inference.reference.polya_gamma import polya_gamma
from bayesprune.inference.reference.quadrature import integrated
from tests.oracles.correlated_regressions import correlated_problems
from tests.oracles.spike_and_slab_reference import enumerate_posterior

NEAR = 0.01


def regression(problem):
    x, y = torch.tensor(problem.x), torch.tensor(problem.y)
    prior = bp.SpikeAndSlab(problem.inclusion, problem.slab_sd)
    line = nn.Linear(x.shape[1], 1, bias=False).double()
    return linear_model(bp.BayesianNetwork(line, {"weight": prior}, bp.Normal(problem.noise_sd), len(x)), x, y)


def miss(found, exact):
    return np.abs(found.inclusion - exact.pips).max()


def test_a_column_that_is_there_twice():
    problem = correlated_problems()["a column twice"]
    found = gibbs(regression(problem), draws=1500, warmup=100, seed=1)
    exact = enumerate_posterior(problem)
    assert miss(found, exact) < NEAR
    assert np.abs(found.mean - exact.mean).max() < 0.02
    # Each of the twins is in about half of the time, and chains go from one to the other.
    both = found.gates[..., [0, 5]].astype(int)
    assert (np.diff(both[..., 0], axis=1) != 0).sum(1).min() > 100


def test_a_sampler_that_forgets_occams_factor_is_noticed(monkeypatch):
    problem, whole = correlated_problems()["diabetes"], sampler._Swept.change

    def forgetful(self, chains, column):
        diagonal, inside = self.matrix[chains, column, column], self.inside[chains, column]
        return whole(self, chains, column) + 0.5 * np.log(np.where(inside, -1.0 / diagonal, diagonal))

    monkeypatch.setattr(sampler._Swept, "change", forgetful)
    assert miss(gibbs(regression(problem), draws=300, warmup=50), enumerate_posterior(problem)) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", correlated_problems())
def test_six_correlated_designs_are_within_a_hundredth(name):
    problem = correlated_problems()[name]
    assert miss(gibbs(regression(problem), draws=6000), enumerate_posterior(problem)) < NEAR


def test_groups_a_bias_and_a_learned_noise():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 3))
    y = np.stack([2.0 + x[:, 0], 0.4 * x[:, 0] - 0.35 * x[:, 1]], 1) + 0.8 * rng.standard_normal((40, 2))
    bnn = bp.BayesianNetwork(
        nn.Linear(3, 2).double(), {"weight": bp.SpikeAndSlab(0.3, 0.5, level="input")}, bp.Normal(), 40
    )
    linear = linear_model(bnn, torch.tensor(x), torch.tensor(y))
    exact, found = enumerated(linear, draws=10), gibbs(linear, draws=1500, warmup=200)
    assert 0.05 < exact.inclusion[1] < 0.98
    assert np.abs(found.inclusion - exact.inclusion).max() < 2 * NEAR
    assert np.abs((found.mean - exact.mean) / exact.sd).max() < 0.1
    assert abs(found.noise.mean() / exact.noise_moments[0] - 1.0) < 0.02


def test_labels_by_polya_gamma_variables():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((60, 2))
    x[:, 1] = 0.8 * x[:, 0] + 0.6 * x[:, 1]
    y = (rng.random(60) < 1.0 / (1.0 + np.exp(-0.7 * x[:, 0]))).astype(float)
    bnn = bp.BayesianNetwork(nn.Linear(2, 1).double(), {"weight": bp.SpikeAndSlab(0.3, 0.8)}, bp.Bernoulli(), 60)
    linear = linear_model(bnn, torch.tensor(x), torch.tensor(y))
    exact, found = integrated(linear, draws=10), gibbs(linear, draws=2500, warmup=200)
    assert np.abs(found.inclusion - exact.inclusion).max() < 2 * NEAR
    assert np.abs((found.mean - exact.mean) / exact.sd).max() < 0.1
    assert np.abs(found.sd / exact.sd - 1.0).max() < 0.1


@pytest.mark.parametrize("c", [0.0, 0.6, -3.0, 12.0])
def test_polya_gamma_draws_have_their_moments(c):
    count = 40_000
    drawn = polya_gamma(np.full(count, c), np.random.default_rng(0))
    size = max(abs(c), 1e-4)
    mean = np.tanh(size / 2) / (2 * size)
    variance = 1 / 24 if c == 0 else (np.sinh(size) - size) / (4 * size**3 * np.cosh(size / 2) ** 2)
    assert abs(drawn.mean() - mean) < 5 * np.sqrt(variance / count)
    assert abs(drawn.var() / variance - 1.0) < 0.06
    # Its Laplace transform at one: E exp(-w) = cosh(c / 2) / cosh(sqrt(c^2 / 4 + 1 / 2)).
    transform = np.cosh(size / 2) / np.cosh(np.sqrt(size**2 / 4 + 0.5))
    assert abs(np.exp(-drawn).mean() - transform) < 5 * np.exp(-drawn).std() / np.sqrt(count)
