"""What looks at a fit with batch normalisation gives every network the statistics that belong to its weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.analysis.diagnostics.log_densities import LogDensities
from bayesprune.inference.data.batch_normalisation import reestimate_statistics
from bayesprune.inference.deletion.what_is_deleted import base_network, base_weights
from bayesprune.inference.predictions.metrics import expected_calibration_error

SIZE = 120
torch.manual_seed(5)
X = torch.randn(SIZE, 4, dtype=torch.float64) + 2.0
Y = (X[:, 0] > X[:, 1]).long()
HELD_OUT = (X[:40] + 0.3, Y[:40])


def model():
    torch.manual_seed(1)
    layers = (nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    return bp.BayesianNetwork(nn.Sequential(*layers), {"0.weight": bp.SpikeAndSlab()}, data_size=SIZE)


@pytest.fixture(scope="module")
def fitted():
    return bp.fit(model(), (X, Y), epochs=3, batch_size=40, precision="float64", learning_rate=0.02, device="cpu")


@pytest.fixture
def bare(fitted):
    """The fit without its inputs."""
    found = copy.deepcopy(fitted)
    found.inputs = None
    return found


def log_probabilities(fit, weights, x, y):
    """By a plain copy with these weights, its statistics estimated on all training data."""
    network = copy.deepcopy(fit.model.network)
    with torch.no_grad():
        network.get_parameter("0.weight").copy_(weights["0.weight"])
        reestimate_statistics(network, (X, Y))
        return network.eval()(x).log_softmax(1)[torch.arange(len(x)), y]


def test_arviz_has_the_likelihood_of_each_draw_with_its_own_statistics(fitted, bare, tmp_path):
    expected = fitted.map_draws(lambda draw: float(log_probabilities(fitted, draw, X, Y).sum()), 3)
    for fit in (fitted, bare):  # the latter takes them from data=
        tree = bp.to_arviz(fit, draws=3, data=(X, Y))
        np.testing.assert_allclose(tree["sample_stats"]["log_likelihood_sum"].values[0], expected, rtol=1e-10)
        np.testing.assert_allclose(tree["log_likelihood"]["y"].values[0].sum(axis=1), expected, rtol=1e-10)
    network = fitted.model.network.eval()  # control
    running = fitted.map_draws(
        lambda draw: float(
            torch.func.functional_call(network, {"0.weight": draw["0.weight"]}, (X,))
            .log_softmax(1)[torch.arange(SIZE), Y]
            .sum()
        ),
        3,
    )
    assert np.abs(np.array(running) - expected).max() > 0.1


def test_leave_one_out_is_with_the_statistics_of_each_draw(fitted, bare):
    found = [bp.loo(fit, (X, Y), draws=100, points=None) for fit in (fitted, bare)]
    np.testing.assert_array_equal(found[0].guide.pointwise, found[1].guide.pointwise)
    densities = LogDensities(fitted, 0)
    draw = densities.one.guide.sample()
    weights = densities.one.model.weights_at(draw)
    expected = log_probabilities(fitted, weights, X, Y)
    torch.testing.assert_close(densities.likelihoods(weights, X, Y), expected, rtol=1e-10, atol=1e-10)
    running = LogDensities(bare, 0).likelihoods(weights, X, Y)
    assert float((running - expected).abs().max()) > 0.01


def test_calibration_is_that_of_predictions_with_own_statistics(fitted, bare):
    def titles(fit, **more):
        return [axis.get_title(loc="left") for axis in bp.plot_calibration(fit, HELD_OUT, draws=5, **more).axes[:2]]

    own = titles(fitted)
    assert titles(bare, training=(X, Y)) == own
    assert titles(bare) != own
    centre = fitted.model.weights_at(fitted.guide.means())
    probabilities = log_probabilities(fitted, centre, HELD_OUT[0], torch.zeros(40).long()).exp()
    both = torch.stack([probabilities, 1.0 - probabilities], dim=1)
    assert f"ECE {expected_calibration_error(both, HELD_OUT[1]):.4f}" in own[1]


def test_deletions_are_from_a_network_with_its_own_statistics_and_leave_one_with_its_own(fitted, bare):
    centre = fitted.model.weights_at(fitted.guide.means())
    before = log_probabilities(fitted, centre, *HELD_OUT)
    found = bp.deletion_calibration(fitted, HELD_OUT, n=24, scores="magnitude")
    assert found.loss == pytest.approx(-float(before.mean()), rel=1e-10)
    assert bp.deletion_calibration(bare, HELD_OUT, n=24, scores="magnitude").loss != pytest.approx(found.loss, rel=1e-3)
    held_still = base_network(fitted, 0, base_weights(fitted, 0, "mean"), torch.float64).network.eval()
    differs = 0.0
    for index, change in zip(found.deletions["index"].values, found.deletions["change"].values, strict=True):
        place = tuple(int(part) for part in index.split(","))
        weights = {"0.weight": centre["0.weight"].clone()}
        weights["0.weight"][place] = 0.0
        after = log_probabilities(fitted, weights, *HELD_OUT)
        assert change == pytest.approx(float((before - after).mean()), abs=1e-10)
        still = torch.func.functional_call(held_still, weights, (HELD_OUT[0],)).log_softmax(1)
        differs = max(differs, abs(float((still[torch.arange(40), HELD_OUT[1]] - after).detach().mean())))
    assert differs > 1e-3  # control: statistics of the base network are not those after a deletion
    sets = bp.set_deletion(fitted, HELD_OUT, sizes=[1], bands=[0.0, 100.0], sets=3, scores="magnitude")
    assert sets.loss == pytest.approx(found.loss)
