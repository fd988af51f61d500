"""The signal-to-noise ratio ranks by |mean| / sd of the weights, which a mean-field guide states."""

from __future__ import annotations

import torch
from torch import nn

import bayesprune as bp


def test_the_signal_to_noise_ratio_is_that_of_the_guide():
    torch.manual_seed(0)
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    model = bp.BayesianNetwork(nn.Linear(3, 2), priors={"weight": bp.Gaussian()}, data_size=40)
    fit = bp.fit(model, (x, y), guide="meanfield", steps=1, seed=0, device="cpu")
    (family,) = fit.guide.families
    with torch.no_grad():
        family.location.copy_(torch.tensor([0.1, -1.0, 2.0, -0.2, 3.0, 0.5]))
        family.log_scale.copy_(torch.tensor([0.1, 2.0, 1.0, 0.05, 6.0, 0.1]).log())
    ratios = torch.tensor([1.0, 0.5, 2.0, 4.0, 0.5, 5.0]).reshape(2, 3)
    drawn = fit.draws(100, sites={"weight"}.__contains__)["weight"]
    found = bp.prune(fit, sparsity=0.5, criterion="signal-to-noise").masks["weight"]
    assert torch.equal(found, ratios > 1.5)
    assert not torch.equal(found, drawn.mean(0).abs() > drawn.mean(0).abs().median())  # control: not by size
