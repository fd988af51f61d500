"""A restart that does not exist, of whatever type, is refused in one sentence wherever one is asked for."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
ASKED = {
    "Fit.draws": lambda fit, restart: fit.draws(2, restart=restart),
    "Fit.inclusion_probabilities": lambda fit, restart: fit.inclusion_probabilities(restart),
    "prune": lambda fit, restart: bp.prune(fit, sparsity=0.5, restart=restart),
    "loo": lambda fit, restart: bp.loo(fit, (X, Y), draws=2, restart=restart),
    "layer_table": lambda fit, restart: bp.layer_table(fit, restart, 2),
    "to_arviz": lambda fit, restart: bp.to_arviz(fit, draws=2, restart=restart),
    "plot_inclusion": lambda fit, restart: bp.plot_inclusion(fit, restart=restart),
    "plot_scales": lambda fit, restart: bp.plot_scales(fit, restart),
    "plot_prior_posterior": lambda fit, restart: bp.plot_prior_posterior(fit, draws=20, restart=restart),
    "plot_calibration": lambda fit, restart: bp.plot_calibration(fit, (X, Y), 2, restart=restart),
    "plot_trajectories": lambda fit, restart: bp.plot_trajectories(fit, restart=restart),
}


@pytest.fixture(scope="module")
def fit():
    torch.manual_seed(0)
    bnn = bp.BayesianNetwork(nn.Linear(3, 2), {"weight": bp.SpikeAndSlab(0.3)}, data_size=20)
    return bp.fit(bnn, (X, Y), steps=3, restarts=2, device="cpu", execution="plain")


@pytest.mark.parametrize("name", ASKED)
def test_what_is_no_number_of_a_restart_is_refused_like_one_that_is_not_there(name, fit):
    for wrong, shown in (("a", "'a'"), (1.5, "1.5"), ([0], "[0]"), (2, "2"), (-1, "-1")):
        with pytest.raises(ValueError) as raised:
            ASKED[name](fit, wrong)
        assert str(raised.value) == f"there is no restart {shown}: this fit has 2, counted from 0"
    ASKED[name](fit, 1)  # control
    plt.close("all")


def test_whole_numbers_of_numpy_and_torch_are_taken(fit):
    for same in (np.int64(1), torch.tensor(1)):
        drawn = fit.draws(2, restart=same)["weight"]
        assert torch.equal(drawn, fit.draws(2, restart=1)["weight"])
        assert not torch.equal(drawn, fit.draws(2, restart=0)["weight"])  # control


def test_so_it_is_of_the_plots_of_unit_gates():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    gated = bp.BayesianNetwork(network, {}, gates=bp.UnitGates(kappa=1e-3), data_size=20, example_input=X[:1])
    found = bp.fit(gated, (X, Y), steps=3, device="cpu", execution="plain")
    for plot in (bp.plot_gates, bp.plot_units):
        with pytest.raises(ValueError, match=r"^there is no restart 'a': this fit has 1, counted from 0$"):
            plot(found, "a")
        assert plot(found, 0).axes  # control
    plt.close("all")
