"""A step that takes the parameters to NaN or infinity ends a fit in one sentence, the last step of all too."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.finite_parameters import NonFiniteLossError

X = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
Y = X[:, 0] * 3


def scaled():
    t = bp.Latent(dist.Gamma(2.0, 1.0), per="output")
    return bp.Hierarchy(t=t, weight=lambda t: dist.Normal(0.0, t))


def fitted(prior, learning_rate, steps=1, optimizer="adam"):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
    bnn = bp.BayesianNetwork(network, {"*.weight": prior}, bp.Normal(), 30)
    how = {"device": "cpu", "path": "plain", "progress": False, "standardise": False}
    return bp.fit(bnn, (X, Y), "meanfield", steps=steps, learning_rate=learning_rate, optimizer=optimizer, **how)


@pytest.mark.parametrize("prior", [scaled, bp.Gaussian, bp.Laplace], ids=["scaled", "gaussian", "laplace"])
@pytest.mark.parametrize("steps", [1, 2])
def test_parameters_that_are_not_finite_after_a_step_are_told_in_a_sentence(prior, steps):
    with pytest.raises(NonFiniteLossError, match=r"non-finite.*: lower learning_rate, or look at the prior") as raised:
        fitted(prior(), 3e38, steps)
    assert "\n" not in str(raised.value) and "first those of 0.weight" in str(raised.value)
    found = fitted(prior(), 1e-3, steps)  # control
    assert torch.isfinite(found.predict(X, draws=2).mean).all()


def test_so_are_outputs_that_are_no_numbers_where_fisher_information_is_asked_for():
    with pytest.raises(NonFiniteLossError, match=r"^the network gives NaN at the guide's centre .*: lower"):
        fitted(bp.Horseshoe(), 1e30)
    assert fitted(bp.Horseshoe(), 1e-3).restarts[0].fisher is not None  # control
