"""Evaluations of an objective without gradients: they change nothing of what is known of the training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp

SIZE = 40
X = torch.randn(SIZE, 3, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def trained(monitored, recorded=True, kl_weight=0.25):
    torch.manual_seed(0)
    bnn = bp.BayesianNetwork(nn.Linear(3, 2), {"weight": bp.Gaussian(1.0)}, data_size=SIZE)
    loss = bp.objective(bnn, "meanfield")
    optimizer = torch.optim.Adam(loss.parameters(), 0.01)
    record = bp.Record(loss, optimizer)
    for step in range(3):
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss(X, Y, kl_weight).backward()
        optimizer.step()
        if monitored is not None:
            with monitored():
                assert torch.isfinite(loss(X[:10], Y[:10]))
        record.step()
    record.epoch()
    return bp.Fit.of(loss, (X, Y), record if recorded else None)


@pytest.mark.parametrize("monitored", [torch.no_grad, torch.inference_mode])
def test_a_pass_without_gradients_between_steps_is_not_taken_for_training(monitored):
    found, expected = trained(monitored), trained(None)
    for name in ("loss", "kl", "kl_weight", "expected_log_likelihood", "negative_elbo"):
        np.testing.assert_array_equal(found.trace[name], expected.trace[name])
    assert found.settings["kl_weight"] == 0.25 and found.settings["tempered"]
    unrecorded = trained(monitored, recorded=False)
    assert unrecorded.settings["kl_weight"] == 0.25 and unrecorded.settings["tempered"]


def test_a_pass_with_gradients_is_taken_for_training():
    # Control: nothing else tells the two apart.
    assert trained(torch.enable_grad, recorded=False).settings["kl_weight"] == 1.0


def test_without_a_step_there_is_nothing_to_record():
    loss = bp.objective(bp.BayesianNetwork(nn.Linear(3, 2), {"weight": bp.Gaussian(1.0)}, data_size=SIZE))
    record = bp.Record(loss)
    with torch.no_grad():
        value = loss(X, Y)
    with pytest.raises(ValueError, match=r"there is no loss to record: call objective\(x, y\) with gradients"):
        record.step()
    record.step(value)  # whoever steps without gradients gives the loss
    assert record.state.step == 1 and record.kl_weight == 1.0
