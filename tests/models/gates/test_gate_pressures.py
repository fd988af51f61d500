"""What a gate costs under each prior: the smallest value over pi by brute force, straight or curved as it says."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.functional import hessian

from bayesprune.models.gates.gate_pressures import BetaHyperPrior, FixedProbability, Flattening
from tests.oracles.gated_networks import numerical_minimum

THETA = [0.02, 0.3, 0.5, 0.9, 0.999]
WITH_HYPER_PRIOR = [
    *(Flattening(slope) for slope in (-2.0, 0.7, 7.0, 14.0)),
    *(BetaHyperPrior(a, b) for a, b in ((2.0, 2.0), (1.0, 5.0), (3.5, 1.2))),
]
EVERY = [*WITH_HYPER_PRIOR, FixedProbability(0.2)]


def number(value):
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("pressure", WITH_HYPER_PRIOR, ids=repr)
def test_the_cost_is_the_smallest_over_pi_and_best_is_where(pressure):
    for theta in THETA:
        smallest, where = numerical_minimum(pressure, theta)
        assert float(pressure.cost(number(theta))) == pytest.approx(smallest, abs=1e-9)
        assert float(pressure.best(number(theta))) == pytest.approx(where, rel=1e-3)
        other = numerical_minimum(pressure, theta + 5e-4)[0]
        assert float(pressure.cost(number(theta))) != pytest.approx(other, abs=1e-7)  # control: a theta near by


def test_a_fixed_probability_costs_the_divergence_itself():
    theta, pressure = torch.tensor(THETA, dtype=torch.float64), FixedProbability(0.2)
    posterior, prior = (torch.distributions.Bernoulli(p) for p in (theta, torch.full_like(theta, 0.2)))
    expected = torch.distributions.kl_divergence(posterior, prior)
    torch.testing.assert_close(pressure.cost(theta), expected, rtol=0.0, atol=1e-13)
    assert pressure.prior(theta) is None and bool((pressure.best(theta) == 0.2).all())
    assert not torch.allclose(FixedProbability(0.21).cost(theta), expected, rtol=0.0, atol=1e-4)  # control


@pytest.mark.parametrize(
    ("pressure", "curvature"),
    [
        (Flattening(-2.0), lambda t: 0.0),
        (Flattening(7.0), lambda t: 0.0),
        (FixedProbability(0.2), lambda t: 1.0 / (t * (1.0 - t))),
        # Twice differentiated by hand: J'' = 1 / (t (1 - t)) - d logit(best) / dt.
        (BetaHyperPrior(2.0, 2.0), lambda t: 1.0 / (t * (1.0 - t)) - 3.0 / ((t + 1.0) * (2.0 - t))),
        (BetaHyperPrior(1.0, 5.0), lambda t: 1.0 / (t * (1.0 - t)) - 5.0 / (t * (5.0 - t))),
        (BetaHyperPrior(1.0, 1.0), lambda t: 0.0),  # uniform: the best pi is theta, and nothing presses
    ],
    # One name a row: the address of a lambda would be another in each process that shares the tests.
    ids=["flat", "flat-steep", "fixed", "beta-2-2", "beta-1-5", "uniform"],
)
def test_only_the_flattening_hyper_prior_is_straight_with_a_slope(pressure, curvature):
    for theta in (0.15, 0.5, 0.85):
        at = number(theta).requires_grad_()
        assert float(hessian(pressure.cost, at)) == pytest.approx(curvature(theta), abs=1e-10)
        (slope,) = torch.autograd.grad(pressure.cost(at), at)
        if isinstance(pressure, Flattening):
            assert float(slope) == pytest.approx(pressure.log_gamma, abs=1e-14)
        elif pressure == BetaHyperPrior(1.0, 1.0):
            assert float(slope) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pressure", EVERY, ids=repr)
def test_costs_and_slopes_are_finite_at_both_ends_and_right_beside_them(pressure, dtype):
    ends = torch.tensor([0.0, 1.0], dtype=dtype, requires_grad=True)
    costs = pressure.cost(ends)
    (slopes,) = torch.autograd.grad(costs.sum(), ends)
    costs = costs.detach()
    assert costs.dtype == dtype and bool(torch.isfinite(costs).all()) and bool(torch.isfinite(slopes).all())
    for end, cost in zip((1e-9, 1.0 - 1e-9), costs, strict=True):
        if pressure.prior(ends) is not None:
            assert float(cost) == pytest.approx(numerical_minimum(pressure, end)[0], abs=2e-4)
    if isinstance(pressure, Flattening):
        assert float(costs[1] - costs[0]) == pytest.approx(pressure.log_gamma, rel=1e-6)
    else:  # a curved cost draws theta off 1, and off 0 unless pi is likeliest there
        assert float(slopes[1]) > 5 and (float(slopes[0]) < -5) == (pressure != BetaHyperPrior(1.0, 5.0))


def test_each_gate_may_have_a_slope_of_its_own():
    theta = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    slopes = torch.tensor([0.5, 3.0, 40.0], dtype=torch.float64)
    together = Flattening(slopes)
    (found,) = torch.autograd.grad(together.cost(theta).sum(), theta)
    assert found.equal(slopes)
    for at, slope, cost, best in zip(theta, slopes, together.cost(theta), together.best(theta), strict=True):
        assert torch.equal(Flattening(float(slope)).cost(at), cost)
        assert torch.equal(Flattening(float(slope)).best(at), best)
