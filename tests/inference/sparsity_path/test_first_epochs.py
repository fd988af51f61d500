"""The first point of a path starts cold, and is fitted three times as long as the others unless told otherwise."""

from __future__ import annotations

import torch
from torch import nn

import bayesprune as bp

X, Y = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 2


def model(kappa):
    torch.manual_seed(0)
    return bp.BayesianNetwork(nn.Linear(3, 2), priors={"weight": bp.HALO(kappa=kappa)}, data_size=30)


def epochs_of(**more):
    how = {"knob": "kappa", "validation": (X, Y), "restarts": 1, "device": "cpu", "prunings": [{"sparsity": 0.5}]}
    path = bp.sparsity_path(model, (X, Y), [1.0, 5.0], epochs=2, **how, **more)
    return [path.fit(value).settings["epochs"] for value in (1.0, 5.0)]


def test_the_first_point_is_fitted_three_times_as_long():
    assert epochs_of() == [6, 2]
    assert epochs_of(first_epochs=3) == [3, 2]  # control
