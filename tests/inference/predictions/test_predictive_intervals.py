from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import pytest
import scipy.optimize
import scipy.stats
import torch
from torch import nn

from bayesprune.inference.predictions.predictive_intervals import _Mixture, coverage_at, intervals_at
from bayesprune.inference.training.fit import fit
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.likelihoods.counts import Poisson
from bayesprune.models.likelihoods.labels import Bernoulli
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.likelihoods.real_likelihoods import HeteroscedasticNormal, StudentT
from bayesprune.models.priors.gaussian import Gaussian


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def root(cdf, at):
    """The quantile of a mixture by SciPy's root finding."""
    return scipy.optimize.brentq(lambda y: cdf(y) - at, -1e4, 1e4, xtol=1e-12)


REAL = [
    (Normal(0.7), lambda out: scipy.stats.norm(out[0], 0.7)),
    (StudentT(30.0, 3.0), lambda out: scipy.stats.t(3.0, out[0], 30.0)),
    (HeteroscedasticNormal(), lambda out: scipy.stats.norm(out[0], np.exp(out[1]))),
]


@pytest.mark.parametrize(("likelihood", "by_scipy"), REAL)
def test_intervals_are_quantiles_of_the_mixture_over_draws(likelihood, by_scipy):
    torch.manual_seed(0)
    spread = torch.tensor([5.0, 1.0])[: likelihood.outputs_for(1)]
    outputs = [double(3, len(spread)) * spread for _ in range(4)]
    lower, upper = intervals_at(likelihood, outputs, 0.8)
    assert lower.shape == upper.shape == (3,)
    for i in range(3):
        parts = [by_scipy(out[i].numpy()) for out in outputs]
        cdf = lambda y, parts=parts: np.mean([part.cdf(y) for part in parts])  # noqa: E731
        assert float(lower[i]) == pytest.approx(root(cdf, 0.1), abs=1e-8)
        assert float(upper[i]) == pytest.approx(root(cdf, 0.9), abs=1e-8)
        of_means = np.mean([part.ppf(0.1) for part in parts])  # the control: no mean of the draws' own quantiles
        assert abs(float(lower[i]) - of_means) > 1e-3


def test_counts_have_the_least_interval_of_whole_numbers_with_these_tails():
    rates = [torch.tensor([0.3, 4.0, 60.0], dtype=torch.float64), torch.tensor([0.2, 9.0, 55.0], dtype=torch.float64)]
    lower, upper = intervals_at(Poisson(), [rate.log() for rate in rates], 0.9)
    for i in range(3):
        cdf = np.mean([scipy.stats.poisson(float(rate[i])).cdf(np.arange(200)) for rate in rates], axis=0)
        assert float(lower[i]) == np.argmax(cdf >= 0.05) and float(upper[i]) == np.argmax(cdf >= 0.95)
    y = torch.arange(200.0)
    for i in range(3):  # what counts as covered is what lies in the interval
        inside = (y >= lower[i]) & (y <= upper[i])
        found = coverage_at(Poisson(), [rate[i].log().expand(200) for rate in rates], y)["coverage_90"]
        assert found == pytest.approx(float(inside.double().mean()))


class Positive(Normal):
    """A likelihood of positive numbers, whose distribution refuses others."""

    def __init__(self, kind, *shape):
        super().__init__(1.0)
        self.kind, self.shape = kind, [torch.tensor(each, dtype=torch.float64) for each in shape]

    def distribution(self, outputs):
        return self.kind(*self.shape, outputs.exp(), validate_args=True)

    def predict(self, outputs):
        return self.distribution(outputs).mean


class Weibull(dist.Weibull):
    """With the shape first, as Gamma has it."""

    def __init__(self, shape, scale, validate_args=None):
        super().__init__(scale, shape, validate_args=validate_args)


class Between(dist.Uniform):
    """Numbers between one and another end, of which each draw has its own."""

    def __init__(self, width, low, validate_args=None):
        super().__init__(low, low + width, validate_args=validate_args)


SUPPORTED = {
    "exponential": (Positive(dist.Exponential), lambda out: scipy.stats.expon(scale=np.exp(-out))),
    "gamma": (Positive(dist.Gamma, 2.0), lambda out: scipy.stats.gamma(2.0, scale=np.exp(-out))),
    "weibull": (Positive(Weibull, 1.5), lambda out: scipy.stats.weibull_min(1.5, scale=np.exp(out))),
    "uniform": (Positive(Between, 2.0), lambda out: scipy.stats.uniform(np.exp(out), 2.0)),
}


@pytest.mark.parametrize("name", SUPPORTED)
@pytest.mark.parametrize("probability", [0.5, 0.9, 0.9999])
def test_intervals_stay_in_the_support_of_the_likelihood(name, probability):
    torch.manual_seed(0)
    likelihood, by_scipy = SUPPORTED[name]
    outputs = [double(3) for _ in range(4)]
    with pytest.raises(ValueError, match="support"):  # it is refused outside
        likelihood.distribution(outputs[0]).cdf(-torch.ones(3, dtype=torch.float64))
    lower, upper = intervals_at(likelihood, outputs, probability)
    for i in range(3):
        parts = [by_scipy(float(out[i])) for out in outputs]
        at = [np.mean([part.cdf(float(end[i])) for part in parts]) for end in (lower, upper)]
        assert at == pytest.approx([0.5 - 0.5 * probability, 0.5 + 0.5 * probability], abs=1e-9)
    y = torch.stack([0.5 * (lower[0] + upper[0]), 1e6 * upper[1], -upper[2]]) if probability < 0.6 else -upper
    assert coverage_at(likelihood, outputs, y)["coverage_90"] == (1 / 3 if probability < 0.6 else 0.0)


@pytest.mark.parametrize("size", [1e-150, 1e-18, 1.0, 1e30])
@pytest.mark.parametrize("place", [0.0, 1.0])
def test_intervals_are_as_exact_whatever_the_unit(size, place):
    outputs = [torch.full((2,), place * size, dtype=torch.float64)]
    for likelihood, expected in ((Normal(size), scipy.stats.norm), (StudentT(size, 1.5), scipy.stats.t(1.5))):
        lower, upper = intervals_at(likelihood, outputs, 0.9)
        wanted = [place + expected.ppf(0.05), place + expected.ppf(0.95)]
        assert [float(lower[0] / size), float(upper[1] / size)] == pytest.approx(wanted, abs=1e-10)


def test_a_quantile_takes_a_few_evaluations_of_the_distribution_function(monkeypatch):
    count = []
    cdf = _Mixture._cdf
    monkeypatch.setattr(_Mixture, "_cdf", lambda self, y: count.append(1) or cdf(self, y))
    torch.manual_seed(0)
    outputs = [100.0 + torch.randn(500) for _ in range(8)]
    found = intervals_at(StudentT(df=None), outputs, 0.9)
    assert len(count) < 32  # by halving alone it was above a hundred
    exact = intervals_at(StudentT(df=None).double(), [each.double() for each in outputs], 0.9)
    assert all(torch.allclose(a.double(), b, rtol=0, atol=1e-5) for a, b in zip(found, exact, strict=True))


class Laplace(Normal):
    """A likelihood whose distribution is asked for random numbers only."""

    name = "own"

    def distribution(self, outputs):
        class NoCdf(dist.Laplace):
            def cdf(self, value):
                raise NotImplementedError

        return NoCdf(outputs.squeeze(-1), self.scale)


def test_without_a_distribution_function_intervals_come_from_random_numbers():
    outputs = [torch.zeros(2, 1), torch.ones(2, 1)]
    before = torch.get_rng_state()
    lower, upper = intervals_at(Laplace(2.0), outputs, 0.8)
    assert torch.equal(before, torch.get_rng_state())
    cdf = lambda y: 0.5 * scipy.stats.laplace.cdf(y, 0, 2) + 0.5 * scipy.stats.laplace.cdf(y, 1, 2)  # noqa: E731
    assert lower.tolist() == pytest.approx([root(cdf, 0.1)] * 2, abs=0.35)
    assert upper.tolist() == pytest.approx([root(cdf, 0.9)] * 2, abs=0.35)
    assert abs(root(cdf, 0.1) - root(cdf, 0.05)) > 0.7  # the tolerance tells these apart
    assert coverage_at(Laplace(2.0), outputs, torch.tensor([0.5, 50.0]))["coverage_90"] == 0.5


def test_coverage_is_the_nominal_one_where_the_model_is_true():
    torch.manual_seed(0)
    outputs = 3 * double(20000)
    y = outputs + 2.0 * double(20000)
    found = coverage_at(Normal(2.0), [outputs], y)
    assert found["coverage_50"] == pytest.approx(0.5, abs=0.012)
    assert found["coverage_90"] == pytest.approx(0.9, abs=0.008)
    assert coverage_at(Normal(1.0), [outputs], y)["coverage_90"] < 0.65  # the control: half of the noise


def regression(likelihood, **how):
    torch.manual_seed(0)
    x = torch.randn(200, 2)
    y = x[:, 0] + 0.5 * torch.randn(200) if likelihood.is_ordered else (x[:, 0] > 0).long()
    bnn = BayesianNetwork(nn.Linear(2, 1), {"weight": Gaussian()}, likelihood, 200)
    return fit(bnn, (x, y), steps=300, learning_rate=0.01, **how), x, y


def test_a_fit_gives_intervals_with_its_noise_and_scores_them():
    found, x, y = regression(Normal(0.5))
    made = found.predictive_intervals(x)
    assert made.probability == 0.9 and made.lower.shape == y.shape
    inside = float(((y >= made.lower) & (y <= made.upper)).double().mean())
    assert found.score(x, y)["coverage_90"] == pytest.approx(inside) and 0.85 < inside < 0.95
    assert float((made.upper - made.lower).min()) > 2 * 1.64 * 0.5  # never below the noise alone
    narrow = found.predictive_intervals(x, 0.5)
    assert bool((narrow.lower > made.lower).all() and (narrow.upper < made.upper).all())
    again = found.predictive_intervals(x)
    assert torch.equal(again.lower, made.lower)


def test_labels_have_no_intervals_and_probabilities_are_checked():
    found, x, y = regression(Bernoulli())
    with pytest.raises(ValueError, match="bernoulli is of labels, which have no intervals"):
        found.predictive_intervals(x)
    assert set(found.score(x, y)) == {"accuracy", "nll"}
    found, x, _ = regression(Normal(0.5))
    for wrong in (0.0, 1.0, 90):
        with pytest.raises(ValueError, match=r"in \(0, 1\), not"):
            found.predictive_intervals(x, wrong)
    with pytest.raises(ValueError, match="draws must be at least 1"):
        found.predictive_intervals(x, draws=0)
    with pytest.raises(ValueError, match=r"does not take inputs of shape \(200, 1\)"):
        found.predictive_intervals(x[:, :1])
