"""The histograms of shrinkage factors hold every weight; the title sums them."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import bayesprune as bp


def test_histograms_and_effective_numbers_are_those_of_the_factors(horseshoe, panel):
    fit = copy.deepcopy(horseshoe)
    one = fit.restarts[1]
    for prior in one.model.priors.values():
        prior.hierarchy.included = bp.shrinkage_below(0.5, by="fisher")
    one.fisher = {name: 300 * information for name, information in one.fisher.items()}  # so that factors are spread
    figure = bp.plot_shrinkage(fit, restart=1, draws=50)
    # By the definition, from the same draws.
    total = {name: np.zeros(prior.shape) for name, prior in one.model.priors.items()}

    def add(draw):
        for name, sums in total.items():
            sd = (draw[f"{name}.tau"] * draw[f"{name}.lam"]).double().numpy()
            sums += 1.0 / (1.0 + 300 * one.fisher[name].double().numpy() * sd**2) / 50

    fit.map_draws(add, 50, 1)
    for name, kappa in total.items():
        axis = panel(figure, f"{name}: ")
        counts = [patch.get_height() for patch in axis.patches]
        assert sum(counts) == kappa.size
        below = [(kappa < edge).sum() for edge in np.linspace(0, 1, 41)[1:-1]]
        assert np.abs(np.cumsum(counts)[:-1] - below).max() <= 1  # float32 may round across an edge
        assert np.count_nonzero(counts) > 10
        assert axis.get_title(loc="left") == f"{name}: {(1 - kappa).sum():,.0f} of {kappa.size:,}"
        assert axis.lines[0].get_xdata()[0] == 0.5  # the event's threshold
        assert axis.get_xlabel() == "shrinkage factor by the Fisher information"


def test_in_a_network_the_factors_are_those_of_the_posterior(horseshoe, panel):
    figure = bp.plot_shrinkage(horseshoe, draws=5)
    name = next(iter(horseshoe.model.priors))
    assert panel(figure, f"{name}: ").get_xlabel() == "shrinkage factor by the posterior"


def test_a_map_has_factors_too(halo, panel):
    axis = panel(bp.plot_shrinkage(halo), "fc1.weight: ")
    kappa = halo.shrinkage_factors()["fc1.weight"].values
    assert axis.get_title(loc="left").startswith(f"fc1.weight: {(1 - kappa).sum():,.0f} of 768")


def test_wrong_input_is_told(spike, horseshoe):
    with pytest.raises(ValueError, match="no prior of this fit is a scale mixture"):
        bp.plot_shrinkage(spike)
    with pytest.raises(ValueError, match="there is no restart 2"):
        bp.plot_shrinkage(horseshoe, restart=2)
    with pytest.raises(ValueError, match="has no format"):
        bp.plot_shrinkage(None, path="figure.bmp")
