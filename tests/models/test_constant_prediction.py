"""The best constant prediction is that of the closed form, for every likelihood, and none where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from bayesprune.models.constant_prediction import constant_log_likelihood
from bayesprune.models.likelihoods import Bernoulli, Categorical, Normal, Poisson

GENERATOR = np.random.default_rng(0)
LABELS = torch.tensor(GENERATOR.choice(4, size=300, p=[0.5, 0.3, 0.15, 0.05]))
NUMBERS = torch.tensor(150.0 + 77.0 * GENERATOR.normal(size=350), dtype=torch.float32)
COUNTS = torch.tensor(GENERATOR.poisson(20.0, size=200))
RARE = torch.tensor(GENERATOR.random(500) < 0.03)


def entropy(labels):
    shares = np.bincount(labels.long().numpy()) / len(labels)
    return -float((shares[shares > 0] * np.log(shares[shares > 0])).sum())


def best_normal(y):
    return float(scipy.stats.norm(y.double().mean(), y.double().std(correction=0)).logpdf(y.double()).mean())


CASES = {
    "categorical": (Categorical(), 4, LABELS, -entropy(LABELS)),
    "a class that never comes": (Categorical(), 6, LABELS, -entropy(LABELS)),
    "bernoulli": (Bernoulli(), 1, RARE.float(), -entropy(RARE)),
    "poisson": (Poisson(), 1, COUNTS, float(scipy.stats.poisson(COUNTS.double().mean()).logpmf(COUNTS).mean())),
    "normal": (Normal(), 1, NUMBERS, best_normal(NUMBERS)),
    "normal of a fixed scale": (
        Normal(2.0), 1, NUMBERS, float(scipy.stats.norm(NUMBERS.double().mean(), 2.0).logpdf(NUMBERS.double()).mean())
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_best_constant_is_that_of_the_closed_form(case):
    likelihood, outputs, y, expected = CASES[case]
    found = constant_log_likelihood(likelihood, torch.randn(1, outputs), y)
    assert found == pytest.approx(expected, abs=2e-4)
    uninformed = float(likelihood.log_prob(torch.zeros(len(y), outputs), y).mean().detach())  # not the best constant
    assert uninformed < expected - 2e-3


def test_a_likelihood_of_one_s_own_needs_to_say_nothing_and_is_left_as_it_was():
    class MeanAndLogScale(Normal):
        def log_prob(self, outputs, y):
            mean, log_scale = outputs[:, 0], outputs[:, 1]
            return -0.5 * ((y - mean) / log_scale.exp()) ** 2 - log_scale - 0.5 * math.log(2 * math.pi)

    own = MeanAndLogScale()
    assert constant_log_likelihood(own, torch.zeros(1, 2), NUMBERS) == pytest.approx(best_normal(NUMBERS), abs=1e-3)
    assert own.log_scale.item() == 0.0 and own.log_scale.dtype == torch.float32
    learned = Normal()
    learned.log_scale.data.fill_(-6.0)  # wherever training has left it
    assert constant_log_likelihood(learned, torch.zeros(1, 1), NUMBERS) == pytest.approx(best_normal(NUMBERS), abs=1e-3)
    assert learned.log_scale.item() == -6.0


def test_there_is_no_best_constant_of_one_single_value_nor_of_a_likelihood_that_fails():
    class Fails(Normal):
        def log_prob(self, outputs, y):
            raise KeyError("no such thing")

    assert constant_log_likelihood(Normal(), torch.zeros(1, 1), torch.ones(20)) is None
    assert constant_log_likelihood(Fails(), torch.zeros(1, 1), NUMBERS) is None
    assert constant_log_likelihood(Normal(), torch.zeros(1, 1), NUMBERS) is not None
