"""Tiny fits on scikit-learn's digits, made once for all the tests of this folder; nothing may change them."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import bayesprune as bp

DATA = 300


@pytest.fixture(scope="session")
def panel():
    """Finds the one panel of a figure whose title begins so."""

    def find(figure, beginning):
        (found,) = [axis for axis in figure.axes if axis.get_title(loc="left").startswith(beginning)]
        return found

    return find


@pytest.fixture(scope="session")
def digits():
    torch.set_num_threads(1)
    x, y = load_digits(return_X_y=True)
    x = torch.as_tensor(x, dtype=torch.float32) / 16
    return {"train": (x[:DATA], torch.as_tensor(y[:DATA])), "held out": (x[DATA:400], torch.as_tensor(y[DATA:400]))}


@pytest.fixture(scope="session")
def make_fit(digits):
    """Fits a network of 64-12-8-10, or one that is given."""

    def make(priors, guide=None, network=None, validation=True, **settings):
        torch.manual_seed(0)
        network = bp.lenet_300_100(64, 10, hidden=(12, 8)) if network is None else network
        bnn = bp.BayesianNetwork(network, priors, data_size=DATA)
        settings = {"epochs": 6, "batch_size": 64, "learning_rate": 3e-3} | settings
        held_out = digits["held out"] if validation else None
        return bp.fit(bnn, digits["train"], guide, validation=held_out, seed=3, **settings)

    return make


@pytest.fixture(scope="session")
def gaussian(make_fit):
    return make_fit({"fc*.weight": bp.Gaussian(0.3)}, "meanfield", validation=False)


@pytest.fixture(scope="session")
def horseshoe(make_fit):
    return make_fit({"fc*.weight": bp.Horseshoe()}, "meanfield", restarts=2)


@pytest.fixture(scope="session")
def halo(make_fit):
    return make_fit({"fc*.weight": bp.HALO(kappa=20.0)}, "map")


@pytest.fixture(scope="session")
def spike(make_fit):
    return make_fit({"fc*.weight": bp.SpikeAndSlab(0.2)}, "paired", restarts=2)


@pytest.fixture(scope="session")
def convolution(make_fit):
    network = nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(180, 10))
    priors = {"1.weight": bp.SpikeAndSlab(0.2), "4.weight": bp.RegularisedHorseshoe(per="output")}
    return make_fit(priors, network=network, epochs=2)
