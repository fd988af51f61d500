"""The truncated log-Normal against scipy's integrals: draws, their derivatives, density, entropy and moments."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from bayesprune.models.distributions.log_uniform import TruncatedLogUniform
from bayesprune.models.distributions.truncated_log_normal import FAR, TruncatedLogNormal
from tests.oracles.known_terms import number
from tests.oracles.noise_reference import TruncatedNormal

LOW, HIGH = -20.0, 0.0
CASES = {  # location, log scale
    "the start": (0.0, -5.0),
    "inside": (-6.0, 0.0),
    "wide": (-3.0, 3.0),
    "nearly uniform": (-3.0, 8.0),
    "narrow": (-1.0, -10.0),
    "beyond the upper end": (4.0, 0.0),
    "far beyond the upper end": (20.0, 0.0),
    "beyond the lower end": (-27.0, 0.5),
}
NOISE = (-3.0, -0.4, 0.0, 1.1, 4.0)


def one(location, log_scale, dtype=torch.float64):
    leaves = [torch.tensor(value, dtype=dtype, requires_grad=True) for value in (location, log_scale)]
    return leaves, TruncatedLogNormal(*leaves, LOW, HIGH)


def known(name):
    location, log_scale = CASES[name]
    return TruncatedNormal(location, math.exp(log_scale), LOW, HIGH)


@pytest.mark.parametrize("name", CASES)
def test_a_draw_is_where_the_distribution_function_is_that_of_the_noise(name):
    _, q = one(*CASES[name])
    reference = known(name)
    for noise in NOISE:
        x = float(q.logarithm_at(number(noise)).detach())
        assert reference.below(x) == pytest.approx(stats.norm.cdf(noise), rel=1e-8, abs=1e-10)
    assert reference.below(x - 1e-4 * (x - LOW)) != pytest.approx(stats.norm.cdf(noise), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_the_derivatives_of_a_draw_are_its_differences(name):
    location, log_scale = CASES[name]
    leaves, q = one(location, log_scale)
    for noise in NOISE:
        found = torch.autograd.grad(q.logarithm_at(number(noise)), leaves)

        def at(m, r, noise=noise):
            return float(one(m, r)[1].logarithm_at(number(noise)).detach())

        step = 1e-5
        steps = (step * math.exp(min(log_scale, 0.0)), step)
        expected = [
            (at(location + steps[0], log_scale) - at(location - steps[0], log_scale)) / (2 * steps[0]),
            (at(location, log_scale + steps[1]) - at(location, log_scale - steps[1])) / (2 * steps[1]),
        ]
        size = max(1e-2, abs(expected[1]))
        assert float(found[0]) == pytest.approx(expected[0], rel=1e-4, abs=1e-5)
        assert float(found[1]) == pytest.approx(expected[1], rel=1e-4, abs=1e-4 * size)
        assert float(found[1]) + 0.01 * size != pytest.approx(expected[1], rel=1e-4, abs=1e-4 * size)


@pytest.mark.parametrize("name", CASES)
def test_density_entropy_and_moments_are_the_integrals(name):
    _, q = one(*CASES[name])
    reference = known(name)
    for share in (0.001, 0.4, 0.99):
        x = LOW + share * (HIGH - LOW)
        found = float(q.log_prob(number(x).exp()).detach())
        assert found == pytest.approx(reference.log_density(x) - x, rel=1e-8, abs=1e-8)
    assert math.log(HIGH - LOW) - float(q.entropy_of_logarithm().detach()) == pytest.approx(
        reference.kl_from_uniform(), rel=1e-7, abs=1e-7
    )
    mean = reference.expected(math.exp)
    variance = reference.expected(lambda x: (math.exp(x) - mean) ** 2)
    assert float(q.mean) == pytest.approx(mean, rel=1e-7)
    assert float(q.log_signal_to_noise) == pytest.approx(math.log(mean**2 / variance), abs=1e-5)


def test_the_integrals_tell_another_scale_apart():
    """The control of the above: a scale that is off by a millionth."""
    _, q = one(*CASES["inside"])
    other = TruncatedNormal(-6.0, 1.0 + 1e-6, LOW, HIGH)
    assert math.log(HIGH - LOW) - float(q.entropy_of_logarithm().detach()) != pytest.approx(
        other.kl_from_uniform(), rel=1e-7, abs=1e-7
    )
    assert float(q.mean) != pytest.approx(other.expected(math.exp), rel=1e-7)


def test_the_density_is_zero_outside_and_draws_stay_inside():
    _, q = one(-1.0, 0.5)
    assert float(q.log_prob(number(1.1)).detach()) == -math.inf
    torch.manual_seed(0)
    drawn = q.rsample((5000,)).detach().log()
    assert bool(((drawn >= LOW) & (drawn <= HIGH)).all())
    reference = TruncatedNormal(-1.0, math.exp(0.5), LOW, HIGH)
    expected = stats.truncnorm((LOW + 1) / math.exp(0.5), 1 / math.exp(0.5), -1.0, math.exp(0.5))
    assert reference.expected(lambda x: x) == pytest.approx(expected.mean(), rel=1e-8)
    assert stats.kstest(drawn.numpy(), expected.cdf).pvalue > 1e-3
    assert stats.kstest(drawn.numpy() - 0.2, expected.cdf).pvalue < 1e-6


def test_the_ends_belong_to_the_interval_in_single_precision():
    for end in torch.linspace(-59.0, 59.0, 400).tolist():
        value, beside = (torch.tensor(end + move).exp() for move in (0.0, 1e-3))
        for low, high in ((end, 60.0), (-60.0, end)):
            uniform = TruncatedLogUniform(low, high)
            normal = TruncatedLogNormal(torch.tensor(end), torch.tensor(0.0), low, high)
            for one in (uniform, normal):
                assert bool(torch.isfinite(one.log_prob(value)))
                assert bool(torch.isfinite(one.log_prob(beside))) == (high == 60.0)  # the control


@pytest.mark.parametrize("log_scale", [-20.0, -10.0, 0.0, 10.0, 20.0])
@pytest.mark.parametrize("location", [-200.0, -20.0, -1.0, 0.0, 5.0, 200.0])
def test_single_precision_has_no_nan_however_far(location, log_scale):
    leaves, q = one(location, log_scale, torch.float32)
    noise = torch.linspace(-6.0, 6.0, 25)
    value = q.logarithm_at(noise)
    total = value.sum() + q.entropy_of_logarithm() + q.log_prob(value.detach().exp()).sum()
    gradients = torch.autograd.grad(total, leaves)
    for part in (value, total, q.mean, q.log_signal_to_noise, *gradients):
        assert bool(torch.isfinite(part).all())
    assert bool((value.diff() >= 0).all())  # monotone in the noise


def test_a_centre_too_far_out_is_held_where_the_scale_still_moves_it():
    leaves, q = one(50.0, 0.0)
    _, at = one(FAR, 0.0)
    noise = number(0.3)
    assert float(q.logarithm_at(noise).detach()) == pytest.approx(float(at.logarithm_at(noise).detach()), rel=1e-12)
    by_location, by_log_scale = torch.autograd.grad(q.logarithm_at(noise), leaves, allow_unused=True)
    assert float(by_location) == 0.0 and abs(float(by_log_scale)) > 1e-3
