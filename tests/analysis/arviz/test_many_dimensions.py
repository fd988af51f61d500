"""Tensors of more dimensions than there are names for: those beyond are numbered."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import bayesprune as bp


class Six(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.last = nn.Parameter(torch.randn(2, 3, 1, 1, 1, 2)), nn.Linear(4, 1)

    def forward(self, x):
        return self.last(x) * self.w.sum()


def test_a_tensor_of_six_dimensions_is_converted_and_read(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(20, 4)
    bnn = bp.BayesianNetwork(Six(), {"w": bp.SpikeAndSlab(0.3)}, bp.Normal(), 20)
    fit = bp.fit(bnn, (x, x[:, 0]), steps=3, device="cpu", execution="plain")
    probabilities = fit.inclusion_probabilities()["w"]
    kinds = ("output", "input", "kernel_row", "kernel_column", "kernel_depth", "5")
    assert probabilities.dims == tuple(f"w.{kind}" for kind in kinds)
    tree = bp.to_arviz(fit, draws=4)
    assert tree["posterior"]["w"].dims == ("chain", "draw", *probabilities.dims)
    np.testing.assert_array_equal(tree["posterior"]["w"].values[0], fit.draws(4)["w"].numpy())
    assert np.ptp(tree["posterior"]["w"].values, axis=1).max() > 0  # control: draws differ
