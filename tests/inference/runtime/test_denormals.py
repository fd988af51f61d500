"""Denormal numbers are zero inside a fit and what they were outside."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.runtime.denormals import flushed_denormals


def is_zero(number=1e-40):
    return bool(torch.tensor(number) * 1.0 == 0.0)


def test_they_are_zero_inside_and_the_setting_comes_back():
    assert not is_zero()
    with flushed_denormals():
        assert is_zero() and not is_zero(1e-37)
        with flushed_denormals():
            assert is_zero()
        assert is_zero()  # what was set stays set
    assert not is_zero()
    with pytest.raises(KeyError), flushed_denormals():
        raise KeyError
    assert not is_zero()


def test_a_fit_runs_without_them():
    seen = []

    class Look(bp.Callback):
        def on_step(self, state):
            seen.append(is_zero())

    x = torch.randn(32, 3)
    model = bp.BayesianNetwork(nn.Linear(3, 1), {"weight": bp.Gaussian()}, bp.Normal(0.5), data_size=32)
    bp.fit(model, (x, x.sum(dim=1)), epochs=2, batch_size=16, callbacks=[Look()])
    assert seen and all(seen) and not is_zero()
