"""The flattening hyper-prior: its formulas in 600 digits, and the property that makes it what it is."""

from __future__ import annotations

import mpmath
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, optimize
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.families import DeltaFamily
from bayesprune.models.distributions.flattening import FlatteningPrior, best_prior_probability

SLOPES = [0.0, 1e-6, -1e-6, 1e-3, -0.5, 0.7, -2.0, 7.0, 14.0, -14.0, 29.9, 30.1, -31.0, 300.0, 1e3, -1e3]
POINTS = [0.0, 1e-12, 0.01, 0.3, 0.5, 0.9, 1.0 - 1e-9, 1.0]


def prior(log_gamma):
    return FlatteningPrior(torch.tensor(log_gamma, dtype=torch.float64))


def number(value):
    return torch.tensor(value, dtype=torch.float64)


@pytest.fixture(autouse=True)
def many_digits():
    with mpmath.workdps(600):
        yield


def exact(log_gamma, x):
    """Log density, distribution function and quantile at x, by their definitions."""
    slope, x = mpmath.mpf(log_gamma), mpmath.mpf(x)
    if slope == 0:
        return mpmath.mpf(0), x, x
    gamma = mpmath.exp(slope)
    log_density = mpmath.log((gamma - 1) / slope) - mpmath.log(1 + (gamma - 1) * x)
    return log_density, mpmath.log(1 + (gamma - 1) * x) / slope, (gamma**x - 1) / (gamma - 1)


@pytest.mark.parametrize("log_gamma", SLOPES)
def test_density_distribution_function_and_quantile_are_the_exact_ones(log_gamma):
    for x in POINTS:
        at, fn = number(x), prior(log_gamma)
        found = (fn.log_prob(at), fn.cdf(at), fn.icdf(at))
        for value, expected in zip(found, exact(log_gamma, x), strict=True):
            assert abs(float(value - float(expected))) <= 1e-13 * max(1.0, abs(float(expected)))
    if log_gamma:  # control: a slope that is off by a ten-thousandth is seen
        assert abs(float(prior(log_gamma).cdf(number(0.3))) - float(exact(log_gamma * 1.0001, 0.3)[1])) > 1e-12


@pytest.mark.parametrize("log_gamma", [-50.0, -30.1, -7.0, -1.0, -1e-3, -1e-9, 1e-9, 1e-3, 1.0, 7.0, 30.1, 50.0])
def test_the_distribution_function_and_the_quantile_keep_their_digits_at_both_ends(log_gamma):
    """In relative terms: of 4.3e-18 nothing was left, for a log_gamma below 0."""
    ends = [1e-300, 4.3e-18, 1e-12, 1e-3, 0.3, 0.7, 1 - 1e-3, 1 - 1e-12, 1 - 2.0**-52, 1 - 2.0**-53]
    for x in ends:
        for found, expected in zip(
            (prior(log_gamma).cdf(number(x)), prior(log_gamma).icdf(number(x))), exact(log_gamma, x)[1:], strict=True
        ):
            assert 0.0 < float(found) <= 1.0
            if expected < 1e-307:  # a float of that size has no more than a few digits
                continue
            assert abs(mpmath.mpf(float(found)) / expected - 1) < 3e-14
    wrong = exact(log_gamma * (1 + 1e-9) if abs(log_gamma) > 1e-2 else log_gamma + 1e-9, 1e-12)[1]
    assert abs(mpmath.mpf(float(prior(log_gamma).cdf(number(1e-12)))) / wrong - 1) > 1e-13  # the control
    if log_gamma < 0:  # what stood here before: the mirror image, which cancels beside 0
        slope = -log_gamma
        mirrored = (torch.log1p(torch.expm1(number(slope)) * (1 - number(4.3e-18))) - slope) / log_gamma
        assert abs(float(mirrored) / float(exact(log_gamma, 4.3e-18)[1]) - 1) > 0.1


@pytest.mark.parametrize("log_gamma", [*SLOPES, 0.99, 1.01, -1.01, 3.0, 1e-12])
def test_mean_variance_and_entropy_are_those_of_the_density(log_gamma):
    """By quadrature over the quantile, x = F^-1(u): E f(x) is the integral of f over u, which has no peak."""
    with mpmath.workdps(60):
        slope = mpmath.mpf(log_gamma)

        def quantile(u):
            return u if slope == 0 else mpmath.expm1(slope * u) / mpmath.expm1(slope)

        knots = [0, *(sorted({min(1, k / max(1, abs(slope))) for k in (1, 5, 30, 90)})), 1]
        knots = [1 - k for k in reversed(knots)] if slope > 0 else knots
        knots = sorted(set(knots))
        mean = mpmath.quad(quantile, knots)
        variance = mpmath.quad(lambda u: (quantile(u) - mean) ** 2, knots)
        # -log p(x) = log(gamma^u) - log((gamma - 1) / log gamma) at x = F^-1(u)
        constant = mpmath.mpf(0) if slope == 0 else mpmath.log(mpmath.expm1(slope) / slope)
        entropy = mpmath.quad(lambda u: slope * u - constant, [0, 1])
    fn = prior(log_gamma)
    assert float(fn.mean) == pytest.approx(float(mean), rel=1e-13)
    assert float(fn.variance) == pytest.approx(float(variance), rel=1e-12)
    assert float(fn.entropy()) == pytest.approx(float(entropy), rel=1e-12, abs=1e-300)
    single = FlatteningPrior(torch.tensor(log_gamma))
    assert float(single.variance) == pytest.approx(float(variance), rel=3e-6)
    assert float(single.mean) == pytest.approx(float(mean), rel=1e-6)
    if abs(log_gamma) > 0.1:  # the control
        assert float(prior(1.001 * log_gamma).variance) != pytest.approx(float(variance), rel=1e-7)
        assert float(prior(1.001 * log_gamma).entropy()) != pytest.approx(float(entropy), rel=1e-7)


def test_variance_and_entropy_follow_draws_and_have_gradients_at_every_slope():
    torch.manual_seed(0)
    fn = prior(7.0)
    draws = fn.sample((200_000,))
    assert float(draws.var()) == pytest.approx(float(fn.variance), rel=0.02)
    assert float(-fn.log_prob(draws).mean()) == pytest.approx(float(fn.entropy()), abs=0.02)
    slopes = torch.tensor([-1e3, -1.0, -1e-9, 0.0, 1e-9, 0.999, 1.001, 40.0, 1e3], requires_grad=True)
    for value in (FlatteningPrior(slopes).mean, FlatteningPrior(slopes).variance, FlatteningPrior(slopes).entropy()):
        (gradient,) = torch.autograd.grad(value.sum(), slopes)
        assert bool(torch.isfinite(value).all()) and bool(torch.isfinite(gradient).all())
    at = torch.tensor([0.3, -0.999, 1.001, 8.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: FlatteningPrior(s).variance + FlatteningPrior(s).entropy(), at)


@pytest.mark.parametrize("log_gamma", SLOPES)
def test_quantile_and_distribution_function_undo_each_other_and_the_mean_is_exact(log_gamma):
    u = torch.linspace(0.001, 0.999, 201, dtype=torch.float64)
    there = prior(log_gamma).icdf(u)
    seen = (there > 1e-300) & (there < 1 - 1e-6)  # what underflows, or is lost beside 1, cannot come back
    torch.testing.assert_close(prior(log_gamma).cdf(there)[seen], u[seen], rtol=0, atol=1e-9)
    slope = mpmath.mpf(log_gamma)
    mean = mpmath.mpf(0.5) if slope == 0 else 1 / slope - 1 / (mpmath.exp(slope) - 1)
    assert float(prior(log_gamma).mean) == pytest.approx(float(mean), rel=1e-12)


@pytest.mark.parametrize("log_gamma", [-2.0, 0.7, 7.0, 14.0])
def test_it_integrates_to_one(log_gamma):
    def density(x):
        return float(prior(log_gamma).log_prob(number(x)).exp())

    # In log odds, so that the mass near zero is seen.
    def in_log_odds(t):
        x = 1.0 / (1.0 + np.exp(-t))
        return density(x) * x * (1.0 - x)

    assert integrate.quad(in_log_odds, -40, 40, limit=400)[0] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("log_gamma", [-2.0, 0.7, 7.0, 14.0])
def test_the_best_prior_probability_makes_the_cost_linear_in_theta(log_gamma):
    theta = torch.linspace(0.001, 0.999, 101, dtype=torch.float64)

    def cost(pi, at, slope=log_gamma):
        kl = torch.distributions.kl_divergence(dist.Bernoulli(at), dist.Bernoulli(pi))
        return kl - prior(slope).log_prob(pi)

    best = best_prior_probability(theta, log_gamma)
    line = cost(best, theta)
    constant = -prior(log_gamma).log_normaliser
    torch.testing.assert_close(line, theta * log_gamma + constant, rtol=0, atol=1e-9)
    for at in (0.05, 0.5, 0.9):  # it is the minimum
        found = optimize.minimize_scalar(
            lambda t, at=at: float(cost(torch.sigmoid(number(t)), number(at))), bounds=(-40, 40), method="bounded"
        )
        assert found.fun == pytest.approx(at * log_gamma + float(constant), abs=1e-6)
    # Controls: a fixed pi and a Beta hyper-prior leave curvature, and with it a theta between 0 and 1.
    fixed = torch.distributions.kl_divergence(dist.Bernoulli(theta), dist.Bernoulli(torch.full_like(theta, 0.2)))
    assert float((fixed[2:] - 2 * fixed[1:-1] + fixed[:-2]).min()) > 1e-5
    assert float((line[2:] - 2 * line[1:-1] + line[:-2]).abs().max()) < 1e-12


def test_draws_follow_the_distribution_function():
    torch.manual_seed(0)
    draws = prior(7.0).sample((20_000,))
    u = prior(7.0).cdf(draws).sort().values
    assert float((u - torch.linspace(0, 1, 20_000, dtype=torch.float64)).abs().max()) < 1.63 / 20_000**0.5  # 1 %
    other = prior(6.0).cdf(draws).sort().values
    assert float((other - torch.linspace(0, 1, 20_000, dtype=torch.float64)).abs().max()) > 0.02  # control
    assert prior(0.0).sample((5, 2)).shape == (5, 2)


def test_gradients_are_finite_everywhere_and_right():
    for log_gamma in SLOPES:
        slope = torch.tensor(log_gamma, dtype=torch.float64, requires_grad=True)
        value = torch.tensor([1e-6, 0.3, 0.99], dtype=torch.float64, requires_grad=True)
        FlatteningPrior(slope).log_prob(value).sum().backward()
        assert bool(torch.isfinite(value.grad).all()) and bool(torch.isfinite(slope.grad))
    slope = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    value = torch.tensor([0.2, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, v: FlatteningPrior(s).log_prob(v), (slope, value))


def test_in_float32_it_holds_at_both_ends():
    for log_gamma in (1e-6, 14.0, 1e3, -1e3):
        value = torch.tensor([0.0, 1e-30, 0.5, 1.0])
        assert bool(torch.isfinite(FlatteningPrior(log_gamma).log_prob(value)).all())


def test_a_slope_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"FlatteningPrior\(log_gamma=...\) must be finite, not inf"):
        FlatteningPrior(float("inf"))


def test_in_a_hierarchy_with_pi_as_a_point_the_gates_cost_is_linear_at_the_best_pi():
    log_gamma, theta = 7.0, torch.tensor([[0.02, 0.5, 0.97]], dtype=torch.float64)
    gated = bp.Hierarchy(
        pi=bp.Latent(lambda: FlatteningPrior(log_gamma), guide="delta"),
        z=bp.Latent(lambda pi: dist.Bernoulli(pi)),
        slab=bp.Latent(dist.Normal(0.0, 1.0)),
        weight=lambda z, slab: z * slab,
        included=bp.exact_zero(gate="z", slab="slab"),
        default_guide="paired",
    )
    network = nn.Linear(3, 1, dtype=torch.float64)
    model = bp.BayesianNetwork(network, {"weight": gated}, bp.Normal(1.0), data_size=4).double()
    objective = bp.objective(model)
    families = {name: family for family in objective.guide.families for name, _ in family.named_parameters()}
    with torch.no_grad():
        families["logit"].logit.copy_(torch.logit(theta).flatten())

    def cost(pi):
        with torch.no_grad():
            (point,) = (family for family in objective.guide.families if isinstance(family, DeltaFamily))
            point.location.copy_(torch.logit(pi).flatten())
            kl_of = objective.terms(torch.zeros(4, 3).double(), torch.zeros(4).double()).kl_of
        return float(kl_of["weight.z"] + kl_of["weight.pi"])

    expected = float((theta * log_gamma - prior(log_gamma).log_normaliser).sum())
    assert cost(best_prior_probability(theta, log_gamma)) == pytest.approx(expected, abs=1e-6)
    assert cost(torch.full_like(theta, 0.3)) > expected + 0.1  # control
