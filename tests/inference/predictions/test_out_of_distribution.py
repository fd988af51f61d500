"""Uncertainty of classes, and how well it tells inputs of another kind: against definitions, pair by pair."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from bayesprune.inference.predictions.out_of_distribution import out_of_distribution_auroc, uncertainty
from bayesprune.inference.predictions.predictive import Prediction


def predicted(n, sharpness, seed, draws=5, classes=4):
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(draws, n, classes, generator=generator, dtype=torch.float64)
    probabilities = logits.softmax(dim=-1)
    return Prediction(probabilities.mean(dim=0), probabilities.std(dim=0), probabilities)


INSIDE, OUTSIDE = predicted(40, 4.0, 1), predicted(30, 2.0, 2)


def by_definition(prediction, by):
    found = []
    for number in range(len(prediction.mean)):
        mean = prediction.mean[number].tolist()
        if by == "confidence":
            found.append(1.0 - max(mean))
            continue
        total = -sum(p * math.log(p) for p in mean)
        each = [-sum(p * math.log(p) for p in draw[number].tolist()) for draw in prediction.draws]
        found.append(total if by == "entropy" else total - sum(each) / len(each))
    return found


@pytest.mark.parametrize("by", ["confidence", "entropy", "disagreement"])
def test_uncertainty_and_area_are_what_they_are_defined_as(by):
    inside, outside = by_definition(INSIDE, by), by_definition(OUTSIDE, by)
    assert uncertainty(INSIDE, by).tolist() == pytest.approx(inside, abs=1e-12)
    pairs = [1.0 if b > a else 0.5 if a == b else 0.0 for a, b in itertools.product(inside, outside)]
    expected = sum(pairs) / len(pairs)
    assert out_of_distribution_auroc(INSIDE, OUTSIDE, by) == pytest.approx(expected, abs=1e-12)
    assert out_of_distribution_auroc(OUTSIDE, INSIDE, by) == pytest.approx(1.0 - expected, abs=1e-12)
    assert out_of_distribution_auroc(INSIDE, INSIDE, by) == pytest.approx(0.5)
    assert expected > 0.6 or by == "disagreement"  # sharper inside: it is seen


def test_what_is_certain_has_no_uncertainty_and_one_network_no_disagreement():
    sure = torch.eye(3)
    one = Prediction(sure, torch.zeros(3, 3), sure[None])
    for by in ("confidence", "entropy", "disagreement"):
        assert uncertainty(one, by).tolist() == [0.0, 0.0, 0.0]
    alone = Prediction(INSIDE.mean, torch.zeros_like(INSIDE.mean), INSIDE.mean[None])
    assert uncertainty(alone, "disagreement").abs().max() < 1e-12
    assert float(uncertainty(INSIDE, "disagreement").min()) > 1e-3  # control


def test_wrong_predictions_are_told():
    numbers = Prediction(torch.randn(5), torch.zeros(5), torch.randn(2, 5))
    with pytest.raises(ValueError, match=r"is of probabilities \(n, classes\), not of predictions of shape \(5,\)"):
        uncertainty(numbers)
    with pytest.raises(ValueError, match="takes one of 'confidence', 'entropy', 'disagreement', not 'variance'"):
        uncertainty(INSIDE, "variance")
    with pytest.raises(ValueError, match="nothing to tell apart"):
        out_of_distribution_auroc(INSIDE, Prediction(*(torch.zeros(0, 4) for _ in range(2)), torch.zeros(5, 0, 4)))
