"""NUTS: what is sampled is the declaration; draws against a grid, a conjugate posterior and a Gibbs sampler."""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.reference import nuts as home
from bayesprune.inference.reference.linear_model import placed
from bayesprune.inference.reference.nuts import FlatJoint, check_continuous, check_same_density, nuts
from tests.oracles.horseshoe_gibbs import horseshoe_gibbs

N = 30
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, 3, generator=GENERATOR, dtype=torch.float64)
Y = X[:, 0] - 0.4 * X[:, 1] + 0.5 * torch.randn(N, generator=GENERATOR, dtype=torch.float64)


def model(prior, likelihood=None, inputs=3, out=1, bias=False):
    torch.manual_seed(0)
    line = nn.Linear(inputs, out, bias=bias).double()
    return bp.BayesianNetwork(line, {"weight": prior}, likelihood or bp.Normal(0.5), N)


CASES = {
    "noise and bias": (model(bp.Gaussian(0.7), bp.Normal(), bias=True), Y),
    "horseshoe": (model(bp.Horseshoe(0.3), bp.Normal(), bias=True), Y),
    "regularised horseshoe": (model(bp.RegularisedHorseshoe()), Y),
    "laplace, labels": (model(bp.Laplace(0.5), bp.Bernoulli(), bias=True), (Y > 0).double()),
    "three classes": (model(bp.Gaussian(1.0), bp.Categorical(), out=3, bias=True), torch.arange(N) % 3),
    "counts": (model(bp.Laplace(0.5), bp.Poisson(), bias=True), (3 * Y.abs()).round()),
    "student's noise": (model(bp.Gaussian(1.0), bp.StudentT(0.7)), Y),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("flat", [True, False])
def test_what_is_sampled_is_the_declaration(name, flat):
    bnn, y = CASES[name]
    joint = FlatJoint(placed(bnn, X, y)[0], flat)
    assert len(joint.points) == (flat and len(bnn.point_estimates))
    assert check_same_density(joint, bnn, X, y, seed=1) < 1e-9


def test_another_density_is_noticed(monkeypatch):
    bnn, y = CASES["noise and bias"]
    other = model(bp.Gaussian(0.71), bp.Normal(), bias=True)
    with pytest.raises(ValueError, match="differs from the model's"):
        check_same_density(FlatJoint(placed(other, X, y)[0], True), bnn, X, y)
    monkeypatch.setattr(home, "_flat", lambda start: dist.Normal(start, torch.ones_like(start)).to_event(start.ndim))
    with pytest.raises(ValueError, match="differs from the model's"):  # a bias that got a prior
        nuts(bnn, X, y, 5, 5, 1)


def test_gates_are_refused():
    for prior in (bp.SpikeAndSlab(), bp.SpikeAndSlab(level="input")):
        with pytest.raises(ValueError, match="gates, which NUTS does not move"):
            check_continuous(model(prior))


def on_a_grid(x, y, scale, noise):
    """Mean and sd of two weights under Laplace priors, by sums over a fine grid, from the definitions alone."""
    axis = np.linspace(-3.0, 3.0, 601)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    density = -np.abs(points).sum(1) / scale - 0.5 * ((y - points @ x.T) ** 2).sum(1) / noise**2
    share = np.exp(density - density.max())
    share /= share.sum()
    mean = share @ points
    return mean, np.sqrt(share @ points**2 - mean**2)


def test_a_laplace_regression_is_that_of_a_grid():
    mean, sd = on_a_grid(X[:, :2].numpy(), Y.numpy(), 0.2, 0.9)
    found = nuts(model(bp.Laplace(0.2), bp.Normal(0.9), inputs=2), X[:, :2], Y, 400, 150, 1, seed=3)
    drawn = found.weights["weight"][0, :, 0]
    assert found.divergences == 0 and drawn.shape == (400, 2)
    assert np.abs((drawn.mean(0) - mean) / sd).max() < 0.2
    assert np.abs(drawn.std(0) / sd - 1.0).max() < 0.2
    # Control: another scale of the prior is another posterior.
    assert np.abs((on_a_grid(X[:, :2].numpy(), Y.numpy(), 0.05, 0.9)[0] - mean) / sd).max() > 0.5


@pytest.mark.slow
def test_a_horseshoe_regression_is_that_of_a_gibbs_sampler():
    exact, _, _ = horseshoe_gibbs(X.numpy(), Y.numpy(), 0.3, 20_000, noise=0.5)
    found = nuts(model(bp.Horseshoe(0.3)), X, Y, 250, 150, 1)
    drawn = found.weights["weight"][0, :, 0]
    assert found.divergences <= 10
    assert np.abs((drawn.mean(0) - exact.mean(0)) / exact.std(0)).max() < 0.3
    assert np.abs(drawn.std(0) / exact.std(0) - 1.0).max() < 0.3
