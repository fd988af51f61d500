"""The best constant prediction is that of the closed form, for every likelihood, and none where there is none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch

from bayesprune.models.likelihoods import constant_prediction
from bayesprune.models.likelihoods.constant_prediction import constant_log_likelihood
from bayesprune.models.likelihoods.counts import Poisson
from bayesprune.models.likelihoods.labels import Bernoulli, Categorical
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.likelihoods.real_likelihoods import HeteroscedasticNormal

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


def noisy(mean, sd):
    return torch.tensor(mean + sd * GENERATOR.normal(size=400))


for rate in (1.0, 300.0, 3000.0):
    drawn = GENERATOR.poisson(rate, size=500)
    best = float(scipy.stats.poisson(drawn.mean()).logpmf(drawn).mean())
    CASES |= {
        f"poisson near {rate:g}": (Poisson(), 1, torch.tensor(drawn), best),
        f"poisson near {rate:g} in floats": (Poisson(), 1, torch.tensor(drawn, dtype=torch.float32), best),
    }
for mean, sd in ((0.0, 0.1), (150.0, 77.0), (1e5, 3e4), (1e6, 1.0)):
    y = noisy(mean, sd)
    CASES[f"noise of its own at {mean:g} +- {sd:g}"] = (HeteroscedasticNormal(), 2, y, best_normal(y))
pair = torch.stack([noisy(150.0, 77.0), noisy(-2000.0, 3.0)], dim=1)
CASES["two numbers with noise of their own"] = (
    HeteroscedasticNormal(), 4, pair, best_normal(pair[:, 0]) + best_normal(pair[:, 1])
)  # fmt: skip


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


def test_targets_of_many_numbers_are_as_many_examples_as_hold_a_bounded_number_of_them(monkeypatch):
    y = torch.tensor(GENERATOR.normal(size=(600, 50)))
    whole = constant_log_likelihood(Normal(), torch.zeros(1, 50), y)
    assert whole == pytest.approx(
        float(scipy.stats.norm(y.mean(0), (y - y.mean(0)).std(correction=0)).logpdf(y).sum() / 600), abs=1e-3
    )
    seen = []

    class Watched(Normal):
        def log_prob(self, outputs, y):
            seen.append(y.numel())
            return super().log_prob(outputs, y)

    monkeypatch.setattr(constant_prediction, "NUMBERS", 5000)
    part = constant_log_likelihood(Watched(), torch.zeros(1, 50), y)
    assert max(seen) == 5000 and part == pytest.approx(whole, rel=0.03) and part != whole


def test_equal_rows_are_counted_as_often_as_they_come():
    y = torch.tensor([[0.0, 1.0]] * 30 + [[2.0, 5.0]] * 10)
    found = constant_log_likelihood(HeteroscedasticNormal(), torch.zeros(1, 4), y)
    assert found == pytest.approx(best_normal(y[:, 0]) + best_normal(y[:, 1]), abs=2e-4)
    assert constant_log_likelihood(HeteroscedasticNormal(), torch.zeros(1, 4), y[:30]) is None


def test_no_target_loses_a_fit_that_is_done():
    assert constant_log_likelihood(Normal(), torch.zeros(1, 1), torch.zeros(0)) is None
    assert constant_log_likelihood(Normal(), torch.zeros(1, 1), torch.tensor(1.0)) is None


def test_there_is_no_best_constant_of_one_single_value_nor_of_a_likelihood_that_fails():
    class Fails(Normal):
        def log_prob(self, outputs, y):
            raise KeyError("no such thing")

    assert constant_log_likelihood(Normal(), torch.zeros(1, 1), torch.ones(20)) is None
    assert constant_log_likelihood(Fails(), torch.zeros(1, 1), NUMBERS) is None
    assert constant_log_likelihood(Normal(), torch.zeros(1, 1), NUMBERS) is not None
