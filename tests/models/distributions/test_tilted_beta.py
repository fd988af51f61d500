"""A tilted Beta, against SciPy: density by the hypergeometric function, draws by their distribution function."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from bayesprune.models.distributions.tilted_beta import TiltedBeta

CASES = [(2.0, 98.0, 1.0, 300.0), (2.0, 18.0, 0.3, 300.0), (2.0, 18.0, 5.0, 300.0), (1500.0, 1500.0, 0.5, 100.0)]


def at(*numbers):
    return TiltedBeta(*(torch.tensor(number, dtype=torch.float64) for number in numbers))


def density(a, b, odds, count):
    """The log density, its normaliser Euler's integral."""
    normaliser = np.log(special.hyp2f1(-count, a, a + b, 1.0 - odds))
    return lambda x: stats.beta.logpdf(x, a, b) + count * np.log1p(x * (odds - 1.0)) - normaliser


@pytest.mark.parametrize("given", CASES)
def test_the_density_is_a_beta_s_times_the_tilt(given):
    value = torch.linspace(0.01, 0.99, 33, dtype=torch.float64)
    np.testing.assert_allclose(at(*given).log_prob(value), density(*given)(value.numpy()), rtol=1e-9, atol=1e-9)
    a, b, odds, count = given
    other = at(a, b, odds * 1.001, count)  # the control: another knob
    assert np.abs(other.log_prob(value).numpy() - density(*given)(value.numpy())).max() > 1e-5


def test_without_a_move_of_the_knob_it_is_a_beta():
    value = torch.linspace(0.01, 0.99, 33, dtype=torch.float64)
    np.testing.assert_allclose(at(2.5, 7.0, 1.0, 1e5).log_prob(value), stats.beta.logpdf(value, 2.5, 7.0), rtol=1e-10)


@pytest.mark.parametrize("odds", [1e-30, 1e-8, 0.1, 9.0])
def test_the_normaliser_holds_as_far_as_a_budget_moves_the_knob(odds):
    """A layer of LeNet-300-100, against the sum over how many gates are open, a Beta-binomial."""
    a, b, count = 2.0, 18.0, 235_200
    k = np.arange(count + 1)
    mass = stats.betabinom.logpmf(k, count, a, b) + k * np.log(odds)
    expected = special.betaln(a, b) + special.logsumexp(mass)
    assert float(at(a, b, odds, float(count)).log_normaliser()) == pytest.approx(expected, rel=1e-7)


def test_draws_follow_the_density():
    given = (2.0, 18.0, 0.3, 30.0)
    torch.manual_seed(0)
    drawn = at(*given).sample((5_000,)).numpy()
    nodes = np.linspace(0.0, 1.0, 20_001)
    cumulated = integrate.cumulative_simpson(np.exp(density(*given)(nodes)), x=nodes, initial=0.0)
    assert stats.kstest(drawn, lambda x: np.interp(x, nodes, cumulated)).pvalue > 1e-3
    assert stats.kstest(drawn, stats.beta(2.0, 18.0).cdf).pvalue < 1e-10
    assert at(*given).expand((2, 3)).sample((4,)).shape == (4, 2, 3)


def test_the_joint_is_the_declared_one_times_odds_for_every_open_gate():
    """Whatever x is and however many gates are open: the knob is a price of open gates alone."""
    x = torch.linspace(0.02, 0.9, 12, dtype=torch.float64)
    count, odds = 7.0, 0.2
    beta = torch.tensor(stats.beta.logpdf(x, 2.0, 5.0))
    for opened in (0.0, 3.0, 7.0):
        declared = beta + opened * x.log() + (count - opened) * (-x).log1p()
        logits = torch.logit(x) + np.log(odds)
        gates = opened * torch.nn.functional.logsigmoid(logits) + (count - opened) * torch.nn.functional.logsigmoid(
            -logits
        )
        difference = at(2.0, 5.0, odds, count).log_prob(x) + gates - declared - opened * np.log(odds)
        assert float(difference.max() - difference.min()) < 1e-10
        plain = beta + gates - declared - opened * np.log(odds)
        assert float(plain.max() - plain.min()) > 0.1  # under a Beta x has a say of its own in it
