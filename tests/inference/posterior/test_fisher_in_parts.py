"""The Fisher information of a large network takes fewer examples at a time, and is the same."""

from __future__ import annotations

import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.data.batches import Batches
from bayesprune.inference.objective.squared_gradients import SquaredGradients
from bayesprune.inference.posterior import shrinkage


def test_no_more_gradients_are_held_at_once_than_numbers_are_allowed(monkeypatch):
    torch.manual_seed(0)
    x, y = torch.randn(60, 4, dtype=torch.float64), torch.arange(60) % 3
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    bnn = bp.BayesianNetwork(network, {"*.weight": bp.Horseshoe()}, data_size=60)
    fit = bp.fit(bnn, (x, y), steps=3, device="cpu", precision="float64")
    one, batches = fit.restarts[0], Batches((x, y), 60, torch.device("cpu"), torch.float64)
    taken, called = [], SquaredGradients.__call__
    monkeypatch.setattr(
        SquaredGradients, "__call__", lambda self, *part: taken.append(len(part[0])) or called(self, *part)
    )
    whole = shrinkage.diagonal_fisher(one.model, one.guide, batches)
    assert taken == [50, 10]
    weights = 4 * 5 + 5 * 3
    for numbers, largest in ((7 * weights, 7), (weights // 2, 1)):
        taken.clear()
        monkeypatch.setattr(shrinkage, "NUMBERS", numbers)
        parts = shrinkage.diagonal_fisher(one.model, one.guide, batches)
        assert max(taken) == largest and sum(taken) == 60
        for name, value in whole.items():
            torch.testing.assert_close(parts[name], value, rtol=1e-12, atol=0.0)
            assert float(value.min()) > 0.0
