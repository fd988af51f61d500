from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss

from bayesprune.inference.predictions.metrics import (
    accuracy,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
)

METRICS = [accuracy, brier_score, negative_log_likelihood, expected_calibration_error]


@pytest.fixture
def predictions():
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(500, 7, dtype=torch.float64, generator=generator)
    y = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return (1.7 * logits).softmax(1), y


def brute_force_ece(probabilities, y, bins):
    """Loops over bins and examples in Python, with the interval written out."""
    rows = [
        (max(row), row.index(max(row)) == label) for row, label in zip(probabilities.tolist(), y.tolist(), strict=True)
    ]
    total = 0.0
    for m in range(1, bins + 1):
        inside = [(c, hit) for c, hit in rows if (m - 1) / bins < c <= m / bins]
        if inside:
            gap = sum(hit for _, hit in inside) / len(inside) - sum(c for c, _ in inside) / len(inside)
            total += len(inside) / len(rows) * abs(gap)
    return total


def test_accuracy_equals_sklearn(predictions):
    probabilities, y = predictions
    assert accuracy(probabilities, y) == accuracy_score(y.numpy(), probabilities.numpy().argmax(1))
    assert accuracy(probabilities, (y + 1) % 7) != accuracy(probabilities, y)


def test_negative_log_likelihood_equals_sklearn(predictions):
    probabilities, y = predictions
    expected = log_loss(y.numpy(), probabilities.numpy(), labels=np.arange(7))
    assert negative_log_likelihood(probabilities, y) == pytest.approx(expected, abs=1e-12)
    assert abs(negative_log_likelihood(probabilities, (y + 1) % 7) - expected) > 0.1


def test_brier_score_equals_a_brute_force_loop(predictions):
    probabilities, y = predictions
    rows = zip(probabilities.tolist(), y.tolist(), strict=True)
    total = sum((p - (number == label)) ** 2 for row, label in rows for number, p in enumerate(row))
    assert brier_score(probabilities, y) == pytest.approx(total / len(y), rel=1e-12)
    assert brier_score(torch.full((3, 4), 0.25), torch.tensor([0, 1, 3])) == pytest.approx(0.75)
    assert brier_score(torch.eye(2), torch.tensor([1, 0])) == 2.0


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_equals_a_brute_force_loop(predictions, bins):
    probabilities, y = predictions
    expected = brute_force_ece(probabilities, y, bins)
    assert expected_calibration_error(probabilities, y, bins=bins) == pytest.approx(expected, abs=1e-12)
    assert expected > 0.02  # the predictions are overconfident by construction


def test_the_number_of_bins_matters(predictions):
    assert expected_calibration_error(*predictions, bins=1) != expected_calibration_error(*predictions, bins=15)


def test_calibration_error_by_hand():
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]], dtype=torch.float64)
    y = torch.tensor([0, 1, 1, 1])
    assert expected_calibration_error(probabilities, y) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4, abs=1e-12)


def test_bins_are_closed_on_the_right():
    # 0.5 belongs to (0, 0.5], 0.75 to (0.5, 1]; were 0.5 in the upper bin, the two gaps would cancel in part.
    probabilities = torch.tensor([[0.5, 0.5], [0.75, 0.25]], dtype=torch.float64)
    y = torch.tensor([0, 1])
    assert expected_calibration_error(probabilities, y, bins=2) == pytest.approx((0.5 + 0.75) / 2, abs=1e-12)


def test_certain_and_right_predictions_are_perfect():
    probabilities, y = torch.eye(4), torch.arange(4)
    assert accuracy(probabilities, y) == 1.0
    assert negative_log_likelihood(probabilities, y) == 0.0
    assert expected_calibration_error(probabilities, y) == 0.0


def test_probability_zero_costs_a_finite_number_of_nats():
    probabilities, y = torch.tensor([[1.0, 0.0]]), torch.tensor([1])
    assert negative_log_likelihood(probabilities, y) == pytest.approx(126 * math.log(2), abs=1e-9)
    assert negative_log_likelihood(probabilities.double(), y) == pytest.approx(1022 * math.log(2), abs=1e-9)


def test_the_first_class_wins_a_tie():
    probabilities = torch.full((2, 2), 0.5)
    assert accuracy(probabilities, torch.tensor([0, 1])) == 0.5


def test_float32_input_is_averaged_in_float64():
    n = 200_001
    probabilities = torch.full((n, 2), 0.5)
    probabilities[:, 0], probabilities[:, 1] = 0.3, 0.7
    y = torch.zeros(n, dtype=torch.int64)
    exact = -math.log(float(torch.tensor(0.3)))
    assert negative_log_likelihood(probabilities, y) == pytest.approx(exact, abs=1e-11)
    assert abs(float(-probabilities[:, 0].log().mean()) - exact) > 1e-9  # what float32 alone would give


@pytest.mark.parametrize("metric", METRICS)
def test_results_are_python_floats(metric, predictions):
    assert type(metric(*predictions)) is float
    assert type(metric(predictions[0].bfloat16(), predictions[1].int())) is float


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("probabilities", "y", "message"),
    [
        (torch.full((2, 3, 4), 0.25), torch.zeros(2, dtype=torch.int64), r"\(2, 3, 4\).*\(N, classes\)"),
        (torch.full((3, 2), 0.5), torch.zeros(2, dtype=torch.int64), r"labels have shape \(2,\).*\(3,\)"),
        (torch.full((3, 2), 0.5), torch.zeros(3, 1, dtype=torch.int64), r"labels have shape \(3, 1\)"),
        (torch.full((3, 2), 0.5), torch.zeros(3), "dtype torch.float32"),
        (torch.full((2, 2), 0.5), torch.tensor([0, 2]), r"from 0 to 2.*0\.\.1"),
        (torch.full((2, 2), 0.5), torch.tensor([-1, 1]), "from -1 to 1"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "no examples"),
        (torch.tensor([[2.0, -1.0]]), torch.tensor([0]), "negative"),
        (torch.tensor([[3.0, 1.0]]), torch.tensor([0]), "sum to 1"),
        (torch.tensor([[math.nan, 1.0]]), torch.tensor([0]), "NaN"),
    ],
)
def test_unfit_input_is_refused_in_one_sentence(metric, probabilities, y, message):
    with pytest.raises(ValueError, match=message):
        metric(probabilities, y)


def test_no_bins_are_refused(predictions):
    with pytest.raises(ValueError, match="bins is 0"):
        expected_calibration_error(*predictions, bins=0)
