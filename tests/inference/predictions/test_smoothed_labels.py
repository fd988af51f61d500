"""Scores of a fit to smoothed labels are those of the plain likelihood; what it was trained by is said and kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.objective.objective import Objective

torch.manual_seed(0)
X = torch.randn(40, 4)
Y = X[:, :3].argmax(1)


@pytest.fixture(scope="module")
def fit():
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    model = bp.BayesianNetwork(network, {"*.weight": bp.Gaussian()}, bp.Categorical(0.2), data_size=40)
    return bp.fit(model, (X, Y), "map", steps=200, learning_rate=1e-2, device="cpu", validation=(X, Y))


def nll_of(probabilities, smoothing=0.0):
    logs = probabilities.log()
    return -float((1.0 - smoothing) * logs.gather(1, Y[:, None]).mean() + smoothing * logs.mean())


def test_scores_are_those_of_the_plain_likelihood(fit):
    predicted = fit.predict(X).mean
    plain, trained_by = nll_of(predicted), nll_of(predicted, 0.2)
    assert abs(plain - trained_by) > 0.02  # the control: the two differ
    found = {
        "score": fit.score(X, Y)["nll"],
        "negative_log_likelihood": fit.negative_log_likelihood(X, Y),
        "validation": float(fit.trace["validation_nll"].values[0, -1]),
        "combined": fit.combined(weights="equal").score(X, Y)["nll"],
    }
    assert found == pytest.approx(dict.fromkeys(found, plain), rel=1e-4)


def test_the_objective_and_its_record_are_those_that_it_was_trained_by(fit):
    terms = Objective(fit.model, fit.guide).terms(X, Y)
    assert float(terms.log_likelihood) / 40 == pytest.approx(-nll_of(fit.predict(X).mean, 0.2), rel=1e-4)
    assert fit.summary()["likelihood"] == {"name": "categorical", "label_smoothing": 0.2}


def test_a_pruned_network_and_its_fine_tuning_are_scored_alike(fit):
    result = bp.prune(fit, sparsity=0.3)
    tuned = bp.finetune(result, (X, Y), epochs=1, learning_rate=1e-9, validation=(X, Y), device="cpu")
    found = torch.softmax(result.network(X), 1).detach()
    assert f"validation nll {nll_of(found):.4g} to" in tuned.report.finetuned
    assert tuned.likelihood.label_smoothing == 0.2
