"""The reliability diagram: shares, confidences and intervals against loops and closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.func import functional_call

import bayesprune as bp
from bayesprune.analysis.plots.calibration import consistency_interval
from bayesprune.inference.predictions.metrics import expected_calibration_error


def binned(probabilities, y, bins):
    """Mean confidence and share that is right of each bin that is not empty, by a loop over examples."""
    groups = {}
    for row, label in zip(probabilities.double().tolist(), y.tolist(), strict=True):
        number = next(m for m in range(bins) if max(row) <= (m + 1) / bins or m == bins - 1)
        groups.setdefault(number, []).append((max(row), row.index(max(row)) == label))
    kept = [np.mean(groups[number], axis=0) for number in sorted(groups)]
    return np.array(kept), [len(groups[number]) for number in sorted(groups)]


def test_points_counts_and_errors_are_those_of_both_predictions(spike, digits, panel):
    x, y = digits["held out"]
    figure = bp.plot_calibration(spike, (x, y), draws=8, restart=1, bins=10)
    one = spike.restarts[1]
    with torch.no_grad():
        weights = one.model.weights_at(one.guide.means())
        centre = functional_call(one.model.network.eval(), weights, (x,)).softmax(dim=-1)
    averaged = spike.predict(x, 8, 1).mean
    for number, (title, probabilities) in enumerate(
        {"Averaged over 8 draws": averaged, "At the guide's centre": centre}.items()
    ):
        axis = panel(figure, title)
        expected, counts = binned(probabilities, y, 10)
        points = next(line for line in axis.lines if line.get_marker() == "o")
        np.testing.assert_allclose(np.transpose(points.get_data()), expected, atol=1e-6)
        error = expected_calibration_error(probabilities, y, 10)
        assert axis.get_title(loc="left") == f"{title}: ECE {error:.4f}"
        assert [patch.get_height() for patch in figure.axes[2 + number].patches if patch.get_height()] == counts
        starts = [segment[0, 0] for segment in axis.collections[0].get_segments()]
        np.testing.assert_allclose(starts, expected[:, 0], atol=1e-6)
    assert not torch.allclose(averaged, centre, atol=1e-3)  # control: the two diagrams are not one


def test_the_interval_is_exact_for_equal_confidences():
    for n, p in ((7, 0.3), (40, 0.9), (200, 0.55)):
        expected = stats.binom(n, p).ppf([0.05, 0.95]) / n
        np.testing.assert_allclose(consistency_interval(np.full(n, p), 0.9), expected, atol=1e-12)


def test_the_interval_is_exact_for_unlike_confidences():
    confidence = np.array([0.2, 0.35, 0.5, 0.81, 0.97, 0.4])
    mass = np.zeros(7)
    for outcome in itertools.product((0, 1), repeat=6):
        mass[sum(outcome)] += np.prod(np.where(outcome, confidence, 1 - confidence))
    below = np.cumsum(mass)
    for probability in (0.5, 0.89, 0.99):
        tail = (1 - probability) / 2
        low, high = consistency_interval(confidence, probability)
        assert below[round(low * 6)] >= tail and (low == 0 or below[round(low * 6) - 1] < tail)
        assert below[round(high * 6)] >= 1 - tail > below[round(high * 6) - 1]
    # Control: the Binomial of the mean confidence is another distribution, and wider.
    assert stats.binom(6, confidence.mean()).var() > (confidence * (1 - confidence)).sum() + 0.1


def test_calibrated_labels_stay_in_the_interval_as_often_as_they_should():
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1.0, size=400)
    low, high = consistency_interval(confidence, 0.89)
    shares = (generator.random((4000, 400)) < confidence).mean(axis=1)
    inside = ((shares >= low) & (shares <= high)).mean()
    assert 0.88 < inside < 0.93  # at least the probability, and little more: a sum is discrete


def test_a_map_has_one_diagram(halo, digits):
    figure = bp.plot_calibration(halo, digits["held out"])
    assert len(figure.axes) == 2
    assert figure.axes[0].get_title(loc="left").startswith("MAP: ECE")


def test_wrong_input_is_told(spike, digits):
    x, y = digits["held out"]
    with pytest.raises(ValueError, match="labels have shape"):
        bp.plot_calibration(spike, (x, y[:-1]), draws=1)
    with pytest.raises(ValueError, match="labels run from 10"):
        bp.plot_calibration(spike, (x, y + 10), draws=1)
    with pytest.raises(ValueError, match="bins is 0"):
        bp.plot_calibration(spike, (x, y), draws=1, bins=0)
    with pytest.raises(ValueError, match="strictly between 0 and 1, not 1.0"):
        bp.plot_calibration(spike, (x, y), probability=1.0)
    with pytest.raises(ValueError, match="there is no restart 2"):
        bp.plot_calibration(spike, (x, y), restart=2)
    with pytest.raises(ValueError, match="has no format"):
        bp.plot_calibration(None, (x, y), path="figure.bmp")


def test_a_regression_is_refused():
    bnn = bp.BayesianNetwork(
        nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)), {"0.weight": bp.Gaussian()}, bp.Normal(), data_size=20
    )
    x = torch.randn(20, 2)
    fit = bp.fit(bnn, (x, x[:, 0]), epochs=1)
    with pytest.raises(ValueError, match="needs a categorical likelihood, and this fit has normal"):
        bp.plot_calibration(fit, (x, x[:, 0]))
