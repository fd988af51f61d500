"""A declaration as a regression: its log joint is the Pyro model's, and what is none is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.reference.linear_model import (
    HiddenUnitsError,
    NotLinearError,
    check_same_joint,
    full_data,
    linear_model,
)

N = 12
GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(N, 3, generator=GENERATOR)
REAL, PAIRS = torch.randn(N, generator=GENERATOR), torch.randn(N, 2, generator=GENERATOR)
LABELS, COUNTS = (REAL > 0).float(), torch.arange(N).float() % 4


def model(out=1, prior=None, likelihood=None, bias=False, on_bias=None):
    torch.manual_seed(1)
    priors = {"weight": prior or bp.SpikeAndSlab(0.3, 0.7)} | ({} if on_bias is None else {"bias": on_bias})
    return bp.BayesianNetwork(nn.Linear(3, out, bias=bias), priors, likelihood or bp.Normal(0.6), N)


OWN = bp.Hierarchy(
    z=bp.Latent(dist.Bernoulli(0.25), "input"),
    u=bp.Latent(dist.Normal(0.5, 2.0)),
    weight=lambda z, u: z * (0.1 + 0.4 * u),
    included=bp.exact_zero(gate="z"),
)
CASES = {
    "spike and slab": (model(), REAL),
    "noise and bias": (model(likelihood=bp.Normal(), bias=True), REAL),
    "a prior on the bias": (model(bias=True, on_bias=bp.Gaussian(2.0)), REAL),
    "two outputs, gates by input": (model(2, bp.SpikeAndSlab(0.2, level="input"), bp.Normal([0.5, 2.0])), PAIRS),
    "several noises": (model(2, likelihood=bp.Normal(), bias=True), PAIRS),
    "no gates": (model(prior=bp.Gaussian(0.3)), REAL),
    "one of our own": (model(prior=OWN, bias=True), REAL),
    "labels": (model(likelihood=bp.Bernoulli(), bias=True), LABELS),
    "two classes": (model(2, likelihood=bp.Categorical()), LABELS.long()),
    "counts": (model(likelihood=bp.Poisson(), bias=True), COUNTS),
}


@pytest.mark.parametrize("name", CASES)
def test_the_log_joint_is_that_of_the_pyro_model(name):
    bnn, y = CASES[name]
    linear = linear_model(bnn, X, y)
    assert check_same_joint(linear, bnn, X, y, seed=1) < 1e-9
    held = linear_model(bnn, X, y, flat=False)
    assert not held.flat.any() and not held.learns_noise
    assert check_same_joint(held, bnn, X, y) < 1e-9


@pytest.mark.parametrize("change", ["log_odds", "sd", "unit", "offset"])
def test_another_declaration_is_noticed(change):
    bnn, y = CASES["a prior on the bias"]
    linear = linear_model(bnn, X, y)
    with pytest.raises(NotLinearError, match="log joint differs"):
        check_same_joint(replace(linear, **{change: getattr(linear, change) * 1.001 + 1e-4}), bnn, X, y)


def test_gates_of_a_level_switch_their_columns():
    bnn, y = CASES["two outputs, gates by input"]
    linear = linear_model(bnn, X, y)
    assert linear.gate.tolist() == [0, 1, 2, 0, 1, 2]
    assert linear.open_at(np.array([1, 0, 0])).tolist() == [True, False, False] * 2
    assert np.allclose(linear.unit.reshape(N, 2), [0.5, 2.0])


def test_hidden_layers_and_other_priors_are_refused():
    deep = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    bnn = bp.BayesianNetwork(deep, {"*.weight": bp.Gaussian()}, bp.Normal(1.0), N)
    with pytest.raises(HiddenUnitsError, match="hidden layers"):
        linear_model(bnn, X, REAL)
    for prior, likelihood, reason in (
        (bp.Horseshoe(), None, "no Normal slab"),
        (bp.Laplace(), None, "no Normal slab"),
        (None, bp.StudentT(1.0), "student-t"),
    ):
        with pytest.raises(NotLinearError, match=reason):
            linear_model(model(prior=prior, likelihood=likelihood), X, REAL)


@pytest.mark.parametrize("data", [None, (X,), (X[:5], REAL[:5]), (X, REAL[:5]), (X.numpy(), REAL.numpy())])
def test_all_the_data_are_asked_for(data):
    with pytest.raises(ValueError, match="all the data"):
        full_data(model(), data)
